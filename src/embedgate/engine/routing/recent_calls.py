"""Latency and throughput of the recent calls of one route: moving averages and percentiles.

Averages follow the last calls; percentiles are those of the last hundred. Knows nothing of failures.
"""

from array import array

_KEPT = 100
_WEIGHT = 0.1
"""Of the newest call in the averages, at least: after a change, 20 calls are enough to see it."""
_OLD_S = 60.0
"""What was seen so long before the newest call counts no more beside it: some routes are seldom asked."""
_MIN_FOR_P95 = 20
_STALE_AFTER = 10
"""New calls until a percentile is reckoned anew: sorting costs more than all the rest."""


class RecentCalls:
    """Latency and throughput of the last calls of one route."""

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
        if self._n < _KEPT:
            self._recent_s.append(seconds)
        else:
            self._recent_s[self._n % _KEPT] = seconds
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
