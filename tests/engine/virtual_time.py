"""An event loop whose clock jumps to the next timer instead of waiting for it: an hour of waits takes no time."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Jump(selectors.SelectSelector):
    """Where the loop would sleep, the clock is put forward instead."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """For code that waits by timers of the loop and tells the time by `loop.time`."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Seconds, as they were jumped to."""
        return self._jump.now


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
    """The time of the running loop."""
    return asyncio.get_running_loop().time()
