"""Serves the routes of the administration API: who asks, does it fit, run it, answer in the flat shape of `/api/`.

Owns no route.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from embedgate.core.errors import ConfigError, Conflict, MalformedRequest, MethodNotAllowed, NotPermitted
from embedgate.govern.change import STRANGER, Actor
from embedgate.govern.logins import ACCESS_PREFIX, user_of_login
from embedgate.govern.operation import Declaration, File, Given
from embedgate.govern.query import query_fields, read_query
from embedgate.server.admin.follow import follow
from embedgate.server.admin.route import PATH_TYPES, Asked, Route, Table
from embedgate.server.answer import JSON, PIECE_BYTES, Answer, Headers
from embedgate.server.dialects import openai, ziri
from embedgate.server.respond import Request, Serve
from embedgate.wiring import Gateway

_CSV = (b"content-type", b"text/csv; charset=utf-8")


class AdminApi:
    """The administration API of one gateway."""

    def __init__(self, gateway: Gateway, table: Table, address_of: Callable[[Request], str]) -> None:
        """address_of: where a request comes from."""
        self._gateway = gateway
        self._table = table
        self._address_of = address_of

    def find(self, method: str, raw_path: str) -> Serve | None:
        """The handler of a path; one that refuses if the method is wrong; None if there is no such path.

        raw_path: as it came, not decoded.
        """
        found = self._table.find(raw_path)
        if found is None:
            return None
        by_method, parameters = found
        route = by_method.get("GET" if method == "HEAD" else method)
        if route is None:
            return partial(_refuse, method, tuple(by_method))
        return partial(self._serve, route, parameters)

    async def _serve(self, route: Route, parameters: Mapping[str, str], request: Request) -> Answer:
        secret = openai.secret(request.headers) or ""
        user_id = STRANGER if route.who == "anyone" else await self._identify(route, secret)
        if route.operation is not None:
            actor = Actor(user_id, request.id, self._address_of(request))
            return await self._run(route.operation, parameters, request, actor, secret)
        asked = Asked(
            gateway=self._gateway,
            administration=self._gateway.administration(user_id, request.id),
            path={name: _converted(text, PATH_TYPES[name], name) for name, text in parameters.items()},
            query=_query(route, request.query),
            body=_body(route, await request.body.read(route.max_body_bytes)) if route.body is not None else None,
            user_id=user_id,
            ip_address=self._address_of(request),
            secret=secret,
        )
        try:
            if inspect.iscoroutinefunction(route.serve):
                result = await route.serve(asked)
            else:
                result = await asyncio.to_thread(route.serve, asked)
        except ConfigError as error:  # of the gateway's own set-up, such as a master key that is gone
            raise Conflict(f"{error}.") from error
        if route.is_change:
            await follow(self._gateway)
        return _answer(route, result, request.id)

    async def _run(
        self, operation: Declaration, parameters: Mapping[str, str], request: Request, actor: Actor, secret: str
    ) -> Answer:
        body = await request.body.read(operation.facts.max_body_bytes) if operation.body is not None else b""
        invocation = self._gateway.invocation(actor, secret)
        given = Given(parameters, request.query, body)
        try:
            result = await asyncio.to_thread(operation.answer, invocation, given)
        except ConfigError as error:  # of the gateway's own set-up, such as a master key that is gone
            raise Conflict(f"{error}.") from error
        await self._gateway.follow(invocation.touched)
        return _answer_of(operation, result, request.id)

    async def _identify(self, route: Route, secret: str) -> str:
        """The id of the user whose key or login this is. Raises an AccessError, also if the route is not for it."""
        if secret.startswith(ACCESS_PREFIX):
            invocation = self._gateway.invocation(Actor(STRANGER))
            user = await asyncio.to_thread(user_of_login, invocation, secret)
            user_id, is_admin = user.id, user.is_admin
        else:
            caller = await self._gateway.pipeline.identify(secret or None)
            user_id, is_admin = caller.user_id, caller.is_admin
        if route.who == "admin" and not is_admin:
            raise NotPermitted("This is for administrators. Use an administrator's key or login.")
        return user_id


def _query(route: Route, raw: bytes) -> Any:
    if route.query is not None:
        return read_query(raw, route.query)
    if given := query_fields(raw):
        raise MalformedRequest(f"This route takes no {min(given)[:100]!r} in its query.", param=min(given)[:100])
    return None


def _body(route: Route, raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw or b"{}", type=route.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"The body does not fit: {error}.", param="body") from error


def _converted(given: Any, kind: Any, what: str) -> Any:
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise MalformedRequest(f"The {what} does not fit: {error}.", param=what) from error


def _answer(route: Route, result: Any, request_id: str) -> Answer:
    headers = headers_of(request_id)
    others = [header for header in headers if header != JSON]
    if isinstance(result, File):
        return Answer(200, [_CSV, *others], b"", stream=_pieces(result.pieces))
    if route.gives is None:
        return Answer(204, others, b"")
    return Answer(route.status, headers, msgspec.json.encode(result))


def _answer_of(operation: Declaration, result: object, request_id: str) -> Answer:
    headers = headers_of(request_id)
    others = [header for header in headers if header != JSON]
    if isinstance(result, File):
        return Answer(200, [_CSV, *others], b"", stream=_pieces(result.pieces))
    if operation.gives is None:
        return Answer(204, others, b"")
    return Answer(operation.facts.status, headers, msgspec.json.encode(result))


def headers_of(request_id: str) -> Headers:
    """What every answer carries but those to refusals. It may hold a secret, so nothing on its way may keep it."""
    return [*ziri.headers(request_id), (b"cache-control", b"no-store")]


async def _pieces(lines: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The lines joined to pieces, each made on a worker thread: it may come from the database."""
    while piece := await asyncio.to_thread(_piece, lines):
        yield piece


def _piece(lines: Iterator[bytes]) -> bytes:
    parts, size = [], 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size >= PIECE_BYTES:
            break
    return b"".join(parts)


async def _refuse(method: str, allowed: tuple[str, ...], request: Request) -> Answer:
    raise MethodNotAllowed(f"{request.path[:200]} takes {', '.join(allowed)}, not {method}.", allowed=allowed)
