"""An event loop whose clock jumps to the next timer instead of waiting for it: an hour of waits takes no time.

While it runs, `time.monotonic` tells the same time on its thread, so that deadlines and timers agree. The clock jumps
only when nothing else is left to do, so after `asyncio.sleep` everything that needs no timer has been done, however
busy the machine is. It stands still while work runs in an executor.
"""

import asyncio
import concurrent.futures
import functools
import math
import selectors
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, Unpack
from unittest import mock

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_real_monotonic = time.monotonic
_TICKS_PER_S = 2**20


class _Jump(selectors.SelectSelector):
    """Where the loop would sleep, the clock is put forward instead."""

    now = 1000.0
    working = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or (timeout and self.working):
            return super().select(None)  # a socket or an executor wakes it
        events = super().select(0)
        if not events and timeout:
            # Up to a binary fraction of a second: sums and differences of such times have no rounding errors.
            self.now = math.ceil((self.now + timeout) * _TICKS_PER_S) / _TICKS_PER_S
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """For code that waits by timers of the loop and tells the time by `time.monotonic` or `loop.time`."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Seconds, as they were jumped to."""
        return self._jump.now

    def run_forever(self) -> None:
        """Run as every loop does; meanwhile this is the time of its thread."""
        thread = threading.get_ident()

        def monotonic() -> float:
            return self._jump.now if threading.get_ident() == thread else _real_monotonic()

        with mock.patch.object(time, "monotonic", monotonic):
            super().run_forever()

    def run_in_executor(
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[[Unpack[Ts]], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Run `func` as every loop does, with the clock standing still until it returns."""
        self._jump.working += 1
        running = super().run_in_executor(executor, func, *args)
        running.add_done_callback(self._worked)
        return running

    def _worked(self, _: "asyncio.Future[Any]") -> None:
        self._jump.working -= 1


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine in a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def virtually(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A test whose waits take no time."""

    @functools.wraps(test)
    def in_no_time(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtually(test(*args, **kwargs))

    return in_no_time


def now() -> float:
    """The time of the running loop, or of the machine where none runs: the `clock` of what a test makes."""
    return time.monotonic()
