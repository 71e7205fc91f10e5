"""Responder: runs one request and sends its answer. The only place that turns errors into HTTP."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from msgspec import Struct, field

from embedgate.core.demand import Demand
from embedgate.core.errors import BodyTooLarge, BodyTooSlow, CallerLeft, GatewayError, InternalError
from embedgate.observe import events
from embedgate.server.answer import EVENT_STREAM, Answer
from embedgate.server.exchange import Exchange, exchange_of

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Serve = Callable[["Request"], Awaitable[Answer]]
"""Handler of one request: returns an answer or raises a GatewayError."""

_LISTS_OF_HOPS = frozenset({b"x-forwarded-for", b"forwarded"})
_ENDS_OF_EVENT = (b"\n\n", b"\r\n\r\n", b"\r\r")


class WritesErrors(Protocol):
    """The part of a dialect that writes errors."""

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error in the dialect's format."""
        ...


class CallerGone(Exception):
    """The client closed the connection before its request had arrived."""


class Body:
    """Body of one request, read on demand within a size and a time; then watches for a disconnect."""

    def __init__(
        self,
        receive: Receive,
        headers: Mapping[bytes, bytes],
        max_bytes: int,
        timeout_s: float,
        exchange: Exchange | None = None,
    ) -> None:
        """max_bytes, timeout_s: the limits; a declared length over the limit is refused without reading."""
        self._receive = receive
        self._exchange = exchange
        self._declared = headers.get(b"content-length", b"")
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._advice = "Send fewer inputs per request, or raise server.max_body_bytes."
        self._watch: asyncio.Task[None] | None = None

    async def read(self, max_bytes: int | None = None) -> bytes:
        """The whole body. max_bytes: a tighter limit than the general one.

        Raises BodyTooLarge, BodyTooSlow or CallerGone.
        """
        if max_bytes is not None:
            self._max_bytes = min(self._max_bytes, max_bytes)
            self._advice = "Send less in one request."
        if self._declared.isdigit() and int(self._declared) > self._max_bytes:
            raise self._too_large(int(self._declared))
        if self._exchange is not None and (whole := self._exchange.take_body()) is not None:
            return self._bounded(whole)
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

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when the caller disconnects. Only once the body is read; until `unwatch`."""
        self._watch = asyncio.get_running_loop().create_task(self._until_gone(gone))

    async def unwatch(self) -> None:
        """Stop watching: the answer is complete."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    async def _until_gone(self, gone: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        gone()

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
    """One HTTP request: its id, its head, and its body, which is read on demand.

    `path` is decoded, `query` is not. `peer` is the address at the other end of the connection, "" if there is none.
    `demand` ends when the caller closes the connection.
    """

    id: str
    method: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    body: Body
    peer: str = ""
    demand: Demand = field(default_factory=Demand)


def headers_of_request(lines: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name, from lines with names in lower case.

    Lines of a list of hops are joined in their order, as RFC 9110 (5.3) says; of any other header the last line counts.
    """
    found = dict(lines)
    if len(found) < len(lines):
        for name in _LISTS_OF_HOPS & found.keys():
            found[name] = b", ".join([value for each, value in lines if each == name])
    return found


def new_request_id() -> str:
    """A fresh id: `req_` and 32 hex digits."""
    return f"req_{random.getrandbits(128):032x}"


class Responder:
    """Responder: turns a handler's answer, or any exception, into an HTTP answer."""

    def __init__(self, max_body_bytes: int, body_timeout_s: float) -> None:
        """Limits of request bodies."""
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send, dialect: WritesErrors, serve: Serve) -> None:
        """Serve one request and send its answer, errors in the format of `dialect`."""
        request_id = new_request_id()
        headers = headers_of_request(scope["headers"])
        client, exchange = scope.get("client"), exchange_of(scope)
        request = Request(
            id=request_id,
            method=scope["method"],
            path=scope["path"],
            query=scope.get("query_string", b""),
            headers=headers,
            body=Body(receive, headers, self._max_body_bytes, self._body_timeout_s, exchange),
            peer=client[0] if client else "",
            demand=exchange.demand if exchange is not None else Demand(),
        )
        refuse = partial(_refusal, dialect, request_id)
        try:
            try:
                answer = await serve(request)
            except (CallerGone, CallerLeft):
                return
            except Exception as error:  # noqa: BLE001 - the edge of the process: every request gets an answer
                answer = refuse(error)
            await send_answer(send, answer, refuse, exchange)
        finally:
            await request.body.unwatch()


def _refusal(dialect: WritesErrors, request_id: str, error: Exception) -> Answer:
    """The answer to an error. Internal faults are logged, and the caller gets no details."""
    if isinstance(error, GatewayError) and not isinstance(error, InternalError):
        return dialect.write_error(error, request_id)
    events.INTERNAL_FAULT.emit_fault(error.__cause__ or error, request_id=request_id)
    ours = error if isinstance(error, InternalError) else InternalError("unexpected")
    return dialect.write_error(ours, request_id)


async def send_answer(
    send: Send, answer: Answer, refuse: Callable[[Exception], Answer], exchange: Exchange | None = None
) -> None:
    """Send an answer, large bodies piece by piece so that other requests run in between.

    refuse: makes the answer to an error; in an event stream it is the last event. exchange: takes whole answers.
    """
    if answer.stream is not None:
        await _send_stream(send, answer, answer.stream, refuse)
        return
    following = next(answer.pieces, None) if answer.pieces else None
    headers = answer.headers
    if following is None:
        if exchange is not None and exchange.write(answer.status, headers, answer.body):
            return
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


async def _send_stream(
    send: Send, answer: Answer, stream: AsyncGenerator[bytes, None], refuse: Callable[[Exception], Answer]
) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    end = b""
    try:
        async with contextlib.aclosing(stream):
            async for piece in stream:
                end = piece
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    except CallerLeft:
        return
    except Exception as error:
        if not any(name == b"content-type" and value.startswith(EVENT_STREAM) for name, value in answer.headers):
            raise  # closes the connection: the only sign that such an answer is incomplete
        await send({"type": "http.response.body", "body": _last_event(end, refuse(error)), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _last_event(before: bytes, refusal: Answer) -> bytes:
    """An error as an event. before: what was sent last; an incomplete event in it is ended first."""
    lead = b"" if not before or before.endswith(_ENDS_OF_EVENT) else b"\n\n"
    return b"%sdata: %s\n\n" % (lead, refusal.body)
