"""Health of every route, from the calls that were made: circuit breaker, latency, retry budget.

One registry serves a gateway for as long as it runs, so what was learned outlives a change of providers and models.
Makes no calls, and decides nothing about a request.
"""

import random
import time
from array import array
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from embedgate.core.clock import utc_ms
from embedgate.core.errors import (
    AccessError,
    GatewayError,
    UpstreamError,
    UpstreamFailed,
    UpstreamLimited,
    UpstreamQueueFull,
    UpstreamTimeout,
)
from embedgate.core.types import Candidate
from embedgate.engine.routing.circuit_breaker import CircuitBreaker
from embedgate.observe import events, metrics
from embedgate.settings import UpstreamSettings

_ENOUGH = 0.9
"""Of `attempt_timeout_s`: who had so much had a fair time, even on a slow route."""
_KEPT_CALLS = 100
_WEIGHT = 0.1
"""Of the newest call in the averages, at least: after a change, 20 calls are enough to see it."""
_OLD_S = 60.0
"""What was seen so long before the newest call counts no more beside it: some routes are seldom asked."""
_MIN_FOR_P95 = 20
_STALE_AFTER = 10
"""New calls until a percentile is reckoned anew: sorting costs more than all the rest."""
_BUDGET_WINDOW_S = 10.0
Health = Literal["ok", "failing", "probing", "unknown"]


class HealthReport(Struct, frozen=True):
    """Health of a route as reported. Milliseconds are those of its last hundred calls, the share is that of its
    last twenty.

    `probing`: it was failing, and calls find out whether it works again. None where there is nothing to tell.
    """

    state: Health = "unknown"
    p50_ms: float | None = None
    p95_ms: float | None = None
    failure_share: float | None = None
    last_failure_code: str | None = None
    last_failure_at_ms: int | None = None


