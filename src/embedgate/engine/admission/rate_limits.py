"""Rate limits of keys, users and projects: requests and tokens per minute, and requests in flight.

Implements the port RateLimiter in this process, for one event loop; counts start anew with it. A request meets all the
limits of all its subjects, or none of them counts it. Knows nothing of money, policies or providers. The window of one
subject is in `sliding_window`.

Requests beyond the number in flight wait in one queue. When a request ends, the queue is walked from its head, and
every request is let in for which all subjects have room. So no request passes another that waits for the same subjects,
and none waits behind a subject that is not its own. The price: a request that needs room at two busy subjects may see
others take it at one of them while the other is full; its deadline bounds that wait.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embedgate.core.access import EVERY, LimitRule, Rate, Subject
from embedgate.core.errors import Overloaded, RateLimited
from embedgate.engine.admission.sliding_window import UNLIMITED, SlidingWindow, Slot

MIN_KNOWN = 1024
"""Tuples of subjects that are remembered, at least, before the idle ones are forgotten."""


class RateLimits:
    """The limits in force and what has been used of them.

    Subjects that are idle (nothing in flight, waiting, or counted in the last minute) are forgotten each time that as
    many new callers have come as there were busy subjects, but at least `MIN_KNOWN`. With three subjects a caller,
    memory holds at most four times the busy ones, or 3,072 more than them.
    """

    def __init__(self, rules: Sequence[LimitRule] = (), clock: Callable[[], float] = time.monotonic) -> None:
        """rules: with positive numbers, one per subject. clock: seconds, never going back."""
        self._clock = clock
        self._rules: dict[Subject, LimitRule] = {}
        self._meters: dict[Subject, SlidingWindow] = {}
        self._known: dict[tuple[Subject, ...], tuple[SlidingWindow, ...]] = {}
        self._max_known = MIN_KNOWN
        self._line: dict[_Waiting, None] = {}
        # Shared by all who have no limit: it leads to no meter, so correcting and leaving it does nothing.
        self._unlimited = CountedRequest((), 0, self._call_next)
        self.replace(rules)

    def replace(self, rules: Sequence[LimitRule]) -> None:
        """Put other rules in force, for those who wait too. What was counted under the old ones stays counted."""
        self._rules = {rule.subject: rule for rule in rules}
        self._forget_idle()
        for subject, meter in self._meters.items():
            meter.follow(self._rule_of(subject) or LimitRule(subject))
        for waiting in tuple(self._line):
            self._call(waiting)

    async def enter(self, subjects: Sequence[Subject], tokens: int, deadline_s: float) -> "CountedRequest":
        """Count a request and give it a place in flight, for all of its subjects at once; wait for a place if need be.

        tokens: a good estimate, 0 or more; `CountedRequest.correct` puts it right. deadline_s: on this object's clock.
        Guarantees that who is refused or cancelled is counted nowhere. Who waits is counted when let in, not before.
        Raises RateLimited if the minute is used up, now or once a place is free; it carries the time after which the
        same request would be let in if nobody else asked, or none if it is too big for any minute. Raises Overloaded
        if no place is free and the line is full, or the deadline passes.
        """
        if not self._rules:
            return self._unlimited
        callers = tuple(subjects)
        meters = self._meters_of(callers)
        if not meters:
            return self._unlimited
        now = self._clock()
        refusal = _refusal(meters, tokens, now)
        if refusal is not None:
            raise refusal
        if _have_places(meters):
            return self._admit(meters, tokens, now)
        return await self._wait(callers, meters, tokens, deadline_s)

    def rate(self, subjects: Sequence[Subject]) -> Rate | None:
        """Where a caller stands: of each sort, the limit with the least left. None if no minute is limited for them."""
        if not self._rules:
            return None
        meters = self._meters_of(tuple(subjects))
        now = self._clock()
        for meter in meters:
            meter.expire(now)
        by_requests = [meter for meter in meters if meter.max_requests < UNLIMITED]
        by_tokens = [meter for meter in meters if meter.max_tokens < UNLIMITED]
        requests = min(by_requests, key=SlidingWindow.requests_left, default=None)
        tokens = min(by_tokens, key=SlidingWindow.tokens_left, default=None)
        if requests is None and tokens is None:
            return None
        return Rate(
            limit_requests=requests.max_requests if requests else None,
            remaining_requests=requests.requests_left() if requests else None,
            reset_requests_s=requests.requests_reset_s(now) if requests else 0.0,
            limit_tokens=tokens.max_tokens if tokens else None,
            remaining_tokens=tokens.tokens_left() if tokens else None,
            reset_tokens_s=tokens.tokens_reset_s(now) if tokens else 0.0,
        )

    def applies(self, subjects: Sequence[Subject]) -> bool:
        """Whether any limit concerns these subjects."""
        return bool(self._rules) and bool(self._meters_of(tuple(subjects)))

    def requests_per_minute(self, user_id: str) -> int | None:
        """The limit of a user, by a rule of its own or the one for every user; None without one."""
        if not self._rules:
            return None
        rule = self._rule_of(Subject("user", user_id))
        return rule.requests_per_minute if rule else None

    def _rule_of(self, subject: Subject) -> LimitRule | None:
        return self._rules.get(subject) or self._rules.get(Subject(subject.kind, EVERY))

    def _meters_of(self, subjects: tuple[Subject, ...]) -> tuple[SlidingWindow, ...]:
        """The meters of those subjects that have a rule."""
        if not self._rules:
            return ()
        meters = self._known.get(subjects)
        return self._get_to_know(subjects) if meters is None else meters

    def _get_to_know(self, subjects: tuple[Subject, ...]) -> tuple[SlidingWindow, ...]:
        if len(self._known) >= self._max_known:
            self._forget_idle()
        meters = []
        for subject in dict.fromkeys(subjects):
            rule = self._rule_of(subject)
            if rule is None:
                continue
            if subject not in self._meters:
                self._meters[subject] = SlidingWindow(subject, rule)
            meters.append(self._meters[subject])
        self._known[subjects] = tuple(meters)
        return self._known[subjects]

    def _forget_idle(self) -> None:
        now = self._clock()
        self._meters = {subject: meter for subject, meter in self._meters.items() if not meter.is_idle(now)}
        self._known.clear()  # it leads to meters that are gone: a subject must never be counted in two
        self._max_known = max(MIN_KNOWN, len(self._meters))

    def _admit(self, meters: Sequence[SlidingWindow], tokens: int, now: float) -> "CountedRequest":
        return CountedRequest([meter.count(tokens, now) for meter in meters], tokens, self._call_next)

    async def _wait(
        self, subjects: tuple[Subject, ...], meters: Sequence[SlidingWindow], tokens: int, deadline_s: float
    ) -> "CountedRequest":
        full = tuple(meter for meter in meters if not meter.has_place())
        for meter in full:
            if meter.waiting >= meter.max_waiting:
                raise meter.line_is_full()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(subjects, tokens, full, loop.create_future())
        self._line[waiting] = None
        for meter in full:
            meter.waiting += 1
        timer = loop.call_later(max(0.0, deadline_s - self._clock()), self._give_up, waiting)
        try:
            answer = await waiting.answer
        except asyncio.CancelledError:
            if waiting.answer.cancelled():
                self._step_out(waiting)
            elif isinstance(
                let_in := waiting.answer.result(), CountedRequest
            ):  # let in and cancelled in the same moment
                let_in.withdraw()
            raise
        finally:
            timer.cancel()
        if isinstance(answer, CountedRequest):
            return answer
        raise answer

    def _step_out(self, waiting: "_Waiting") -> None:
        if waiting in self._line:
            del self._line[waiting]
            for meter in waiting.full:
                meter.waiting -= 1

    def _answer(self, waiting: "_Waiting", answer: "CountedRequest | RateLimited | Overloaded") -> None:
        self._step_out(waiting)
        if not waiting.answer.done():
            waiting.answer.set_result(answer)

    def _give_up(self, waiting: "_Waiting") -> None:
        full = (meter for meter in self._meters_of(waiting.subjects) if not meter.has_place())
        self._answer(waiting, next(full, waiting.full[0]).no_place_in_time())

    def _call_next(self, freed: Sequence[SlidingWindow]) -> None:
        """Let in who can go now that each of `freed` has a place. Nobody else in line can."""
        for waiting in tuple(self._line):
            if self._call(waiting) and not any(meter.has_place() for meter in freed):
                return

    def _call(self, waiting: "_Waiting") -> bool:
        """Let one in, or refuse it, if there is a place for it. Returns False if it goes on waiting."""
        meters = self._meters_of(waiting.subjects)  # looked up anew: rules may have changed since it came
        if not _have_places(meters) or waiting.answer.cancelled():
            return False
        now = self._clock()
        refusal = _refusal(meters, waiting.tokens, now)
        self._answer(waiting, refusal or self._admit(meters, waiting.tokens, now))
        return True


class CountedRequest:
    """A request that was let in: counted in the window of its subjects, and in flight at each."""

    __slots__ = ("_free", "_is_in_flight", "_slots", "_tokens")

    def __init__(self, slots: Sequence[Slot], tokens: int, free: Callable[[Sequence[SlidingWindow]], None]) -> None:
        """slots: where it is counted. free: told of the windows that were full before. Use `RateLimits.enter`."""
        self._slots = slots
        self._tokens = tokens
        self._free = free
        self._is_in_flight = True

    def correct(self, tokens: int) -> None:
        """Put the true number of tokens in place of the one counted so far, as of when the request was let in."""
        if not self._slots:
            return
        difference = tokens - self._tokens
        self._tokens = tokens
        if difference:
            for slot in self._slots:
                slot.add(0, difference)

    def leave(self) -> None:
        """Give the place in flight to the next in line. Leaving twice changes nothing."""
        if not self._slots or not self._is_in_flight:
            return
        self._is_in_flight = False
        freed = []
        for slot in self._slots:
            meter = slot.meter
            if meter.in_flight == meter.max_parallel:
                freed.append(meter)
            meter.in_flight -= 1
        if freed:
            self._free(freed)

    def withdraw(self) -> None:
        """Leave, and be counted no more: for a request that was refused after all, before anything was sent."""
        for slot in self._slots:
            slot.add(-1, -self._tokens)
        self.leave()
        self._slots = ()


@dataclass(slots=True, eq=False)
class _Waiting:
    """One in line. `full`: the subjects that had no place when it came; it takes up their `max_waiting`."""

    subjects: tuple[Subject, ...]
    tokens: int
    full: tuple[SlidingWindow, ...]
    answer: "asyncio.Future[CountedRequest | RateLimited | Overloaded]"


def _have_places(meters: Sequence[SlidingWindow]) -> bool:
    for meter in meters:  # noqa: SIM110  `all()` over a generator takes three times as long, on every request
        if meter.in_flight >= meter.max_parallel:
            return False
    return True


def _refusal(meters: Sequence[SlidingWindow], tokens: int, now: float) -> RateLimited | None:
    """None if the minute of every subject has room for the request. Of several that have not, the slowest refuses."""
    refusing = [meter for meter in meters if not meter.fits(tokens, now)]
    if not refusing:
        return None
    fits_at_s, slowest = max(((meter.fits_at(tokens), meter) for meter in refusing), key=lambda pair: pair[0])
    if math.isinf(fits_at_s):
        return slowest.too_big(tokens)
    return slowest.minute_is_used(tokens, _seconds(now, fits_at_s))


def _seconds(start_s: float, end_s: float) -> float:
    """How long from one moment to the other; the difference alone may round to a hair too little."""
    wait_s = end_s - start_s
    return wait_s if start_s + wait_s >= end_s else math.nextafter(wait_s, math.inf)
