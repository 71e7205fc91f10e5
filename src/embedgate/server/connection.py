"""Client connections with limits: size and time of request heads, pipelined requests, and unread answers.

Extends uvicorn's protocol, which has no such limits: a head is bounded in bytes and in time, so are an unread body and
an unread answer; requests are parsed a few at a time, and none while answers are unread or others wait. `gate` limits
the number of connections, `respond` reads bodies. What is refused here has no route yet, so the answer is in the
OpenAI format.
"""

import asyncio
import math
from functools import partial
from typing import Any

import httptools
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from embedgate.core.errors import GatewayError, MalformedRequest, Overloaded
from embedgate.server.exchange import EXCHANGE, Exchange, closing_answer
from embedgate.server.flow import Flow
from embedgate.server.gate import MAX_REFUSING, Gate, Placed, Reason, State
from embedgate.server.memory import SMALL_BYTES, Held
from embedgate.server.parts import FEW_LINES, Received, is_much
from embedgate.server.respond import new_request_id
from embedgate.server.turns import FEWEST
from embedgate.server.upgrade import without_upgrade

_REFUSING_S = 1.0
_LINGER_S = 2.0
"""How long a connection that is closed early is still read, so that the caller finds the answer and no reset."""
_ON_ITS_WAY_S = 0.25
"""How long a server that ends waits for a request that was sent before the caller could know."""
_PROGRESS_BYTES = 65_536
"""What a caller must take of an answer in `server.unread_timeout_s` to go on."""
_PACE_AGE_S = 1.0
"""From when on it is told how fast a caller reads."""
_CHUNK_FRAME_BYTES = 24
"""Framing of one chunk of a body that counts as little as the body: anything more is chunk extensions, which count
like headers."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection within the limits of a gate, whose `sweep` enforces deadlines without a timer each."""

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, gate: Gate, handshake: Placed | None = None
    ) -> None:
        """Create the protocol of one accepted connection. handshake: what has a place for it already."""
        super().__init__(config, server_state, app_state={})
        self.address = ""
        self._gate = gate
        self._handshake = handshake
        self._max_head_bytes = gate.bounds.max_head_bytes
        self._max_pipelined = gate.bounds.max_pipelined
        self._is_admitted = False
        self._is_lingering = False
        self._no_room: GatewayError | None = None
        self._deadline_s = math.inf
        """Deadline of the next head, or of the end of an unread body; none while a request is served."""
        self._idle_until_s = math.inf
        """When the connection is closed unless the next request begins to arrive. In place of uvicorn's timer, which is
        made and cancelled for every request."""
        self._unread_deadline_s = math.inf
        self._unread_since_s = 0.0
        self._unread_bytes = 0
        self._unsent = Held(gate.memory)
        self._served: RequestResponseCycle | None = None
        """The current request, or the last one."""
        self._is_last = False
        """Whether the server ends, and takes no request after the next one."""
        self._offers_upgrade = False
        self._is_head_complete = False
        self._exchange: Exchange | None = None
        self._chunk_bytes = 0
        self._overhead_bytes = 0
        """Bytes of the current message that are not its body."""
        self._body_bytes = 0
        """Bytes of the body of the current message."""
        self._unparsed = Received()
        self._is_parsing_due = False
        self._unparsed_held = Held(gate.memory)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection if there is room; else wait for its request, as an answer without one gets lost."""
        super().connection_made(transport)
        self.flow: Flow = Flow(transport)
        gate = self._gate
        if self._handshake is not None:
            self._is_admitted = gate.hand_over(self._handshake, self)
            if not self._is_admitted:  # it had to give way in the meantime
                transport.abort()
                return
        else:
            self._no_room = gate.enter(self, self.client[0] if self.client else "")
            self._is_admitted = self._no_room is None
        if self._is_admitted:
            self._deadline_s = gate.clock_s() + gate.bounds.head_timeout_s
            if self._unparsed.data:
                self._parse_soon()
            return
        gate.refusing[self] = None
        self._deadline_s = gate.clock_s() + _REFUSING_S
        if len(gate.refusing) > MAX_REFUSING:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the place, and notify the request in progress."""
        self._gate.leave(self)
        if not self._is_connected():  # the handshake was complete, but nobody knew yet
            return
        super().connection_lost(exc)
        self._count_nothing_unsent()
        self._forget_unparsed()
        self._give_up(self._served)  # uvicorn notifies the newest request only, which may be a pipelined one

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, a few requests at a time."""
        if self._unparsed.data or not self._is_admitted or self._is_lingering:
            self._received_meanwhile(data)
        elif (lines := data.count(b"\n")) > FEW_LINES and is_much(data, lines) and self._body_left() < len(data):
            self._keep(data)
            self._parse_soon()
        else:
            self._parse(data)
            if len(self.pipeline) >= self._max_pipelined:
                self._steer_reading()

    def _received_meanwhile(self, data: bytes) -> None:
        """Take bytes of a connection without a place, that is being closed, or that has bytes to be parsed first."""
        if self._is_lingering:
            return
        if self._is_admitted or not self._is_connected():
            self._keep(data)  # at most what the transport had decrypted before it was told to stop
        elif self._no_room is not None:
            self._refuse(self._no_room, "refused")

    def _keep(self, data: bytes) -> None:
        """Keep bytes until they can be parsed, if there is memory for them, and read no more until then."""
        self._unparsed.add(data)
        if not self._is_connected():  # the handshake has just ended
            return
        size_bytes = len(self._unparsed.data)
        if size_bytes > SMALL_BYTES:
            try:
                self._unparsed_held.grow(size_bytes)
            except Overloaded as error:
                self._refuse(error, "memory")
        self._steer_reading()

    def _forget_unparsed(self) -> None:
        self._unparsed.clear()
        self._unparsed_held.become(0)

    def _parse_soon(self) -> None:
        """Parse a part of what waits, in this turn of the loop if it has room."""
        if not self._is_parsing_due:
            self._is_parsing_due = True
            self._gate.turns.do(self.address, self._parse_part)

    def _parse_part(self) -> bool:
        """Parse a part of what waits, if there is room for requests; the next one has to wait for its turn."""
        self._is_parsing_due = False
        if self.transport.is_closing():
            self._forget_unparsed()
            return False
        if self._unparsed.data and self._has_room():
            self._parse(self._unparsed.take(self._body_left()))
            if not self._unparsed.data:
                self._unparsed_held.become(0)
            elif self._has_room():  # else the end of an answer goes on
                self._is_parsing_due = True
                self._gate.turns.wait(self.address, self._parse_part)
        self._steer_reading()
        return True

    def _body_left(self) -> int:
        """How much is still to come of a body of known length."""
        if self._is_head_complete and self.cycle.more_body:
            for name, value in self.headers:
                if name == b"content-length":
                    return int(value) - self._body_bytes
        return 0

    def _has_room(self) -> bool:
        """Whether one more request may be parsed."""
        return len(self.pipeline) < self._max_pipelined and not self.flow.write_paused

    def _steer_reading(self) -> None:
        """Backpressure: read only while requests have room, answers are read, and nothing waits to be parsed."""
        if self.transport.is_closing():
            return
        if self._is_lingering or (self._has_room() and not self._unparsed.data):
            self.flow.let_go()
        else:
            self.flow.hold()

    def _parse(self, data: bytes) -> None:
        """Parse bytes, unless the head is too large."""
        self._idle_until_s = math.inf
        self._chunk_bytes = len(data)
        self._overhead_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade as offer:
            self._decline_upgrade(data[offer.args[0] :])
        if self._overhead_bytes > self._max_head_bytes:
            self._refuse(_head_too_large(self._max_head_bytes), "large")
        elif (
            self._deadline_s == math.inf
            and not self._is_lingering
            and self._idle_until_s == math.inf
            and self.cycle.response_complete
        ):
            # Empty lines have ended uvicorn's wait for the next request, but are no request.
            self._deadline_s = self._gate.clock_s() + self._gate.bounds.head_timeout_s

    def _decline_upgrade(self, rest: bytes) -> None:
        """Parse a head that offers another protocol again without the offer, then what came after it.

        The parser takes what follows such a head for the other protocol, and would take a body for the next request.
        """
        self._offers_upgrade = False
        head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse(head)
        if rest and not self._is_lingering:
            self._parse(rest)

    def on_message_begin(self) -> None:
        """Handle the start of a head."""
        super().on_message_begin()
        self._is_head_complete = False
        self._overhead_bytes = self._body_bytes = 0
        self._deadline_s = self._gate.clock_s() + self._gate.bounds.head_timeout_s

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. The parser reports trailers of a chunked body, too: these are unchecked, and dropped."""
        if self._is_head_complete:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Handle a complete head: serve its request, unless it is too large."""
        # No need to add up the headers if few enough bytes have arrived.
        if (self._overhead_bytes > 0 or self._chunk_bytes > self._max_head_bytes) and self._is_head_too_large():
            fault = _head_too_large(self._max_head_bytes)
            self._refuse(fault, "large")
            raise fault
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise MalformedRequest("CONNECT is for proxies.")
            self._offers_upgrade = True  # an offer is ignored (RFC 9110, 7.8): see `_decline_upgrade`
            return
        super().on_headers_complete()
        self._deadline_s = math.inf
        self._is_head_complete = True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._served = cycle
        # `extensions` is where ASGI lets a server offer what is its own.
        scope: dict[str, Any] = cycle.scope  # type: ignore[assignment]  # typed as closed by uvicorn
        self._exchange = Exchange(cycle, self)
        scope["extensions"] = {EXCHANGE: self._exchange}
        if self._is_last:
            cycle.keep_alive = False
        gate = self._gate
        # So few connections begin no more than that: each begins one request when the one before is answered.
        if gate.admitted <= FEWEST or gate.turns.begins():
            super()._start_asgi_task(cycle, app)
        else:
            whose = gate.whose_turn(self, scope["headers"])
            gate.turns.wait(whose, partial(self._begin, cycle, app))

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> bool:
        if cycle.disconnected:
            return False
        super()._start_asgi_task(cycle, app)
        return True

    def on_body(self, body: bytes) -> None:
        """Handle a piece of a body."""
        # In place of uvicorn's, as `on_message_complete` is: these ask about WebSockets each time.
        size_bytes = len(body)
        self._overhead_bytes -= size_bytes
        self._body_bytes += size_bytes
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Handle the end of a request."""
        cycle = self.cycle
        if not self._offers_upgrade and not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_chunk_header(self) -> None:
        """Handle the start of a chunk of a body."""
        self._overhead_bytes -= _CHUNK_FRAME_BYTES

    def on_response_complete(self) -> None:
        """Handle the end of an answer. The rest of an unread request body is read, up to a deadline."""
        if self._is_lingering:
            return
        self._go_on()
        if self._unparsed.data:
            self._parse_soon()
        elif self.flow.is_held:
            self._steer_reading()
        if not self.cycle.response_complete:
            return  # of a pipelined request
        if self.cycle.more_body:
            self._deadline_s = self._gate.clock_s() + self._gate.bounds.body_timeout_s
        elif self._deadline_s < math.inf:  # a further head has begun; its deadline starts only now
            self._deadline_s = self._gate.clock_s() + self._gate.bounds.head_timeout_s

    def _go_on(self) -> None:
        """As uvicorn's `on_response_complete`: begin the next pipelined request, or wait for one to come."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_until_s = self._gate.clock_s() + self.timeout_keep_alive

    def pause_writing(self) -> None:
        """Backpressure: the caller reads more slowly than the answer is produced."""
        super().pause_writing()
        self._unread_since_s = self._gate.clock_s()
        self._unread_deadline_s = self._unread_since_s + self._gate.bounds.unread_timeout_s
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._gate.memory.slow[self] = None
        self._unsent.become(self._unread_bytes)
        self._steer_reading()

    def resume_writing(self) -> None:
        """The caller has read: resume writing."""
        super().resume_writing()
        self._unread_deadline_s = math.inf
        self._count_nothing_unsent()
        if self._unparsed.data:
            self._parse_soon()
        else:
            self._steer_reading()

    def _count_nothing_unsent(self) -> None:
        self._unsent.become(0)
        self._gate.memory.slow.pop(self, None)

    @property
    def held_bytes(self) -> int:
        """What is free once the connection is cut: unsent bytes, and what they are made from."""
        held = self._exchange.held if self._exchange is not None else None
        return self._unsent.size_bytes + (held.size_bytes if held is not None else 0)

    @property
    def owner(self) -> str:
        """The user whose request is answered, if it is worth weighing; else ""."""
        held = self._exchange.held if self._exchange is not None else None
        return held.owner if held is not None else ""

    def pace(self) -> float | None:
        """Bytes per second that the caller reads of what waits for it; None at first."""
        age_s = self._gate.clock_s() - self._unread_since_s
        return (self._unread_bytes - self.transport.get_write_buffer_size()) / age_s if age_s >= _PACE_AGE_S else None

    def cut(self) -> None:
        """Close at once: others need the memory."""
        self._gate.count("unread")
        self.transport.abort()

    def linger(self, linger_s: float = _LINGER_S) -> None:
        """Close after what was written, but read on for a while: a reset would take the answer from the caller."""
        if self._is_lingering or self.transport.is_closing():
            return
        if linger_s == _LINGER_S and not self._gate.part(self):
            self.transport.close()
            return
        self._is_lingering = True
        self._deadline_s = math.inf
        self._forget_unparsed()
        self.pipeline.clear()
        self._idle_until_s = math.inf
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.let_go()
        self.flow.resume_reading()
        self.loop.call_later(linger_s, self.transport.close)

    def close_early(self) -> None:
        """Close after an answer that came before the end of its request: the rest is read, and thrown away."""
        self.linger(self._gate.bounds.body_timeout_s)

    def shutdown(self) -> None:
        """Close after the request that is served, or after one that may be on its way already."""
        if self._is_serving():
            super().shutdown()
        else:
            self._is_last = True
            self.loop.call_later(_ON_ITS_WAY_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._is_serving() and not self._is_lingering:
            self.transport.close()

    def give_way(self) -> None:
        """Close at once, for another connection that needs the place."""
        self.transport.abort()

    @property
    def state(self) -> State:
        """What the connection does now."""
        if self._is_lingering or self.transport.is_closing():
            return "closing"
        if self.flow.write_paused:
            return "unread"
        if not self._is_serving():
            return "idle"
        return "receiving" if self._served is not None and self._served.more_body else "serving"

    def close_if_late(self, now_s: float) -> None:
        """Close the connection if its deadline has passed."""
        if self.transport.is_closing() and self._unread_deadline_s == math.inf:
            # The rest to send is too little for `pause_writing`, and closing would wait for it.
            self._unread_deadline_s = now_s + self._gate.bounds.unread_timeout_s
        if now_s >= self._unread_deadline_s:
            left = self.transport.get_write_buffer_size()
            if 0 < left <= self._unread_bytes - _PROGRESS_BYTES:
                self._unread_bytes, self._unread_since_s = left, now_s
                self._unread_deadline_s = now_s + self._gate.bounds.unread_timeout_s
                return
            self._gate.count("unread")
            self.transport.abort()
        elif now_s >= self._idle_until_s:
            self.transport.close()
        elif now_s >= self._deadline_s and not self.transport.is_closing() and not self._is_serving():
            if self._is_admitted:
                self._gate.count("slow")
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's message
        """Answer bytes that are not valid HTTP."""
        self._refuse(MalformedRequest("What was sent is not a request of HTTP/1.1. Check the client."), "malformed")

    def _refuse(self, error: GatewayError, reason: Reason) -> None:
        """Close with an error answer, unless that would be taken for the answer to an earlier request."""
        if self._is_lingering or self.transport.is_closing():
            return
        if self._is_admitted:  # the others were counted on arrival
            self._gate.count(reason)
        cycle = self.cycle
        is_its_own = self._is_serving() and cycle.more_body and not cycle.response_started and not self.pipeline
        if is_its_own or not self._is_serving():
            answer = self._gate.dialect.write_error(error, new_request_id())
            self.transport.write(closing_answer(answer, self.server_state.default_headers))
        for unfinished in (cycle, self._served):  # their handlers must not write after this
            self._give_up(unfinished)
        self.linger()

    def _give_up(self, cycle: RequestResponseCycle | None) -> None:
        """Tell the handler of a request that its caller has gone."""
        if cycle is not None:
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False  # nothing may be written any more
            cycle.message_event.set()
        if cycle is self._served and self._exchange is not None:
            self._exchange.demand.leave()

    def _is_connected(self) -> bool:
        transport: asyncio.Transport | None = self.transport  # uvicorn types it otherwise
        return transport is not None

    def _is_serving(self) -> bool:
        is_new = self.cycle is None  # until its first request, though uvicorn types it otherwise
        return not is_new and not self.cycle.response_complete

    def _is_head_too_large(self) -> bool:
        fields_bytes = sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        return len(self.url) + fields_bytes > self._max_head_bytes


def _head_too_large(max_head_bytes: int) -> MalformedRequest:
    return MalformedRequest(
        f"The request line and headers have more than {max_head_bytes} bytes together. Send fewer or shorter headers, "
        "or raise server.max_head_bytes."
    )
