"""Concurrency limit of one provider: calls in flight at once, for all its credentials together."""

import asyncio
import time
from collections import deque

from embedgate.core.errors import NOT_SENT, UpstreamTimeout


class ConcurrencyLimit:
    """At most `max_parallel` calls are in flight; others wait in the order of their coming, until their deadline."""

    def __init__(self, max_parallel: int) -> None:
        self._max_parallel = max_parallel
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._emptied: list[asyncio.Future[None]] = []

    async def enter(self, provider: str, deadline_s: float) -> None:
        """Return once the call may be made; `leave` must follow. provider: its name, for the message.

        Raises UpstreamTimeout if the deadline, on the monotonic clock, passes first.
        """
        if self._in_flight < self._max_parallel and not self._waiting:
            self._in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                await turn
        except asyncio.CancelledError:
            self._give_up(turn)
            raise asyncio.CancelledError(NOT_SENT) from None
        except TimeoutError:
            self._give_up(turn)
            raise UpstreamTimeout(
                f"All {self._max_parallel} places for calls to {provider} were taken for the call's time (max_parallel)"
            ) from None

    def leave(self) -> None:
        """Let the next call in."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._in_flight -= 1
        if not self._in_flight:
            for emptied in self._emptied:
                if not emptied.done():
                    emptied.set_result(None)
            self._emptied.clear()

    async def emptied(self) -> None:
        """Return once no call is in flight and none waits."""
        if self._in_flight:
            emptied = asyncio.get_running_loop().create_future()
            self._emptied.append(emptied)
            await emptied

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        """Take a call that was not made out of the queue, or out of flight if its turn came in the same moment."""
        if not turn.cancelled():
            self.leave()
        elif turn in self._waiting:
            self._waiting.remove(turn)
