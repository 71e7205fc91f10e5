"""Retry budget of one route: a share of its calls, and a small reserve for quiet times.

Where everything fails, retrying it all would multiply the load just when it hurts most. Knows no provider.
"""

_WINDOW_S = 10.0


class RetryBudget:
    """Retry budget: counts calls and retries of this window of ten seconds and the one before."""

    __slots__ = ("_before", "_calls", "_ends_s", "_repeated", "_reserve", "_share")

    def __init__(self, share: float, reserve: int, now_s: float) -> None:
        """share: further attempts that each call earns. reserve: those of a window that need not be earned."""
        self._share = share
        self._reserve = reserve
        self._ends_s = now_s + _WINDOW_S
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
        is_next = now_s < self._ends_s + _WINDOW_S
        self._before = (self._calls, self._repeated) if is_next else (0, 0)
        self._calls = self._repeated = 0
        self._ends_s = now_s + _WINDOW_S
