"""Client connections with limits: size and time of request heads, unread answers, and their number.

Extends uvicorn's protocol, which has no such limits: a head is bounded in bytes and in time, so are an unread body and
an unread answer, and connections are bounded in number. `respond` reads bodies. What is refused here has no route yet,
so the answer is in the OpenAI format.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Literal

import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from embedgate.core.errors import GatewayError, MalformedRequest, Overloaded
from embedgate.observe import events
from embedgate.server.answer import Answer
from embedgate.server.exchange import EXCHANGE, Exchange
from embedgate.server.respond import WritesErrors, new_request_id
from embedgate.settings import ServerSettings

MAX_REFUSING = 100
"""Connections beyond the limit that get a 503. Further ones are closed without an answer."""

_REFUSING_S = 1.0
_CHUNK_FRAME_BYTES = 24
"""Largest framing of one chunk of a body; anything more is chunk extensions, which count like headers."""

_Reason = Literal["refused", "slow", "large", "malformed", "unread"]


class Gate:
    """Connection limiter of one server: the limits, the open connections, and counts of refused ones."""

    def __init__(
        self, bounds: ServerSettings, dialect: WritesErrors, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """dialect: writes refusals. clock_s: monotonic seconds."""
        self.bounds = bounds
        self.dialect = dialect
        self.clock_s = clock_s
        self.admitted = 0
        self.refusing = 0
        self._turned_away: Counter[str] = Counter()

    def count(self, reason: _Reason) -> None:
        """Count a refused connection for the next `sweep`."""
        self._turned_away[reason] += 1

    def sweep(self, connections: Iterable[object]) -> None:
        """Close connections past their deadline, and log refusals since the last sweep. Call once a second."""
        now_s = self.clock_s()
        for connection in list(connections):
            if isinstance(connection, Connection):
                connection.close_if_late(now_s)
        if refused := self._turned_away.pop("refused", 0):
            events.CONNECTIONS_REFUSED.emit(connections=refused, max_connections=self.bounds.max_connections)
        if self._turned_away:
            events.CONNECTIONS_CUT.emit(**self._turned_away)
            self._turned_away.clear()


class Connection(HttpToolsProtocol):
    """uvicorn's connection within the limits of a gate, whose `sweep` enforces deadlines without a timer each."""

    def __init__(self, config: uvicorn.Config, server_state: ServerState, gate: Gate) -> None:
        """Create the protocol of one accepted connection."""
        super().__init__(config, server_state, app_state={})
        self._gate = gate
        self._max_head_bytes = gate.bounds.max_head_bytes
        self._is_admitted = False
        self._deadline_s = math.inf
        """Deadline of the next head, or of the end of an unread body; none while a request is served."""
        self._unread_deadline_s = math.inf
        self._served: RequestResponseCycle | None = None
        """The current request, or the last one."""
        self._chunk_bytes = 0
        self._overhead_bytes = 0
        """Bytes of the current message that are not its body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection if there is room; else wait for its request, as an answer without one gets lost."""
        super().connection_made(transport)
        gate = self._gate
        self._is_admitted = gate.admitted < gate.bounds.max_connections
        if self._is_admitted:
            gate.admitted += 1
            self._deadline_s = gate.clock_s() + gate.bounds.head_timeout_s
            return
        gate.count("refused")
        gate.refusing += 1
        self._deadline_s = gate.clock_s() + _REFUSING_S
        if gate.refusing > MAX_REFUSING:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the slot, and notify the request in progress."""
        super().connection_lost(exc)
        if self._served is not None:  # uvicorn notifies the newest request only, which may be a pipelined one
            self._served.disconnected = True
            self._served.message_event.set()
        if self._is_admitted:
            self._gate.admitted -= 1
        else:
            self._gate.refusing -= 1

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, unless the head is too large."""
        if not self._is_admitted:
            self._refuse(_no_room(self._gate.bounds.max_connections), "refused")
            return
        self._chunk_bytes = len(data)
        self._overhead_bytes += len(data)
        super().data_received(data)
        if self._overhead_bytes > self._max_head_bytes:
            self._refuse(_head_too_large(self._max_head_bytes), "large")
        elif self._deadline_s == math.inf and self.timeout_keep_alive_task is None and self.cycle.response_complete:
            # Empty lines have ended uvicorn's wait for the next request, but are no request.
            self._deadline_s = self._gate.clock_s() + self._gate.bounds.head_timeout_s

    def on_message_begin(self) -> None:
        """Handle the start of a head."""
        super().on_message_begin()
        self._overhead_bytes = 0
        self._deadline_s = self._gate.clock_s() + self._gate.bounds.head_timeout_s

    def on_headers_complete(self) -> None:
        """Handle a complete head: serve its request, unless it is too large."""
        # No need to add up the headers if few enough bytes have arrived.
        if (self._overhead_bytes > 0 or self._chunk_bytes > self._max_head_bytes) and self._is_head_too_large():
            fault = _head_too_large(self._max_head_bytes)
            self._refuse(fault, "large")
            raise fault
        super().on_headers_complete()
        self._deadline_s = math.inf
        # The parser reports trailers of a chunked body as headers, too; unchecked, they are dropped.
        self.headers = []

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._served = cycle
        # `extensions` is where ASGI lets a server offer what is its own.
        scope: dict[str, Any] = cycle.scope  # type: ignore[assignment]  # typed as closed by uvicorn
        scope["extensions"] = {EXCHANGE: Exchange(cycle)}
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Handle a piece of a body."""
        self._overhead_bytes -= len(body)
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Handle the start of a chunk of a body."""
        self._overhead_bytes -= _CHUNK_FRAME_BYTES

    def on_response_complete(self) -> None:
        """Handle the end of an answer. The rest of an unread request body is read, up to a deadline."""
        super().on_response_complete()
        if not self.cycle.response_complete:
            return  # of a pipelined request
        if self.cycle.more_body:
            self._deadline_s = self._gate.clock_s() + self._gate.bounds.body_timeout_s
        elif self._deadline_s < math.inf:  # a further head has begun; its deadline starts only now
            self._deadline_s = self._gate.clock_s() + self._gate.bounds.head_timeout_s

    def pause_writing(self) -> None:
        """Backpressure: the caller reads more slowly than the answer is produced."""
        super().pause_writing()
        self._unread_deadline_s = self._gate.clock_s() + self._gate.bounds.unread_timeout_s

    def resume_writing(self) -> None:
        """The caller has read: resume writing."""
        super().resume_writing()
        self._unread_deadline_s = math.inf

    def close_if_late(self, now_s: float) -> None:
        """Close the connection if its deadline has passed."""
        if self.transport.is_closing() and self._unread_deadline_s == math.inf:
            # The rest to send is too little for `pause_writing`, and closing would wait for it.
            self._unread_deadline_s = now_s + self._gate.bounds.unread_timeout_s
        if now_s >= self._unread_deadline_s:
            self._gate.count("unread")
            self.transport.abort()
        elif now_s >= self._deadline_s and not self.transport.is_closing() and not self._is_serving():
            if self._is_admitted:
                self._gate.count("slow")
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's message
        """Answer bytes that are not valid HTTP."""
        self._refuse(MalformedRequest("What was sent is not a request of HTTP/1.1. Check the client."), "malformed")

    def _refuse(self, error: GatewayError, reason: _Reason) -> None:
        """Close with an error answer, unless that would be taken for the answer to an earlier request."""
        if self.transport.is_closing():
            return
        if self._is_admitted:  # the others were counted on arrival
            self._gate.count(reason)
        cycle = self.cycle
        is_its_own = self._is_serving() and cycle.more_body and not cycle.response_started and not self.pipeline
        if is_its_own or not self._is_serving():
            answer = self._gate.dialect.write_error(error, new_request_id())
            self.transport.write(_wire(answer, self.server_state.default_headers))
        if cycle is not None:
            cycle.disconnected = True  # its handler must not write after this
        self.transport.close()

    def _is_serving(self) -> bool:
        is_new = self.cycle is None  # until its first request, though uvicorn types it otherwise
        return not is_new and not self.cycle.response_complete

    def _is_head_too_large(self) -> bool:
        fields_bytes = sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        return len(self.url) + fields_bytes > self._max_head_bytes


def _no_room(max_connections: int) -> Overloaded:
    return Overloaded(
        f"{max_connections} connections are open, as many as server.max_connections allows. Try again, and keep "
        "connections open for several requests.",
        retry_after_s=1,
    )


def _head_too_large(max_head_bytes: int) -> MalformedRequest:
    return MalformedRequest(
        f"The request line and headers have more than {max_head_bytes} bytes together. Send fewer or shorter headers, "
        "or raise server.max_head_bytes."
    )


def _wire(answer: Answer, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of an error answer that closes the connection."""
    status = HTTPStatus(answer.status)
    ending = ((b"content-length", b"%d" % len(answer.body)), (b"connection", b"close"))
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
    lines += [name + b": " + value for name, value in (*default_headers, *answer.headers, *ending)]
    return b"\r\n".join([*lines, b"", answer.body])
