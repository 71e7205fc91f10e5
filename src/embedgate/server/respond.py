"""Runs one request of a dialect and writes its answer to the socket. The only place that turns errors into HTTP."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from embedgate import telemetry
from embedgate.core.errors import BodyTooLarge, BodyTooSlow, GatewayError, InternalError
from embedgate.server.answer import Answer

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Serve = Callable[["Request"], Awaitable[Answer]]
"""Serves one request: gives an answer or raises a GatewayError."""


class WritesErrors(Protocol):
    """The part of a dialect that answers refusals."""

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error in the dialect's own shape."""
        ...


class CallerGone(Exception):
    """The client closed the connection before its request had arrived."""


class Body:
    """The body of one request, read when someone asks for it, within a size and a time."""

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int, timeout_s: float) -> None:
        """max_bytes, timeout_s: the bounds; a declared length over the bound is refused without reading."""
        self._receive = receive
        self._declared = headers.get(b"content-length", b"")
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._advice = "Send fewer inputs per request, or raise server.max_body_bytes."

    async def read(self, max_bytes: int | None = None) -> bytes:
        """The whole body. max_bytes: a closer bound than the one of all bodies.

        Raises BodyTooLarge, BodyTooSlow or CallerGone.
        """
        if max_bytes is not None:
            self._max_bytes = min(self._max_bytes, max_bytes)
            self._advice = "Send less in one request."
        if self._declared.isdigit() and int(self._declared) > self._max_bytes:
            raise self._too_large(int(self._declared))
        # The common body is one chunk that is here already: no timer is needed for it.
        deadline_s = time.monotonic() + self._timeout_s
        chunk, has_more = await self._chunk(deadline_s)
        if not has_more:
            return self._bounded(chunk)
        parts, size = [chunk], len(chunk)
        while has_more:
            chunk, has_more = await self._chunk(deadline_s)
            parts.append(chunk)
            size += len(chunk)
            if size > self._max_bytes:
                raise self._too_large(size)
        return b"".join(parts)

    async def _chunk(self, deadline_s: float) -> tuple[bytes, bool]:
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            raise BodyTooSlow(
                f"The body did not arrive within {self._timeout_s:g} seconds; send it faster or in smaller requests."
            ) from error
        if message["type"] == "http.disconnect":
            raise CallerGone
        return message.get("body", b""), message.get("more_body", False)

    def _bounded(self, body: bytes) -> bytes:
        if len(body) > self._max_bytes:
            raise self._too_large(len(body))
        return body

    def _too_large(self, size_bytes: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"The body has {size_bytes} bytes or more; at most {self._max_bytes} are taken. {self._advice}"
        )


class Request(Struct, frozen=True):
    """One HTTP request: its id, its head, and its body, which is read when asked for.

    `path` is decoded, `query` is not. `peer` is the address at the other end of the connection, "" if there is none.
    """

    id: str
    method: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    body: Body
    peer: str = ""


def new_request_id() -> str:
    """A fresh id: `req_` and 32 hex digits."""
    return f"req_{random.getrandbits(128):032x}"


class Responder:
    """The edge of the process: every fault of a request ends here as an answer."""

    def __init__(self, max_body_bytes: int, body_timeout_s: float) -> None:
        """Bounds of request bodies."""
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send, dialect: WritesErrors, serve: Serve) -> None:
        """Serve one request and send its answer, errors in the shape of `dialect`."""
        request_id = new_request_id()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        client = scope.get("client")
        request = Request(
            id=request_id,
            method=scope["method"],
            path=scope["path"],
            query=scope.get("query_string", b""),
            headers=headers,
            body=Body(receive, headers, self._max_body_bytes, self._body_timeout_s),
            peer=client[0] if client else "",
        )
        try:
            answer = await serve(request)
        except GatewayError as error:
            if isinstance(error, InternalError):
                _report(error, request_id)
            answer = dialect.write_error(error, request_id)
        except CallerGone:
            return
        except Exception as error:  # noqa: BLE001 - the edge of the process: nothing may leave it unanswered
            _report(error, request_id)
            answer = dialect.write_error(InternalError("unexpected"), request_id)
        await send_answer(send, answer)


def _report(error: Exception, request_id: str) -> None:
    cause = error.__cause__ or error
    telemetry.INTERNAL_FAULT.emit_fault(cause, request_id=request_id)


async def send_answer(send: Send, answer: Answer) -> None:
    """Write an answer, large bodies piece by piece so that other requests get their turn between."""
    if answer.stream is not None:
        await _send_stream(send, answer, answer.stream)
        return
    following = next(answer.pieces, None) if answer.pieces else None
    headers = answer.headers
    if following is None:
        headers = [*headers, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if following is None:
        await send({"type": "http.response.body", "body": answer.body})
        return
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    while following is not None:
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": following, "more_body": True})
        following = next(answer.pieces, None) if answer.pieces else None
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_stream(send: Send, answer: Answer, stream: AsyncIterator[bytes]) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    async for piece in stream:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
