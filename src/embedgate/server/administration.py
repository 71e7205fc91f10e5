"""Serves the declared operations of administration over HTTP: who asks, whether it may, run it, answer.

Errors have the flat shape of the ZIRI API. What an operation takes and gives is its own declaration's matter.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from functools import partial
from urllib.parse import unquote

import msgspec

from embedgate.core.errors import ConfigError, Conflict, MethodNotAllowed, NotPermitted
from embedgate.govern.change import STRANGER, Actor
from embedgate.govern.logins import ACCESS_PREFIX, user_of_login
from embedgate.govern.operation import Declaration, File, Given
from embedgate.server.answer import PIECE_BYTES, Answer, Headers, untyped
from embedgate.server.dialects import openai, ziri
from embedgate.server.gate import neighbourhood
from embedgate.server.respond import Request, Serve
from embedgate.server.same_site import check_same_site
from embedgate.server.work_queue import WorkQueue
from embedgate.wiring import Gateway

_LOGIN_THREADS = 4
"""As many as passwords are checked at once."""
_EXPORT_THREADS = 2
_EXPORTS_OF = 10
"""Exports at once: a tenth of the requests. Each takes seconds, and as long as its caller takes to read it."""
_CSV = (b"content-type", b"text/csv; charset=utf-8")


class AdminApi:
    """The administration API of one gateway. Operations run on worker threads, within the bounds of three queues.

    What anyone may ask for, a login, has a queue of its own, so that strangers keep no administrator waiting; so have
    exports, which are slow.
    """

    def __init__(
        self,
        gateway: Gateway,
        operations: Iterable[Declaration],
        address_of: Callable[[Request], str],
        queue: WorkQueue,
    ) -> None:
        """operations: with different methods or paths. address_of: where a request comes from. queue: for callers who
        are known.
        """
        self._gateway = gateway
        self._routes = Routes(operations)
        self._address_of = address_of
        self._queue = queue
        most = gateway.settings.server.max_admin_requests
        self._logins = WorkQueue("logins", _LOGIN_THREADS, most)
        self._exports = WorkQueue("exports", _EXPORT_THREADS, max(1, most // _EXPORTS_OF), "exports")

    def close(self) -> None:
        """End the threads of logins and of exports."""
        self._logins.close()
        self._exports.close()

    def find(self, method: str, raw_path: str) -> Serve | None:
        """The handler of a path; one that refuses if the method is wrong; None if there is no such path.

        raw_path: as it came, not decoded.
        """
        found = self._routes.find(raw_path)
        if found is None:
            return None
        by_method, parameters = found
        operation = by_method.get("GET" if method == "HEAD" else method)
        if operation is None:
            return partial(_refuse, method, tuple(by_method))
        return partial(self._serve, operation, parameters)

    async def _serve(self, operation: Declaration, parameters: Mapping[str, str], request: Request) -> Answer:
        secret = openai.secret(request.headers) or ""
        address = self._address_of(request)
        if operation.facts.who == "anyone":
            check_same_site(request, self._gateway.settings.access.login_origins)
            user_id, queue, asker = STRANGER, self._logins, neighbourhood(address)
        else:
            user_id, queue = await self._identify(operation, request, secret), self._queue
            asker = user_id
        body = await request.body.read(operation.facts.max_body_bytes) if operation.body is not None else b""
        invocation = self._gateway.invocation(Actor(user_id, request.id, address), secret)
        given = Given(parameters, request.query, body)
        try:
            with queue.place(asker):
                result = await queue.run(partial(operation.answer, invocation, given), request.demand)
        except ConfigError as error:  # of the gateway's own set-up, such as a master key that is gone
            raise Conflict(f"{error}.") from error
        finally:
            # Also after a failure: a refused refresh of a login has ended that login.
            await self._gateway.follow(invocation.touched)
        if isinstance(result, File):
            return await self._file(result, asker, request.id)
        return self._answer(operation, result, request.id)

    async def _file(self, file: File, asker: str, request_id: str) -> Answer:
        """The answer with a file, which is made as it is read. Raises Overloaded if too many are made."""
        pieces = self._pieces(file.pieces, asker)
        await anext(pieces)  # what fails before its first piece is there has an answer
        return Answer(200, [_CSV, *untyped(headers_of(request_id))], b"", stream=pieces)

    async def _identify(self, operation: Declaration, request: Request, secret: str) -> str:
        """The id of the user whose key or login this is. Raises an AccessError, also if the operation is not for it."""
        if secret.startswith(ACCESS_PREFIX):
            invocation = self._gateway.invocation(Actor(STRANGER, request.id))
            with self._queue.place(neighbourhood(self._address_of(request))):
                user = await self._queue.run(partial(user_of_login, invocation, secret), request.demand)
            user_id, is_admin = user.id, user.is_admin
        else:
            caller = await self._gateway.pipeline.identify(secret or None)
            user_id, is_admin = caller.user_id, caller.is_admin
        if operation.facts.who == "admin" and not is_admin:
            raise NotPermitted("This is for administrators. Use an administrator's key or login.")
        return user_id

    def _answer(self, operation: Declaration, result: object, request_id: str) -> Answer:
        headers = headers_of(request_id)
        if operation.gives is None:
            return Answer(204, untyped(headers), b"")
        return Answer(operation.facts.status, headers, msgspec.json.encode(result))

    async def _pieces(self, lines: Iterator[bytes], asker: str) -> AsyncGenerator[bytes, None]:
        """The lines joined to pieces, each made on a worker thread: it may come from the database.

        They have a place among the exports to their end, however slowly they are read. The first to come is empty: it
        says that the place is taken.
        """
        with self._exports.place(asker):
            piece = await self._exports.run(partial(_piece, lines))
            yield b""
            while piece:
                yield piece
                piece = await self._exports.run(partial(_piece, lines))


class Routes:
    """Operations by path and method. Of two paths that fit, the one with fewer parameters counts."""

    def __init__(self, operations: Iterable[Declaration]) -> None:
        patterns: dict[str, dict[str, Declaration]] = {}
        for operation in sorted(operations, key=lambda operation: len(operation.path_parameters)):
            patterns.setdefault(operation.path, {})[operation.method] = operation
        self._patterns = [(path.split("/"), by_method) for path, by_method in patterns.items()]

    def find(self, raw_path: str) -> tuple[Mapping[str, Declaration], Mapping[str, str]] | None:
        """The operations of a path by method, and its parameters; None if there is no such path.

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


def headers_of(request_id: str) -> Headers:
    """Headers of every successful answer. It may hold a secret, so no proxy may store it."""
    return [*ziri.headers(request_id), (b"cache-control", b"no-store")]


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
