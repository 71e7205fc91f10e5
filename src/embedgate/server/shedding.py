"""Load shedding by latency: while the event loop is late for long, new requests are refused before they are read.

A timer that is due and not run is as late as every request that waits for the loop; what waits for its turn (`turns`)
may be later still. Health and metrics are answered, and what has begun goes on, so that the gateway recovers.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from embedgate.core.errors import Overloaded
from embedgate.observe import events, metrics
from embedgate.settings import ServerSettings

TICK_S = 0.25
"""Between two looks at the lag of the loop."""
CALM_SHARE = 0.5
"""Hysteresis: shedding ends when the lag was below this share of the limit for as long as it had to be above it."""


class LoadShedder:
    """Load shedder of one server: `is_shedding` says whether new requests are refused now."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: monotonic seconds, that of the loop."""
        self._max_lag_s = settings.max_lag_s or math.inf
        self._patience_s = settings.lag_patience_s
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._since_s: float | None = None
        self.is_shedding = False
        self.lag_s = 0.0

    def start(self, wait_s: Callable[[], float] = lambda: 0.0) -> None:
        """Watch the running loop until `aclose`. wait_s: how long work has waited for its turn on it."""
        self._task = asyncio.get_running_loop().create_task(self._watch(wait_s))

    async def aclose(self) -> None:
        """End the watch."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def refusal(self) -> Overloaded:
        """The answer to a new request."""
        metrics.request_shed()
        return Overloaded(
            f"The gateway is overloaded: it answers {self.lag_s:.1f} s late. Try again in a moment.",
            retry_after_s=max(1.0, self._patience_s),
        )

    def saw(self, lag_s: float) -> None:
        """Take one measurement of the lag into account."""
        now_s = self._clock()
        self.lag_s = lag_s
        metrics.loop_lag(lag_s)
        is_changing = lag_s > self._max_lag_s if not self.is_shedding else lag_s < CALM_SHARE * self._max_lag_s
        if not is_changing:
            self._since_s = None
            return
        if self._since_s is None:
            self._since_s = now_s  # not earlier: a process that was stopped for a while is late once
        if now_s - self._since_s >= self._patience_s:
            self._since_s = None
            self.is_shedding = not self.is_shedding
            metrics.shedding(is_shedding=self.is_shedding)
            event = events.SHEDDING if self.is_shedding else events.SHEDDING_ENDED
            event.emit(lag_s=round(lag_s, 3))

    async def _watch(self, wait_s: Callable[[], float]) -> None:
        while True:
            due_s = self._clock() + TICK_S
            await asyncio.sleep(TICK_S)
            self.saw(max(0.0, self._clock() - due_s, wait_s()))
