"""Stream buffer with backpressure: pieces of one answer, from the task that fetches them to the one that sends them.

Bounds how far the fetcher may be ahead of the sender, and stops it when the caller leaves. Heartbeats break silence.
Knows no provider and no socket. For one event loop.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from msgspec import Struct

from embedgate.core.chat import EVENT_STREAM, media_type
from embedgate.core.errors import CallerLeft, UpstreamMismatch, UpstreamTimeout
from embedgate.core.types import Candidate

HEARTBEAT = b": heartbeat\n\n"
"""A comment of an event stream, which clients skip: proxies cut connections that are silent."""
_ENDS_OF_EVENT = (b"\n\n", b"\r\n\r\n", b"\r\r")
_MOST_END_BYTES = 4


class StreamHead(Struct, frozen=True):
    """Head of a streamed answer: the candidate that serves it, and its content type."""

    candidate: Candidate
    content_type: str

    @property
    def is_event_stream(self) -> bool:
        """Whether it consists of events, and can have comments between them."""
        return media_type(self.content_type) == EVENT_STREAM


class StreamBuffer:
    """One answer in transit: the fetcher calls `begin`, `put` and `end`, the sender `take` and `leave`."""

    def __init__(self, max_bytes: int, heartbeat_s: float = 0.0) -> None:
        """max_bytes: of pieces that wait for the sender before the fetcher has to; one piece may go beyond it.

        heartbeat_s: silence after which the stream opens and gets a heartbeat; 0 for none.
        """
        self.begun: StreamHead | None = None
        self._heartbeat_s = heartbeat_s or None
        self._is_open = False
        self._tail = b""
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._has_changed = False
        self._waiter: asyncio.Future[None] | None = None
        self._has_room = asyncio.Event()
        self._has_ended = False
        self._has_left = False
        self._patience: asyncio.Timeout | None = None

    @contextlib.asynccontextmanager
    async def while_wanted(self, deadline_s: float) -> AsyncIterator[None]:
        """Cancel what runs inside when the caller leaves, or the deadline passes. deadline_s: on the monotonic clock.

        Raises CallerLeft or UpstreamTimeout then.
        """
        self._check_wanted()
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()) as self._patience:
                yield
        except TimeoutError:
            if self._patience is None or not self._patience.expired():
                raise
            if self._has_left:
                raise CallerLeft(_LEFT) from None
            raise UpstreamTimeout("The answer was not complete within the request's time.") from None
        finally:
            self._patience = None

    def begin(self, begun: StreamHead) -> None:
        """Let the answer begin. Raises CallerLeft if nobody wants it."""
        self._check_wanted()
        if self._is_open and not begun.is_event_stream:
            raise UpstreamMismatch(f"{begun.candidate.route.provider} sent {begun.content_type} in place of a stream")
        self.begun = begun
        self._changed()

    def open(self, comments: bytes) -> None:
        """Let the stream open before its answer begins, with comments of whoever is asked for it."""
        self._is_open = True
        if comments and self._size_bytes < self._max_bytes:  # more are of no use to who does not read them
            self._pieces.append(comments)
            self._size_bytes += len(comments)
        self._changed()

    async def put(self, piece: bytes) -> None:
        """Add a piece; return once there is room for the next one. Raises CallerLeft if nobody wants it."""
        self._check_wanted()
        self._pieces.append(piece)
        self._size_bytes += len(piece)
        self._changed()
        if self._size_bytes >= self._max_bytes:
            self._has_room.clear()
            await self._has_room.wait()

    def end(self) -> None:
        """Let the answer end after what was put; also if it never began."""
        self._has_ended = True
        self._changed()

    async def beginning(self) -> StreamHead | None:
        """The head of the answer, once it begins. None if the stream is open before that, or has ended."""
        while self.begun is None and not self._is_open and not self._has_ended:
            if not await self._change():
                self._is_open = True
        return self.begun

    @property
    def is_open(self) -> bool:
        """Whether there is a stream, begun or not."""
        return self._is_open or self.begun is not None

    async def take(self) -> bytes:
        """All that waits, at least one piece, or a heartbeat between two events; nothing at the end."""
        while not self._pieces and not self._has_ended:
            if not await self._change() and self._is_between_events():
                return HEARTBEAT
        return self.take_now()

    def take_now(self) -> bytes:
        """All pieces that wait; empty if there are none."""
        taken = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size_bytes = 0
        self._tail = (self._tail + taken[-_MOST_END_BYTES:])[-_MOST_END_BYTES:]
        self._has_room.set()
        return taken

    def leave(self) -> None:
        """The caller has left: stop fetching for it. No effect after the end."""
        self._has_left = True
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    @property
    def has_left(self) -> bool:
        """Whether the caller has left."""
        return self._has_left

    def _check_wanted(self) -> None:
        if self._has_left:
            raise CallerLeft(_LEFT)

    def _is_between_events(self) -> bool:
        is_event_stream = self.begun is None or self.begun.is_event_stream
        return is_event_stream and (not self._tail or self._tail.endswith(_ENDS_OF_EVENT))

    async def _change(self) -> bool:
        """Wait for a change. False: there was silence for the time of a heartbeat."""
        # A future and a timer, as this is between a token and its caller: an event and a timeout take three times as
        # long.
        loop = asyncio.get_running_loop()
        self._has_changed = False
        self._waiter = loop.create_future()
        timer = loop.call_later(self._heartbeat_s, self._wake) if self._heartbeat_s else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        return self._has_changed

    def _changed(self) -> None:
        self._has_changed = True
        self._wake()

    def _wake(self) -> None:
        """Let the sender go on, if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


_LEFT = "The caller closed the connection before the answer was complete."
