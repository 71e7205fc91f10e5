"""What a route of the administration API is: its path, what it takes and gives, who may use it. Serves nothing."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from msgspec import Meta

from embedgate.administration import Administration
from embedgate.core.access import Period, SubjectKind
from embedgate.core.errors import GatewayError
from embedgate.govern.operation import Declaration
from embedgate.wiring import Gateway

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Who = Literal["admin", "user", "anyone"]

PATH_TYPES: Mapping[str, Any] = {
    "user": Annotated[str, Meta(description="Name or id of the user.", examples=["alice"])],
    "role": Annotated[str, Meta(description="Name of the role.", examples=["analyst"])],
    "project": Annotated[str, Meta(description="Name or id of the project.", examples=["search"])],
    "key": Annotated[str, Meta(description="Id of the key.", examples=["key_0123456789abcdef"])],
    "policy": Annotated[str, Meta(description="Id of the policy.", examples=["analysts-may-embed"])],
    "kind": Annotated[SubjectKind, Meta(description="What the rule is for.", examples=["user"])],
    "subject": Annotated[
        str,
        Meta(
            description="Name or id of the user or project, id of the key, or `*` for each one of the kind.",
            examples=["alice"],
        ),
    ],
    "period": Annotated[Period, Meta(description="The UTC day, the UTC month, or all time.", examples=["month"])],
    "model": Annotated[
        str, Meta(description="Id of the model, or its bare name.", examples=["text-embedding-3-small"])
    ],
    "provider": Annotated[str, Meta(description="Name of the provider.", examples=["openai"])],
}
"""What stands in a path where it has a parameter."""

_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to a route: who asks, and what came with it, checked against the route.

    `path` has the parameters of the path by name. `query` and `body` are of the route's types, None without one.
    `user_id` is "" where anyone may ask. `secret` is the key or the access token that came with the request.
    """

    gateway: Gateway
    administration: Administration
    path: Mapping[str, Any]
    query: Any
    body: Any
    user_id: str
    ip_address: str
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `serve` blocks, unless it is an `async def`, which runs on the event loop.

    `name` is unique. `query` and `body` are struct types, `example` is a body. `gives` is the type of what `serve`
    returns, of the items if `is_list`; None for no body. `gives_file` says that it may return a File instead.
    `is_change` says that it may alter what is in force, so that the gateway follows before the answer leaves. `raises`
    are the errors that are its own, beside those of its kind of route.
    """

    method: Method
    path: str
    name: str
    summary: str
    serve: Callable[[Asked], Any]
    gives: Any
    description: str = ""
    who: Who = "admin"
    query: type | None = None
    body: type | None = None
    example: Mapping[str, object] = field(default_factory=dict)
    max_body_bytes: int = 1_000_000
    status: int = 200
    is_list: bool = False
    gives_file: bool = False
    is_change: bool = False
    raises: tuple[type[GatewayError], ...] = ()
    operation: Declaration | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in the path."""
        return tuple(_PARAMETER.findall(self.path))


def routes_of(operations: Iterable[Declaration]) -> tuple[Route, ...]:
    """The routes of declared operations."""
    return tuple(
        Route(
            operation.method,
            operation.path,
            operation.facts.id,
            operation.summary,
            _never,
            operation.gives,
            operation.description,
            who=operation.facts.who,
            query=operation.query,
            body=operation.body,
            example=operation.facts.example,
            max_body_bytes=operation.facts.max_body_bytes,
            status=operation.facts.status,
            is_list=operation.gives_list,
            gives_file=operation.gives_file,
            is_change=operation.is_change,
            raises=operation.facts.raises,
            operation=operation,
        )
        for operation in operations
    )


def _never(_: Asked) -> None:
    raise AssertionError("an operation is run as such")


class Table:
    """Routes by path and method."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """routes: with different methods or paths; of two that fit, the one with fewer parameters counts."""
        self.routes = tuple(routes)
        patterns: dict[str, dict[str, Route]] = {}
        for route in sorted(self.routes, key=lambda route: len(route.parameters)):
            patterns.setdefault(route.path, {})[route.method] = route
        self._patterns = [(path.split("/"), by_method) for path, by_method in patterns.items()]

    def find(self, raw_path: str) -> tuple[Mapping[str, Route], Mapping[str, str]] | None:
        """The routes of a path by method, and its parameters; None if there is no such path.

        raw_path: as it came, so that a name may have a slash in it, sent as `%2F`.
        """
        segments = [unquote(segment) for segment in raw_path.split("/")]
        for pattern, by_method in self._patterns:
            parameters = _match(pattern, segments)
            if parameters is not None:
                return by_method, parameters
        return None


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    parameters: dict[str, str] = {}
    for expected, segment in zip(pattern, segments, strict=True):
        if expected.startswith("{") and segment:
            parameters[expected[1:-1]] = segment
        elif expected != segment:
            return None
    return parameters
