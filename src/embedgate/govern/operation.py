"""Operations of administration, declared once with types: name, HTTP route, parameters, result, errors.

The HTTP API, its part of the OpenAPI document, the commands of the program and their JSON all come from these
declarations. An operation blocks: it runs on a worker thread, or in the process of a command.

    @changes("projects.create", "POST", "/api/projects", Facts("createProject", status=201))
    def create_project(change: Change, new: NewProject) -> Project:
        '''Add a project.'''

Its parameters are one struct. Fields that the path names come from there, the others from the query of a GET or a
DELETE and from the body of any other method. The docstring is its summary, an empty line, its description.
"""

import functools
import inspect
import re
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Struct

from embedgate.core.errors import GatewayError, MalformedRequest
from embedgate.govern.change import Change, Invocation, Reading
from embedgate.govern.lists import Listed
from embedgate.govern.query import query_fields, read_query

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Who = Literal["admin", "user", "anyone"]

P = TypeVar("P", bound=Struct)
R = TypeVar("R")
AnyStruct = TypeVar("AnyStruct", bound=Struct)

_PARAMETER = re.compile(r"\{(\w+)\}")


class NoParameters(Struct, forbid_unknown_fields=True):
    """The parameters of an operation that takes none."""


@dataclass(frozen=True, slots=True)
class File:
    """An answer for programs that read tables: CSV in pieces, which are made while they are taken."""

    pieces: Iterator[bytes]


def no_file(result: R | File) -> R:
    """The result of an operation that was not asked for a file, but could give one."""
    if isinstance(result, File):
        raise TypeError("no file was asked for")
    return result


@dataclass(frozen=True, slots=True)
class Given:
    """What came with an HTTP request: parameters of the path by name, the raw query, the raw body."""

    path: Mapping[str, str]
    query: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """What is declared of an operation besides its types.

    id: unique name in the OpenAPI document. status: of a good answer that has a body. who: may use it. example: of its
    body. raises: errors besides those that every operation of its kind has.
    """

    id: str
    status: int = 200
    who: Who = "admin"
    example: Mapping[str, object] = field(default_factory=dict)
    raises: tuple[type[GatewayError], ...] = ()
    max_body_bytes: int = 1_000_000


class Declaration(ABC):
    """One operation, as those see it that know neither the type of its parameters nor that of its result.

    name: subject and verb, such as `users.create`. takes: the struct of its parameters; `query` and `body` are the
    parts of it that come from there. gives: the type of its result, of one item if it `gives_list`, None for an answer
    without a body.
    """

    def __init__(self, name: str, method: Method, path: str, facts: Facts, function: Callable[..., object]) -> None:
        """function: takes a transaction or an invocation, and the parameters."""
        hints = get_type_hints(function, include_extras=True)
        summary, _, description = inspect.cleandoc(function.__doc__ or "").partition("\n\n")
        self.name = name
        self.method = method
        self.path = path
        self.facts = facts
        self.summary = summary.removesuffix(".")
        self.description = " ".join(description.split())
        self.path_parameters = tuple(_PARAMETER.findall(path))
        self.takes: type[Struct] = hints[list(inspect.signature(function).parameters)[1]]
        results = _alternatives(hints["return"])
        self.gives_file = File in results
        self.gives_list = get_origin(results[0]) is Listed
        self.gives: type | None = get_args(results[0])[0] if self.gives_list else results[0]
        if self.gives is type(None):
            self.gives = None
        others = _without(self.takes, self.path_parameters) if self.path_parameters else self.takes
        has_others, has_body = bool(others.__struct_fields__), method in ("POST", "PUT", "PATCH")
        self.body = others if has_others and has_body else None
        self.query = others if has_others and not has_body else None

    @property
    @abstractmethod
    def is_change(self) -> bool:
        """Whether it changes something."""

    @abstractmethod
    def answer(self, invocation: Invocation, given: Given) -> object:
        """Run it with what came over HTTP. Raises MalformedRequest if that does not fit, and what it raises."""


