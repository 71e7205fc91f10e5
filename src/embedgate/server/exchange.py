"""Exchange of one request with its socket past ASGI's messages: a body that is here already, an answer that is whole.

Most requests and answers are one piece each. ASGI then costs two coroutines, two writes and a check of every header;
this costs one write. The connection puts it into the scope; without it everything goes the usual way.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from embedgate.core.demand import Demand
from embedgate.server.answer import Answer
from embedgate.server.memory import Held

Send = Callable[[dict[str, Any]], Awaitable[None]]
EXCHANGE = "embedgate.exchange"
"""Its name among the extensions of a scope."""


class ClosesEarly(Protocol):
    """Protocol of a connection that can be closed before a request has arrived whole."""

    def close_early(self) -> None:
        """Close once the answer is sent; read and forget the rest of the request until then."""
        ...


class Exchange:
    """Takes a whole body and writes a whole answer in one step, where that is possible.

    `demand` ends when the caller closes the connection.
    """

    __slots__ = ("_connection", "_cycle", "demand", "held")

    def __init__(self, cycle: RequestResponseCycle, connection: ClosesEarly) -> None:
        """cycle: of uvicorn, before its application has begun."""
        self._cycle = cycle
        self._connection = connection
        self.demand = Demand()
        self.held: Held | None = None
        """What the request holds of the memory budget, if it is worth weighing."""

    @property
    def has_ended(self) -> bool:
        """Whether the caller has gone, or has its whole answer."""
        return self._cycle.disconnected or self._cycle.response_complete

    def take_body(self) -> bytes | None:
        """The body, if all of it is here and nobody has read of it; else None."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue:
            return None
        cycle.flow.resume_reading()
        body = bytes(cycle.body)
        cycle.body = bytearray()
        return body

    def framed(self, send: Send) -> Send:
        """The way to send an answer in pieces. send: uvicorn's, which cuts it into chunks."""
        return UntilClosed(self._cycle) if self._cycle.scope["http_version"] == "1.0" else send

    def write(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write a whole answer with one write. headers: without its length.

        False, with nothing written, if it has to go the usual way: nobody reads, or the answer to HEAD has no body.
        Raises RuntimeError if a header holds a line end.
        """
        cycle = self._cycle
        if cycle.waiting_for_100_continue:
            # Whether the body still comes is the caller's choice now, so nothing behind it could be told from it.
            cycle.keep_alive = False
        if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or cycle.scope["method"] == "HEAD":
            return False
        ending = [(b"content-length", b"%d" % len(body))]
        if not cycle.keep_alive:
            ending.append((b"connection", b"close"))
        head = _head(status, (*cycle.default_headers, *headers, *ending))
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(head + body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            if cycle.more_body:
                self._connection.close_early()
            else:
                cycle.transport.close()
        cycle.on_response()
        return True

    def begin(self, status: int, headers: Sequence[tuple[bytes, bytes]], piece: bytes) -> bool:
        """Write the head of an answer in chunks, and its first piece if there is one, with one write.

        False, with nothing written, if it has to go the usual way. Raises RuntimeError if a header holds a line end.
        """
        cycle = self._cycle
        is_plain = cycle.scope["method"] != "HEAD" and cycle.scope["http_version"] != "1.0"
        is_ready = not (cycle.flow.write_paused or cycle.disconnected or cycle.response_started)
        if not (is_plain and is_ready) or cycle.waiting_for_100_continue:
            return False
        ending = [(b"transfer-encoding", b"chunked")]
        if not cycle.keep_alive:
            ending.append((b"connection", b"close"))
        head = _head(status, (*cycle.default_headers, *headers, *ending))
        cycle.response_started = cycle.chunked_encoding = True
        cycle.transport.write(b"%s%x\r\n%s\r\n" % (head, len(piece), piece) if piece else head)
        return True


class UntilClosed:
    """ASGI's `send` for HTTP/1.0, which knows no chunks: an answer without a length ends with its connection."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        """cycle: of uvicorn, before its answer has begun."""
        self._cycle = cycle

    async def __call__(self, message: Mapping[str, Any]) -> None:
        """Write one message, under backpressure."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        if message["type"] == "http.response.start":
            head = _head(message["status"], (*cycle.default_headers, *message["headers"], (b"connection", b"close")))
            cycle.response_started = True
            cycle.transport.write(head)
            return
        if cycle.scope["method"] != "HEAD":
            cycle.transport.write(message["body"])
        if not message.get("more_body", False):
            cycle.response_complete = True
            cycle.message_event.set()
            cycle.transport.close()
            cycle.on_response()


def closing_answer(answer: Answer, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a whole answer after which the connection is closed."""
    ending = ((b"content-length", b"%d" % len(answer.body)), (b"connection", b"close"))
    return _head(answer.status, (*default_headers, *answer.headers, *ending)) + answer.body


def _head(status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer. Raises RuntimeError if a header holds a line end."""
    lines = b"\r\n".join([b"%s: %s" % header for header in headers])
    if lines.count(b"\n") != len(headers) - 1 or lines.count(b"\r") != len(headers) - 1:
        raise RuntimeError("A header of an answer holds a line end.")
    return b"%s%s\r\n\r\n" % (STATUS_LINE[status], lines)


def exchange_of(scope: dict[str, Any]) -> Exchange | None:
    """The exchange of a request, if its server gives one."""
    found: Exchange | None = scope.get("extensions", {}).get(EXCHANGE)
    return found