class RecentCalls:
    """Latency and throughput of the recent calls of one route: moving averages, and percentiles of the last hundred."""

    __slots__ = ("_n", "_p95_at", "_p95_s", "_recent_s", "at_s", "latency_s", "tokens_per_s")

    def __init__(self) -> None:
        """Nothing is known yet. at_s: when the last call ended."""
        self.latency_s: float | None = None
        self.tokens_per_s: float | None = None
        self.at_s: float | None = None
        self._recent_s = array("d")
        self._n = 0
        self._p95_s = 0.0
        self._p95_at = 0

    def add(self, seconds: float, tokens: int, now_s: float) -> None:
        """A call has ended. tokens: 0 if they say nothing of its speed."""
        weight = 1.0 if self.at_s is None else min(1.0, max(_WEIGHT, (now_s - self.at_s) / _OLD_S))
        self.at_s = now_s
        if self._n < _KEPT_CALLS:
            self._recent_s.append(seconds)
        else:
            self._recent_s[self._n % _KEPT_CALLS] = seconds
        self._n += 1
        latency_s = self.latency_s
        self.latency_s = seconds if latency_s is None else latency_s + (seconds - latency_s) * weight
        if tokens and seconds > 0:
            rate, before = tokens / seconds, self.tokens_per_s
            self.tokens_per_s = rate if before is None else before + (rate - before) * weight

    def p95_s(self) -> float | None:
        """What 95 of 100 calls stay below; None before there were enough to say."""
        if self._n < _MIN_FOR_P95:
            return None
        if self._p95_at == 0 or self._n - self._p95_at >= _STALE_AFTER:
            self._p95_s, self._p95_at = self.percentile_s(0.95) or 0.0, self._n
        return self._p95_s

    def percentile_s(self, share: float) -> float | None:
        """What that share of the kept calls stays below; None without any."""
        if not self._recent_s:
            return None
        ordered = sorted(self._recent_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class RetryBudget:
    """Retry budget of one route: a share of its calls, and a small reserve for quiet times.

    Where everything fails, retrying it all would multiply the load just when it hurts most. Calls and retries are
    those of this window of ten seconds and the one before.
    """

    __slots__ = ("_before", "_calls", "_ends_s", "_repeated", "_reserve", "_share")

    def __init__(self, share: float, reserve: int, now_s: float) -> None:
        """share: further attempts that each call earns. reserve: those of a window that need not be earned."""
        self._share = share
        self._reserve = reserve
        self._ends_s = now_s + _BUDGET_WINDOW_S
        self._calls = self._repeated = 0
        self._before = (0, 0)

    def earn(self, now_s: float) -> None:
        """A call was made."""
        if now_s >= self._ends_s:
            self._turn(now_s)
        self._calls += 1

    def spend(self, now_s: float) -> bool:
        """Take one further attempt, if there is one."""
        if now_s >= self._ends_s:
            self._turn(now_s)
        calls, repeated = self._before
        if self._repeated + repeated + 1 > self._reserve + self._share * (self._calls + calls):
            return False
        self._repeated += 1
        return True

    def _turn(self, now_s: float) -> None:
        is_next = now_s < self._ends_s + _BUDGET_WINDOW_S
        self._before = (self._calls, self._repeated) if is_next else (0, 0)
        self._calls = self._repeated = 0
        self._ends_s = now_s + _BUDGET_WINDOW_S


class RouteHealth:
    """Health of one route of one model: its circuit breaker, its recent calls, its retry budget."""

    __slots__ = (
        "_breaker",
        "_budget",
        "_clock",
        "_jitter",
        "_last_code",
        "_last_failed_at_ms",
        "_now_ms",
        "_place",
        "_seen",
        "_settings",
    )

    def __init__(
        self,
        place: tuple[str, str],
        settings: UpstreamSettings,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        """place: model and provider. Use `RouteHealths.of`."""
        self._place = place
        self._settings = settings
        self._clock = clock
        self._jitter = jitter
        self._now_ms = now_ms
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was learned."""
        settings = self._settings
        self._breaker = CircuitBreaker(self._place[1], settings, self._jitter)
        self._budget = RetryBudget(settings.retry_share, settings.retry_reserve, self._clock())
        self._seen = RecentCalls()
        self._last_code: str | None = None
        self._last_failed_at_ms: int | None = None

    @property
    def is_well(self) -> bool:
        """Whether the route is as good as any: requests may go there first."""
        breaker = self._breaker
        return not breaker.is_open and self._clock() >= breaker.busy_until_s

    @property
    def is_due(self) -> bool:
        """Whether somebody should find out if the route works again, and nobody does."""
        return self._breaker.is_due(self._clock())

    @property
    def latency_s(self) -> float | None:
        """Seconds of a call, on an average of the last ones; None before the first."""
        return self._seen.latency_s

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens that a call does in a second, on such an average; None if no call told."""
        return self._seen.tokens_per_s

    @property
    def seen_at_s(self) -> float | None:
        """When the last call ended, on the clock of all routes; None before the first."""
        return self._seen.at_s

    @property
    def p95_s(self) -> float | None:
        """What 95 of 100 calls stay below; None before there were enough to say."""
        return self._seen.p95_s()

    def refusal(self) -> UpstreamError | None:
        """Why not even a request without another route may call now, with a true `retry_after_s`; None if it may."""
        return self._breaker.refusal(self._clock())

    def lease(self) -> float:
        """Lease the trial of an open circuit: the next call tells whether the route works again. To be given back."""
        return self._breaker.lease(self._clock())

    def give_back(self, lease: float) -> None:
        """Give the lease back, for another trial if no call has told."""
        self._breaker.give_back(lease)

    def succeeded(self, seconds: float, tokens: int = 0) -> None:
        """A call took so long and gave a good answer. tokens: that it did; 0 where that says nothing of its speed."""
        now_s = self._clock()
        seen, breaker = self._seen, self._breaker
        if seen.at_s is None:
            metrics.route_works(*self._place, works=not breaker.is_open)
        seen.add(seconds, tokens, now_s)
        self._budget.earn(now_s)
        was_open = breaker.is_open
        breaker.succeeded(now_s - seconds, now_s)
        if was_open and not breaker.is_open:
            events.ROUTE_RECOVERED.emit(model=self._place[0], provider=self._place[1])
            metrics.route_works(*self._place, works=True)

    def failed(self, error: GatewayError, seconds: float) -> None:
        """A call took so long and failed. One that was given little time is no proof of anything."""
        now_s = self._clock()
        if not isinstance(error, (UpstreamLimited, AccessError)):  # else there was no call
            self._budget.earn(now_s)
        enough_s = min(2 * (self._seen.p95_s() or 0.0), _ENOUGH * self._settings.attempt_timeout_s)
        if isinstance(error, UpstreamTimeout) and seconds < enough_s:
            return
        self._judge(error, now_s - seconds, now_s)

    def disproved(self, error: UpstreamError) -> None:
        """Another route of the same weights has answered what this route refused as wrong: count a failure."""
        now_s = self._clock()
        self._judge(UpstreamFailed(error.message), now_s, now_s)

    def outrun(self, seconds: float) -> None:
        """A call was given up after so long, because another route was quicker."""
        now_s = self._clock()
        self._budget.earn(now_s)
        self._seen.add(seconds, 0, now_s)  # left out, the slowest calls would make the percentile ever smaller
        was_open = self._breaker.is_open
        self._breaker.slow(now_s)
        if self._breaker.is_open and not was_open:
            self._tell_opened(UpstreamTimeout.code)

    def may_retry(self, after: UpstreamError | None = None) -> bool:
        """Take one retry out of the route's budget, if there is one. After an attempt that was not made it costs none.

        after: what the attempt before failed with.
        """
        return isinstance(after, UpstreamLimited) or self._budget.spend(self._clock())

    def health(self) -> HealthReport:
        """How the route is doing now."""
        now_s = self._clock()
        breaker, seen = self._breaker, self._seen
        has_failed = self._last_code is not None
        if seen.at_s is None and not has_failed:
            return HealthReport()
        state: Health = "ok"
        if not breaker.is_well(now_s):
            state = "probing" if breaker.is_half_open(now_s) else "failing"
        return HealthReport(
            state=state,
            p50_ms=_ms(seen.percentile_s(0.5)),
            p95_ms=_ms(seen.percentile_s(0.95)),
            failure_share=breaker.failure_share,
            last_failure_code=self._last_code,
            last_failure_at_ms=self._last_failed_at_ms,
        )

    def _judge(self, error: GatewayError, began_s: float, now_s: float) -> None:
        is_full = isinstance(error, UpstreamQueueFull)
        if is_full or (isinstance(error, UpstreamError) and not isinstance(error, UpstreamLimited)):
            self._last_code, self._last_failed_at_ms = error.code, self._now_ms()
        was_open = self._breaker.is_open
        self._breaker.failed(error, began_s, now_s)
        if self._breaker.is_open and not was_open:
            self._tell_opened(error.code)

    def _tell_opened(self, code: str) -> None:
        model, provider = self._place
        events.ROUTE_FAILING.emit(model=model, provider=provider, code=code)
        metrics.route_works(model, provider, works=False)


class RouteHealths:
    """Health of all routes that were ever looked at: as many as the catalogue has."""

    def __init__(
        self,
        settings: UpstreamSettings,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        now_ms: Callable[[], int] = utc_ms,
    ) -> None:
        """clock: monotonic seconds. jitter: random numbers from 0 to 1. now_ms: dates failures."""
        self._settings = settings
        self._clock = clock
        self._jitter = jitter
        self._now_ms = now_ms
        self._by_route: dict[tuple[str, str], RouteHealth] = {}

    def of(self, candidate: Candidate) -> RouteHealth:
        """The health of a candidate's route."""
        place = (candidate.model.id, candidate.route.provider)
        found = self._by_route.get(place)
        if found is None:
            found = RouteHealth(place, self._settings, self._clock, self._jitter, self._now_ms)
            self._by_route[place] = found
        return found

    def forget(self, provider: str) -> None:
        """Forget the health of a provider's routes: its address or its key has changed."""
        for place, state in self._by_route.items():
            if place[1] == provider:
                state.begin_anew()
                metrics.route_forgotten(*place)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