class Operation(Declaration, Generic[P, R]):
    """One operation with its types. Made by `reads`, `changes` and `runs`."""

    def __init__(
        self,
        declared: tuple[str, Method, str, Facts],
        function: Callable[[Any, P], R],
        run: Callable[[Invocation, P], R],
        *,
        is_change: bool,
    ) -> None:
        """declared: name, method, path, facts. run: calls the function as it wants to be called."""
        super().__init__(*declared, function)
        self._run = run
        self._is_change = is_change
        self._takes: type[P] = self.takes  # type: ignore[assignment]  # read from the annotations of the function
        self._result = _alternatives(get_type_hints(function, include_extras=True)["return"])[0]

    @property
    def is_change(self) -> bool:
        """Whether it changes something."""
        return self._is_change

    def run(self, invocation: Invocation, parameters: P) -> R:
        """Run it, in transactions of its own. Blocks. Raises a GatewayError, or ConfigError."""
        return self._run(invocation, parameters)

    def answer(self, invocation: Invocation, given: Given) -> R:
        """Run it with what came over HTTP. Raises MalformedRequest if that does not fit, and what it raises."""
        return self._run(invocation, self._parse(given))

    def make(self, fields: Mapping[str, object]) -> P:
        """Its parameters of fields by name. Raises msgspec.ValidationError if they do not fit."""
        return msgspec.convert(msgspec.to_builtins(self._construct(fields)), self._takes)

    def read(self, body: bytes) -> R:
        """The result in the body of a gateway's good answer. Raises msgspec.DecodeError if it is none."""
        kind: type[R] = self._result
        return msgspec.json.decode(body or b"null", type=kind)

    def _construct(self, fields: Mapping[str, object]) -> P:
        construct: Callable[..., P] = self._takes
        return construct(**fields)

    def _parse(self, given: Given) -> P:
        fields: dict[str, object] = {}
        for parameter in msgspec.structs.fields(self.takes):
            if parameter.name in given.path:
                fields[parameter.name] = _convert(given.path[parameter.name], parameter.type, parameter.name)
        if self.query is not None:
            fields |= _fields_of(read_query(given.query, self.query))
        elif extra := query_fields(given.query):
            name = min(extra)[:100]
            raise MalformedRequest(f"This route takes no {name!r} in its query.", param=name)
        if self.body is not None:
            fields |= _fields_of(_decode(given.body, self.body))
        return self._construct(fields)


def reads(name: str, method: Method, path: str, facts: Facts) -> Callable[[Callable[[Reading, P], R]], Operation[P, R]]:
    """Declare an operation that reads, in one transaction."""

    def declare(function: Callable[[Reading, P], R]) -> Operation[P, R]:
        def run(invocation: Invocation, parameters: P) -> R:
            with invocation.read() as reading:
                return function(reading, parameters)

        return Operation((name, method, path, facts), function, run, is_change=False)

    return declare


def changes(
    name: str, method: Method, path: str, facts: Facts
) -> Callable[[Callable[[Change, P], R]], Operation[P, R]]:
    """Declare an operation that changes something, in one transaction with its audit events."""

    def declare(function: Callable[[Change, P], R]) -> Operation[P, R]:
        def run(invocation: Invocation, parameters: P) -> R:
            with invocation.change() as change:
                return function(change, parameters)

        return Operation((name, method, path, facts), function, run, is_change=True)

    return declare


def runs(
    name: str, method: Method, path: str, facts: Facts, *, is_change: bool = False
) -> Callable[[Callable[[Invocation, P], R]], Operation[P, R]]:
    """Declare an operation that is not one transaction: it begins its own, or none."""

    def declare(function: Callable[[Invocation, P], R]) -> Operation[P, R]:
        return Operation((name, method, path, facts), function, function, is_change=is_change)

    return declare


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the type alone if it is none."""
    return get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)


@functools.cache
def _without(takes: type[Struct], names: tuple[str, ...]) -> type[Struct]:
    """The struct without these fields, under the same name: the body or the query of all that take it."""
    fields: list[Any] = []
    for parameter in msgspec.structs.fields(takes):
        if parameter.name in names:
            continue
        if parameter.default is not NODEFAULT:
            fields.append((parameter.name, parameter.type, parameter.default))
        elif parameter.default_factory is not NODEFAULT:
            fields.append((parameter.name, parameter.type, msgspec.field(default_factory=parameter.default_factory)))
        else:
            fields.append((parameter.name, parameter.type))
    namespace = {"__doc__": takes.__doc__}
    return msgspec.defstruct(takes.__name__, fields, namespace=namespace, forbid_unknown_fields=True, kw_only=True)


def _fields_of(struct: Struct) -> dict[str, object]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def _decode(raw: bytes, kind: type[AnyStruct]) -> AnyStruct:
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"The body does not fit: {error}.", param="body") from error


def _convert(given: str, kind: type, what: str) -> object:
    try:
        converted: object = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise MalformedRequest(f"The {what} does not fit: {error}.", param=what) from error
    return converted
