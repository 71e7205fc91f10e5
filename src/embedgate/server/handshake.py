"""TLS handshakes of callers: each counts as a connection from the start, and has a deadline.

A server of the event loop would tell us of a connection only when its handshake is complete; those that never begin
one would count nowhere. TLS, which takes memory, begins with the first bytes.
"""

import asyncio
import math
import ssl
from collections.abc import Callable
from functools import partial
from typing import Protocol

from embedgate.core.errors import MalformedRequest
from embedgate.server.connection import Connection
from embedgate.server.exchange import closing_answer
from embedgate.server.gate import Gate, Placed, State
from embedgate.server.respond import new_request_id

MakeConnection = Callable[[Placed], Connection]


class _ReadsTls(Protocol):
    """The part of asyncio's BufferedProtocol that receives; the one of uvloop is no subclass of it."""

    def get_buffer(self, sizehint: int, /) -> memoryview:
        """Where bytes are put."""
        ...

    def buffer_updated(self, nbytes: int, /) -> None:
        """So many bytes have been put there."""
        ...


class Handshake(asyncio.Protocol):
    """One accepted connection until its TLS handshake is complete; then a `Connection` has its place."""

    def __init__(self, gate: Gate, context: ssl.SSLContext, make_connection: MakeConnection) -> None:
        """make_connection: the protocol that takes over the place of what it is given."""
        self.address = ""
        self._gate = gate
        self._context = context
        self._make_connection = make_connection
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._deadline_s = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is one
        """Take a place; without one, nothing could be said that the caller understands."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        if self._gate.enter(self, peer[0] if peer else "") is not None:
            transport.abort()
            return
        self._deadline_s = self._gate.clock_s() + self._gate.bounds.head_timeout_s

    def data_received(self, data: bytes) -> None:
        """Begin the handshake with the first bytes, when it is the turn of their address."""
        if self._task is None and self._transport is not None:
            self._transport.pause_reading()
            self._gate.turns.do(self.address, partial(self._begin, self._transport, data))

    def _begin(self, transport: asyncio.Transport, first: bytes) -> bool:
        if transport.is_closing():
            return False
        if first[:1].isalpha():
            self._gate.count("malformed")
            transport.write(closing_answer(self._gate.dialect.write_error(_plain_http(), new_request_id()), ()))
            transport.close()
        else:
            self._task = asyncio.get_running_loop().create_task(self._shake_hands(transport, first))
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        """Release the place."""
        self._gate.leave(self)

    @property
    def state(self) -> State:
        """Always a handshake."""
        return "handshake"

    def close_if_late(self, now_s: float) -> None:
        """Close the connection if the handshake takes too long."""
        if now_s >= self._deadline_s:
            self._deadline_s = math.inf
            self._gate.count("handshake")
            self.give_way()

    def give_way(self) -> None:
        """Close the connection at once."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _shake_hands(self, transport: asyncio.Transport, first: bytes) -> None:
        connection = self._make_connection(self)
        loop = asyncio.get_running_loop()
        starting = loop.create_task(
            loop.start_tls(
                transport,
                connection,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._gate.bounds.head_timeout_s,
            )
        )
        try:
            await asyncio.sleep(0)  # `start_tls` changes the protocol of the transport
            await asyncio.sleep(0)  # the new protocol is told of its transport, and reading goes on after this step
            _hand_over(first, transport.get_protocol())  # type: ignore[arg-type]  # both loops have such
            secured = await starting
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            secured = None
        if secured is None:
            self._gate.leave(self)  # from here on the transport is of the handshake, which tells us of no end
            transport.abort()
            return
        connection.connection_made(secured)


def _plain_http() -> MalformedRequest:
    """The answer to a method of HTTP, which begins with a letter; no record of TLS does."""
    return MalformedRequest("This port speaks HTTPS, and what was sent is plain HTTP. Use https:// in the address.")


def _hand_over(data: bytes, protocol: "_ReadsTls") -> None:
    """Give a protocol of TLS what was received before it."""
    while data:
        buffer = memoryview(protocol.get_buffer(len(data)))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]
