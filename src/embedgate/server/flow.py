"""Flow control of one connection: reading pauses for the request in progress, or because the gateway holds it."""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """uvicorn's flow control, with a hold on reading that no request can lift.

    uvicorn reads on whenever a request wants its body or is answered. While `hold` is in force the socket is not read,
    whatever requests want; what they asked for last counts again after `let_go`.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """transport: of the connection."""
        super().__init__(transport)
        self.is_held = False

    def hold(self) -> None:
        """Stop reading until `let_go`."""
        if not self.is_held:
            self.is_held = True
            if not self.read_paused:
                self._transport.pause_reading()

    def let_go(self) -> None:
        """Read again, unless the request in progress wants nothing."""
        if self.is_held:
            self.is_held = False
            if not self.read_paused:
                self._transport.resume_reading()

    def pause_reading(self) -> None:
        """Stop reading for the request in progress, whose buffer is full."""
        if not self.read_paused:
            self.read_paused = True
            if not self.is_held:
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read for the request in progress, unless reading is held."""
        if self.read_paused:
            self.read_paused = False
            if not self.is_held:
                self._transport.resume_reading()
