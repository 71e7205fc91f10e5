"""Concurrency limit of one provider: calls in flight at once, for all its credentials together, and a bounded queue."""

import asyncio
import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from embedgate.core.demand import caller_left, demand_of_task
from embedgate.core.errors import NOT_SENT, CallerLeft, UpstreamNotAsked, UpstreamQueueFull
from embedgate.observe import events, metrics

_SOON_S = 1.0
"""When a caller who found the queue full should try again: places become free all the time."""


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """Bounds of the calls that wait for a place at one provider: how many, and the bytes of their bodies together."""

    max_calls: float = math.inf
    max_bytes: float = math.inf


class ConcurrencyLimit:
    """At most `max_parallel` calls are in flight; others wait in order of arrival, until their deadline.

    A call that nobody waits for any more leaves the queue.
    """

    def __init__(self, max_parallel: int, bounds: QueueBounds | None = None) -> None:
        """bounds: of the calls that wait; none if absent."""
        self._max_parallel = max_parallel
        self._bounds = bounds or QueueBounds()
        self._in_flight = 0
        self._waiting: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self._waiting_bytes = 0
        self._is_full = False
        self._emptied: list[asyncio.Future[None]] = []

    async def enter(self, provider: str, deadline_s: float, size_bytes: int = 0) -> None:
        """Return once the call may be made; `leave` must follow. provider: its name. size_bytes: of the call's body.

        Raises UpstreamNotAsked if the deadline, on the monotonic clock, passes first; UpstreamQueueFull if too much
        waits already; CallerLeft if nobody waits any more for the answer.
        """
        if self._in_flight < self._max_parallel and not self._waiting:
            self._in_flight += 1
            return
        self._check_room(provider, size_bytes)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting[turn] = size_bytes
        self._waiting_bytes += size_bytes
        metrics.provider_waits(provider, 1, size_bytes)

        def drop() -> None:
            if not turn.done():
                turn.set_exception(caller_left())

        # Under load nearly every call waits here: a context manager for the timeout and one for the demand take longer
        # than all else that is done.
        demand = demand_of_task.get()
        if demand is not None:
            demand.watch(drop)
        timer = loop.call_later(max(0.0, deadline_s - time.monotonic()), _expire, turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._give_up(turn)
            raise asyncio.CancelledError(NOT_SENT) from None
        except CallerLeft:
            self._leave_queue(turn)
            metrics.call_dropped("place")
            raise
        except TimeoutError:
            self._give_up(turn)
            raise UpstreamNotAsked(
                f"All {self._max_parallel} places for calls to {provider} were taken for the call's time (max_parallel)"
            ) from None
        finally:
            timer.cancel()
            if demand is not None:
                demand.unwatch(drop)
            metrics.provider_waits(provider, -1, -size_bytes)

    def leave(self) -> None:
        """Let the next call in."""
        while self._waiting:
            turn = next(iter(self._waiting))
            self._leave_queue(turn)
            if not turn.done():
                turn.set_result(None)
                return
        self._in_flight -= 1
        if self._emptied and not self._in_flight:
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

    def _check_room(self, provider: str, size_bytes: int) -> None:
        bounds, n, waiting_bytes = self._bounds, len(self._waiting), self._waiting_bytes
        # One call that is larger than the bound may wait alone: it is no larger than a body may be.
        if n < bounds.max_calls and (not n or waiting_bytes + size_bytes <= bounds.max_bytes):
            if 2 * n <= bounds.max_calls and 2 * waiting_bytes <= bounds.max_bytes:
                self._is_full = False
            return
        metrics.provider_queue_refused(provider)
        if not self._is_full:
            self._is_full = True
            events.PROVIDER_QUEUE_FULL.emit(provider=provider, calls=n, bytes=waiting_bytes)
        raise UpstreamQueueFull(
            f"{n} calls with {waiting_bytes} bytes wait for {provider} already, as many as upstream.max_queued_calls "
            "and upstream.max_queued_bytes allow",
            retry_after_s=_SOON_S,
        )

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        """Take a call that was not made out of the queue, or out of flight if its turn came in the same moment."""
        was_called = turn not in self._waiting
        self._leave_queue(turn)
        if turn.done() and not turn.cancelled() and turn.exception() is None and was_called:
            self.leave()

    def _leave_queue(self, turn: asyncio.Future[None]) -> None:
        size_bytes = self._waiting.pop(turn, None)
        if size_bytes is not None:
            self._waiting_bytes -= size_bytes


def _expire(turn: asyncio.Future[None]) -> None:
    """End the wait of a call whose time is over."""
    if not turn.done():
        turn.set_exception(TimeoutError())
