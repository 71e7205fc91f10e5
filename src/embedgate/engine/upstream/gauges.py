"""Gauges of the rate limits of one credential: limits that the settings name, and limits that the provider reports.

Both kinds count what is in flight and say when there is room for more. Combining several limits is for `limits`.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from embedgate.core.hints import Allowance

WINDOW_S = 60.0
SLOT_S = WINDOW_S / 1000

MAX_TRUST_S = 60.0
"""Longest time for which a reported reset is trusted; then one call finds out again. Vendors mean different things by
a reset, and a misread one must not block a credential for a day."""
_MIN_WINDOW_S = 0.05
"""Shortest interval between two checks of waiting calls while the length of the window is unknown."""
_PERIODS_S = (60.0, 86_400.0)
"""Periods of token buckets: per minute or per day, at every vendor that has them."""
SOON_S = 1.0
"""Wait of a call that will fit if others use fewer tokens than their bounds. A guess."""
_ROUGHLY = 0.1
_RESET_PRECISION_S = 1.0
"""Some vendors report resets in whole seconds."""


class ConfiguredLimit:
    """Configured limit: at most `limit` in any 60 s, as seen from the provider's side. Sliding window.

    A call counts from its start until a minute after its end, for the provider counted it at some moment in between;
    as a request, it ends when its answer begins. What ended within 60 ms is kept as one: it may count 60 ms too long,
    never too short.
    """

    __slots__ = ("_counted", "_likely", "_limit", "_slots", "in_flight", "waiting")
    is_known: ClassVar[bool] = True
    """Whether it limits anything."""

    def __init__(self, limit: int, likely: float) -> None:
        """limit: at least 1. likely: usual share of its bound that a call uses, at most 1."""
        self._limit = limit
        self._likely = likely
        self.in_flight = self._counted = 0
        self._slots: deque[_Slot] = deque()
        self.waiting = 0

    def fit(self, n: int) -> int:
        """`n`, at most the limit: a larger call is admitted when the minute is empty."""
        return min(n, self._limit)

    def end(self, n: int, used: int, now: float) -> None:
        """End a call that began with `n`, and count what it used."""
        self.in_flight -= n
        if not used:
            return
        self._counted += used
        if not self._slots or now - self._slots[-1].opened_s >= SLOT_S:
            self._slots.append(_Slot(now))
        last = self._slots[-1]
        last.until_s = now + WINDOW_S
        last.used += used

    def tell(self, _n: int, _began_s: float, _told: Allowance, _now: float) -> bool:
        """Ignore what the provider reports: the configured limit applies."""
        return False

    def ready_at(self, n: int, now: float, *, is_last: bool) -> float:
        """The first moment when `n` more fit, if nothing else begins; `now` if they do.

        is_last: behind the waiting calls. The wait is short where it fits if other calls use their likely share.
        """
        slots = self._slots
        while slots and slots[0].until_s <= now:
            self._counted -= slots.popleft().used
        before = self.in_flight + (self.waiting if is_last else 0)
        short = before + self._counted + n - self._limit
        if short <= 0:
            return now
        latest_s = now + (SOON_S if short <= before * (1 - self._likely) else WINDOW_S)
        for slot in slots:
            short -= slot.used
            if short <= 0:
                return min(slot.until_s, latest_s)
        return latest_s  # at the earliest: calls in flight must end first, and then still count


@dataclass(slots=True)
class _Slot:
    """Usage of calls that ended within 60 ms."""

    opened_s: float
    until_s: float = 0.0
    used: int = 0


class ReportedLimit:
    """Limit that the provider reports with its answers. Before the first report, everything fits.

    Between reports the calls are counted here. Answers overtake each other, so within a window a report can only lower
    what remains. There are two kinds. A fixed window gives nothing back until it ends. A token bucket refills evenly,
    and its reset is when it will be full; it is recognised by a reset that grows with usage.
    """

    __slots__ = (
        "_as_of_s",
        "_full_at_s",
        "_is_guess",
        "_likely",
        "_limit",
        "_per_s",
        "_remaining",
        "_span_s",
        "in_flight",
        "is_known",
        "waiting",
    )

    def __init__(self, likely: float) -> None:
        """likely: usual share of its bound that a call uses, at most 1."""
        self._likely = likely
        self._limit = self._remaining = math.inf
        self._per_s = 0.0
        self._span_s = _MIN_WINDOW_S
        self._as_of_s = self._full_at_s = -math.inf
        self._is_guess = False
        self.in_flight = 0
        self.is_known = False
        """Whether it limits anything."""
        self.waiting = 0

    def fit(self, n: int) -> int:
        """`n`, at most the limit: a larger call is admitted when all of it remains."""
        return int(min(n, self._limit))

    def end(self, n: int, used: int, _now: float) -> None:
        """End a call that began with `n` and brought no report, and count what it used."""
        self.in_flight -= n
        self._remaining -= used

    def tell(self, n: int, began_s: float, told: Allowance, now: float) -> bool:
        """Follow the report in the answer to a call that began with `n`, and end the call. False if there is none.

        The provider wrote it at some moment between `began_s` and `now`.
        """
        if told.remaining is None or told.reset_s is None:
            return False
        self.in_flight -= n
        self._catch_up(now)
        limit = math.inf if told.limit is None else told.limit
        per_s = _refill_per_s(told)
        if per_s is None:
            per_s = self._per_s if limit == self._limit else 0.0
        full_at_s, remaining = now + told.reset_s, float(told.remaining)
        may_be_same_window = now < self._full_at_s and began_s + told.reset_s <= self._full_at_s + _RESET_PRECISION_S
        if per_s or may_be_same_window:  # what other calls have used since then is in our count only
            remaining = min(self._remaining, remaining)
            full_at_s = full_at_s if self._is_guess else max(self._full_at_s, full_at_s)
        self._full_at_s = full_at_s if per_s else min(full_at_s, now + MAX_TRUST_S)
        self._span_s = min(max(self._span_s, told.reset_s), MAX_TRUST_S)
        self._limit, self._remaining, self._per_s, self._is_guess = limit, remaining, per_s, False
        self.is_known = remaining < math.inf
        return True

    def ready_at(self, n: int, now: float, *, is_last: bool) -> float:
        """The first moment when `n` more fit, if nothing else begins; `now` if they do.

        is_last: behind the waiting calls. The wait is short where it fits if other calls use their likely share.
        """
        self._catch_up(now)
        before = self.in_flight + (self.waiting if is_last else 0)
        short = before + n - self._remaining
        if short <= 0:
            return now
        at_s = self._full_at_s
        if self._per_s:
            at_s = max(now + short / self._per_s, math.nextafter(now, math.inf))
        return min(at_s, now + SOON_S) if short <= before * (1 - self._likely) else at_s

    def _catch_up(self, now: float) -> None:
        """Add what has been refilled since the last call."""
        if self._per_s:
            self._remaining = min(self._limit, self._remaining + (now - self._as_of_s) * self._per_s)
        elif now >= self._full_at_s and self.is_known:
            # The next window has begun; how long it is, its first answer will say.
            self._remaining, self._full_at_s, self._is_guess = self._limit, now + self._span_s, True
        self._as_of_s = now


def _refill_per_s(told: Allowance) -> float | None:
    """Refill rate of a limit: 0.0 if nothing returns before its reset, None if it cannot be told.

    A bucket is full again after a time in proportion to what is used. Windows may look so by chance, but hardly while
    little is used.
    """
    if told.limit is None or told.remaining is None or told.reset_s is None:
        return 0.0
    used = told.limit - told.remaining
    if used <= 0:
        return None
    for period_s in _PERIODS_S:
        full_in_s = period_s * used / told.limit
        if abs(told.reset_s - full_in_s) <= max(_ROUGHLY * full_in_s, _RESET_PRECISION_S):
            return told.limit / period_s if used <= max(1, told.limit / 4) else None
    return 0.0
