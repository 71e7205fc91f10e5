"""Gauges of the rate limits of one credential: limits that the settings name, and limits that the provider reports.

Both kinds count what is in flight, and say when there is room for more. Decides nothing for several limits together:
that is `limits`.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from embedgate.core.hints import Allowance

WINDOW_S = 60.0
SLOT_S = WINDOW_S / 1000

MAX_TRUST_S = 60.0
"""How long the word "nothing before the reset" is taken for true. A call then finds out anew: vendors mean different
things by a reset, and a misread one must not cost an account for a day."""
_MIN_WINDOW_S = 0.05
"""Calls that wait look again so often, at most, while no answer says how long a window is."""
_PERIODS_S = (60.0, 86_400.0)
"""Limits that come back bit by bit are per minute or per day, at every vendor that has them."""
SOON_S = 1.0
"""When a call is told to look again that waits for others to turn out smaller than they might have been. A guess."""
_ROUGHLY = 0.1
_RESET_PRECISION_S = 1.0
"""Resets are told in whole seconds, by some."""


class ConfiguredLimit:
    """A limit of the settings: at most `limit` in any 60 s, as seen from the provider's side.

    A call counts from its start until a minute after its end, for the provider counted it at some moment in between;
    as a request, it ends when its answer begins. What ended within 60 ms is kept as one: it may count 60 ms too long,
    never too short.
    """

    __slots__ = ("_counted", "_likely", "_limit", "_slots", "in_flight", "waiting")
    is_known: ClassVar[bool] = True
    """Whether it limits anything."""

    def __init__(self, limit: int, likely: float) -> None:
        """limit: at least 1. likely: how much of what calls may need they mostly do, at most 1."""
        self._limit = limit
        self._likely = likely
        self.in_flight = self._counted = 0
        self._slots: deque[_Slot] = deque()
        self.waiting = 0

    def fit(self, n: int) -> int:
        """`n`, or as much as a whole minute: a call that is larger than that goes when the minute is empty."""
        return min(n, self._limit)

    def end(self, n: int, used: int, now: float) -> None:
        """A call that was begun with `n` is over, and has used so much in truth."""
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
        """What the provider says does not count here."""
        return False

    def ready_at(self, n: int, now: float, *, is_last: bool) -> float:
        """The first moment when `n` more fit, if nothing else begins; `now` if they do.

        is_last: whether they stand behind those that wait. Where they fit if others need what is likely, it is soon.
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
    """What was used by calls that ended within 60 ms."""

    opened_s: float
    until_s: float = 0.0
    used: int = 0


class ReportedLimit:
    """A limit that the provider reports with its answers. Before the first report, everything fits.

    Between its words we count ourselves. Answers overtake each other, so within a window a word can only lower what we
    believe to be left. There are two kinds of limits. Windows give nothing back until they end. Buckets fill at an even
    pace, and their reset is when they will be full; that it grows with what is used up gives them away.
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
        """likely: how much of what calls may need they mostly do, at most 1."""
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
        """`n`, or as much as there ever is: a call that is larger than that goes when everything is there."""
        return int(min(n, self._limit))

    def end(self, n: int, used: int, _now: float) -> None:
        """A call that was begun with `n` is over, without a word; it has used so much in truth."""
        self.in_flight -= n
        self._remaining -= used

    def tell(self, n: int, began_s: float, told: Allowance, now: float) -> bool:
        """Take what the answer to a call begun with `n` says; the call needs no `end` then. False if it says nothing.

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
        if per_s or may_be_same_window:  # what others have used since then is in our count only
            remaining = min(self._remaining, remaining)
            full_at_s = full_at_s if self._is_guess else max(self._full_at_s, full_at_s)
        self._full_at_s = full_at_s if per_s else min(full_at_s, now + MAX_TRUST_S)
        self._span_s = min(max(self._span_s, told.reset_s), MAX_TRUST_S)
        self._limit, self._remaining, self._per_s, self._is_guess = limit, remaining, per_s, False
        self.is_known = remaining < math.inf
        return True

    def ready_at(self, n: int, now: float, *, is_last: bool) -> float:
        """The first moment when `n` more fit, if nothing else begins; `now` if they do.

        is_last: whether they stand behind those that wait. Where they fit if others need what is likely, it is soon.
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
        """What has come back since the last look."""
        if self._per_s:
            self._remaining = min(self._limit, self._remaining + (now - self._as_of_s) * self._per_s)
        elif now >= self._full_at_s and self.is_known:
            # The next window has begun; how long it is, its first answer will say.
            self._remaining, self._full_at_s, self._is_guess = self._limit, now + self._span_s, True
        self._as_of_s = now


def _refill_per_s(told: Allowance) -> float | None:
    """How fast a limit comes back: 0.0 if not before its reset, None if one cannot tell.

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
