"""Responder: runs one request and sends its answer. The only place that turns errors into HTTP."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from msgspec import Struct, field

from embedgate.core.chat import EVENT_STREAM
from embedgate.core.demand import Demand
from embedgate.core.errors import CallerLeft, GatewayError, InternalError
from embedgate.observe import events
from embedgate.server.answer import Answer
from embedgate.server.body import Body, BodyBounds, CallerGone, Receive
from embedgate.server.cors import Cors
from embedgate.server.exchange import Exchange, Send, exchange_of

Scope = dict[str, Any]
Serve = Callable[["Request"], Awaitable[Answer]]
"""Handler of one request: returns an answer or raises a GatewayError."""

_LISTS_OF_HOPS = frozenset({b"x-forwarded-for", b"forwarded"})
_ENDS_OF_EVENT = (b"\n\n", b"\r\n\r\n", b"\r\r")


class WritesErrors(Protocol):
    """The part of a dialect that writes errors."""

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error in the dialect's format."""
        ...


class Request(Struct, frozen=True):
    """One HTTP request: its id, its head, and its body, which is read on demand.

    `path` is decoded, `query` is not. `peer` is the address at the other end of the connection, "" if there is none.
    `demand` ends when the caller closes the connection. `outlives_caller`: its task is not cancelled then.
    """

    id: str
    method: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    body: Body
    peer: str = ""
    demand: Demand = field(default_factory=Demand)
    outlives_caller: bool = False


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

    def __init__(self, bounds: BodyBounds, cors: Cors | None = None) -> None:
        """bounds: of request bodies. cors: who else may read answers; nobody if absent."""
        self._bounds = bounds
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send, dialect: WritesErrors, serve: Serve) -> None:
        """Serve one request and send its answer, errors in the format of `dialect`."""
        request_id = new_request_id()
        headers = headers_of_request(scope["headers"])
        client, exchange = scope.get("client"), exchange_of(scope)
        body = Body(receive, headers, self._bounds, exchange)
        request = Request(
            id=request_id,
            method=scope["method"],
            path=scope["path"],
            query=scope.get("query_string", b""),
            headers=headers,
            body=body,
            peer=client[0] if client else "",
            demand=exchange.demand if exchange is not None else Demand(),
            outlives_caller=exchange is not None,
        )
        refuse = partial(_refusal, dialect, request_id)
        try:
            try:
                answer = await serve(request)
            except (CallerGone, CallerLeft) as error:
                _forget_frames(error)
                return
            except Exception as error:  # noqa: BLE001 - the edge of the process: every request gets an answer
                answer = refuse(error)
                _forget_frames(error)
            if self._cors is not None:
                answer = self._cors.marked(answer, headers)
            await send_answer(send, answer, refuse, exchange)
        finally:
            if body.is_busy:
                await body.close()


def _refusal(dialect: WritesErrors, request_id: str, error: Exception) -> Answer:
    """The answer to an error. Internal faults are logged, and the caller gets no details."""
    if isinstance(error, GatewayError) and not isinstance(error, InternalError):
        return dialect.write_error(error, request_id)
    events.INTERNAL_FAULT.emit_fault(error.__cause__ or error, request_id=request_id)
    ours = error if isinstance(error, InternalError) else InternalError("unexpected")
    return dialect.write_error(ours, request_id)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the frames that an error came through, once it is answered.

    They hold the request, and the request's record holds the error: the collector may leave such a cycle for minutes,
    with all texts of the request in it.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


async def send_answer(
    send: Send, answer: Answer, refuse: Callable[[Exception], Answer], exchange: Exchange | None = None
) -> None:
    """Send an answer, large bodies piece by piece so that other requests run in between.

    refuse: makes the answer to an error; in an event stream it is the last event. exchange: takes whole answers.
    """
    if answer.stream is not None:
        await _send_stream(send, answer, answer.stream, refuse, exchange)
        return
    following = next(answer.pieces, None) if answer.pieces else None
    headers = answer.headers
    if following is None:
        if exchange is not None and exchange.write(answer.status, headers, answer.body):
            return
        headers = [*headers, (b"content-length", b"%d" % len(answer.body))]
    elif exchange is not None:
        send = exchange.framed(send)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if following is None:
        await send({"type": "http.response.body", "body": answer.body})
        return
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    while following is not None:
        if exchange is not None and exchange.has_ended:
            return  # pieces for nobody
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": following, "more_body": True})
        following = next(answer.pieces, None) if answer.pieces else None
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_stream(
    send: Send,
    answer: Answer,
    stream: AsyncGenerator[bytes, None],
    refuse: Callable[[Exception], Answer],
    exchange: Exchange | None,
) -> None:
    if exchange is not None:
        send = exchange.framed(send)
    end = answer.body
    try:
        async with contextlib.aclosing(stream):
            if exchange is None or not exchange.begin(answer.status, answer.headers, answer.body):
                await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
                if answer.body:
                    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
            async for piece in stream:
                if exchange is not None and exchange.has_ended:
                    return  # pieces for nobody
                end = piece
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    except CallerLeft:
        return
    except Exception as error:
        of_events = EVENT_STREAM.encode()
        if not any(name == b"content-type" and value.startswith(of_events) for name, value in answer.headers):
            raise  # closes the connection: the only sign that such an answer is incomplete
        await send({"type": "http.response.body", "body": _last_event(end, refuse(error)), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _last_event(before: bytes, refusal: Answer) -> bytes:
    """An error as an event. before: what was sent last; an incomplete event in it is ended first."""
    lead = b"" if not before or before.endswith(_ENDS_OF_EVENT) else b"\n\n"
    return b"%sdata: %s\n\n" % (lead, refusal.body)
