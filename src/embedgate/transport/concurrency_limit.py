"""The places for calls in flight to one provider, for all its credentials together."""

import asyncio
import time

from embedgate.core.errors import NOT_SENT, UpstreamTimeout


class ConcurrencyLimit:
    """At most `max_parallel` calls are in flight; those beyond wait in the order of asking, until their deadline."""

    def __init__(self, max_parallel: int) -> None:
        self._max_parallel = max_parallel
        self._free = asyncio.Semaphore(max_parallel)
        self._inside = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    async def take(self, provider: str, deadline_s: float) -> None:
        """Return with a place; `release` must follow. provider: its name, for the message.

        Raises UpstreamTimeout if the deadline, on the monotonic clock, passes first.
        """
        self._enter()
        try:
            await self._wait(provider, deadline_s)
        except asyncio.CancelledError:
            self._leave()
            raise asyncio.CancelledError(NOT_SENT) from None
        except BaseException:
            self._leave()
            raise

    def release(self) -> None:
        """Give the place to the next in line."""
        self._free.release()
        self._leave()

    async def emptied(self) -> None:
        """Return once nobody has a place or waits for one."""
        await self._is_empty.wait()

    async def _wait(self, provider: str, deadline_s: float) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                await self._free.acquire()
        except TimeoutError:
            raise UpstreamTimeout(
                f"All {self._max_parallel} places for calls to {provider} were taken for the call's time (max_parallel)"
            ) from None

    def _enter(self) -> None:
        self._inside += 1
        self._is_empty.clear()

    def _leave(self) -> None:
        self._inside -= 1
        if not self._inside:
            self._is_empty.set()
