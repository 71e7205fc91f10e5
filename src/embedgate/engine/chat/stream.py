"""Stream buffer with backpressure: pieces of one answer, from the task that fetches them to the one that sends them.

Bounds how far the fetcher may be ahead of the sender, and stops it when the caller leaves. Knows no provider and no
socket. For one event loop.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from msgspec import Struct

from embedgate.core.errors import CallerLeft, UpstreamTimeout
from embedgate.core.types import Candidate


class StreamHead(Struct, frozen=True):
    """Head of a streamed answer: the candidate that serves it, and its content type."""

    candidate: Candidate
    content_type: str


class StreamBuffer:
    """One answer in transit: the fetcher calls `begin`, `put` and `end`, the sender `take` and `leave`."""

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of pieces that wait for the sender before the fetcher has to; one piece may go beyond it."""
        self.begun: StreamHead | None = None
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._has_changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_ended = False
        self._has_left = False
        self._patience: asyncio.Timeout | None = None

    @contextlib.asynccontextmanager
    async def while_wanted(self, deadline_s: float) -> AsyncIterator[None]:
        """Cut what runs inside when the caller leaves, or the deadline passes. deadline_s: on the monotonic clock.

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
        self.begun = begun
        self._has_changed.set()

    async def put(self, piece: bytes) -> None:
        """Add a piece; return once there is room for the next one. Raises CallerLeft if nobody wants it."""
        self._check_wanted()
        self._pieces.append(piece)
        self._size_bytes += len(piece)
        self._has_changed.set()
        if self._size_bytes >= self._max_bytes:
            self._has_room.clear()
            await self._has_room.wait()

    def end(self) -> None:
        """Let the answer end after what was put; also if it never began."""
        self._has_ended = True
        self._has_changed.set()

    async def beginning(self) -> StreamHead | None:
        """The head of the answer, once it begins. None if it ended before that."""
        while self.begun is None and not self._has_ended:
            await self._change()
        return self.begun

    async def take(self) -> bytes:
        """All that waits, at least one piece; nothing at the end."""
        while not self._pieces and not self._has_ended:
            await self._change()
        taken = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size_bytes = 0
        self._has_room.set()
        return taken

    def leave(self) -> None:
        """The caller has gone, or wants no more: fetch nothing for it. After the end it changes nothing."""
        self._has_left = True
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    @property
    def has_left(self) -> bool:
        """Whether the caller wants no more."""
        return self._has_left

    def _check_wanted(self) -> None:
        if self._has_left:
            raise CallerLeft(_LEFT)

    async def _change(self) -> None:
        self._has_changed.clear()
        await self._has_changed.wait()


_LEFT = "The caller closed the connection before the answer was complete."
