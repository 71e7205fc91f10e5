"""Sliding-window rate limits of keys, users and projects: requests and tokens per minute, requests in flight.

Implements the port RateLimiter in this process, for one event loop; `restore` counts what an earlier process admitted.
A request is within all limits of all its subjects, or none of them counts it. Knows nothing of money, policies or
providers. The window of one subject is in `sliding_window`.

Requests beyond the number in flight wait in one queue. When a request ends, the queue is walked from its head, and
every request for which all subjects have room is admitted. So no request overtakes another that waits for the same
subjects, and none waits behind a subject that is not its own. The cost: a request that needs room at two busy subjects
may see others take it at one of them while the other is full; its deadline bounds that wait.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from embedgate.core.access import EVERY, LimitRule, Rate, RecentRequest, Subject
from embedgate.core.demand import caller_left, while_wanted
from embedgate.core.errors import CallerLeft, Overloaded, RateLimited
from embedgate.engine.admission.sliding_window import UNLIMITED, SlidingWindow, Slot
from embedgate.observe import metrics

MIN_KNOWN = 1024
"""Tuples of subjects that are remembered, at least, before the idle ones are forgotten."""


class RateLimits:
    """Rate limits in force, and their windows. Implements the port RateLimiter.

    Subjects that are idle (nothing in flight, waiting, or counted in the last minute) are forgotten each time that as
    many new callers have come as there were busy subjects, but at least `MIN_KNOWN`. With three subjects a caller,
    memory holds at most four times the busy ones, or 3,072 more than them.
    """

    def __init__(self, rules: Sequence[LimitRule] = (), clock: Callable[[], float] = time.monotonic) -> None:
        """rules: with positive numbers, one per subject. clock: seconds, never going back."""
        self._clock = clock
        self._rules: dict[Subject, LimitRule] = {}
        self._windows: dict[Subject, SlidingWindow] = {}
        self._known: dict[tuple[Subject, ...], tuple[SlidingWindow, ...]] = {}
        self._max_known = MIN_KNOWN
        self._queue: dict[_Waiting, None] = {}
        # Shared by all who have no limit: it refers to no window, so correcting and leaving it does nothing.
        self._unlimited = CountedRequest((), 0, self._admit_waiting, clock)
        self.replace(rules)

    def replace(self, rules: Sequence[LimitRule]) -> None:
        """Replace the rules in force, for waiting requests too. Counts are kept."""
        self._rules = {rule.subject: rule for rule in rules}
        self._forget_idle()
        for subject, window in self._windows.items():
            window.follow(self._rule_of(subject) or LimitRule(subject))
        for waiting in tuple(self._queue):
            self._try(waiting)

    def restore(self, requests: Sequence[RecentRequest], now_ms: int) -> None:
        """Count requests that an earlier process admitted, within their minute, before the first of this one.

        requests: oldest first. now_ms: UTC milliseconds; what is dated later counts as of now.
        """
        now = self._clock()
        for request in requests:
            at = now - max(0, now_ms - request.at_ms) / 1000
            for window in self._windows_of(request.subjects):
                window.count(request.tokens, at)
                window.in_flight -= 1

    async def enter(self, subjects: Sequence[Subject], tokens: int, deadline_s: float) -> "CountedRequest":
        """Admit a request: count it, and in flight, for all of its subjects at once; wait in the queue if needed.

        tokens: an estimate, 0 or more; `CountedRequest.correct` corrects it. deadline_s: on this object's clock.
        A refused or cancelled request is counted nowhere; a waiting one is counted when it is admitted.
        Raises RateLimited if the minute is used up, now or once fewer are in flight; `retry_after_s` is when the same
        request would be admitted if no other came, None if it is too large for any minute. Raises Overloaded if too
        many are in flight and the queue is full, or the deadline passes. Raises CallerLeft if the caller leaves the
        queue.
        """
        if not self._rules:
            return self._unlimited
        callers = tuple(subjects)
        windows = self._windows_of(callers)
        if not windows:
            return self._unlimited
        now = self._clock()
        refusal = _refusal(windows, tokens, now)
        if refusal is not None:
            raise refusal
        if _have_room(windows):
            return self._admit(windows, tokens, now)
        return await self._wait(callers, windows, tokens, deadline_s)

    def rate(self, subjects: Sequence[Subject]) -> Rate | None:
        """Rate-limit state of a caller: of requests and of tokens, the tightest limit. None without a limit."""
        if not self._rules:
            return None
        windows = self._windows_of(tuple(subjects))
        now = self._clock()
        for window in windows:
            window.expire(now)
        by_requests = [window for window in windows if window.max_requests < UNLIMITED]
        by_tokens = [window for window in windows if window.max_tokens < UNLIMITED]
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
        """Whether any limit applies to these subjects."""
        return bool(self._rules) and bool(self._windows_of(tuple(subjects)))

    def requests_per_minute(self, user_id: str) -> int | None:
        """Request limit of a user, from its own rule or the one for every user; None without one."""
        if not self._rules:
            return None
        rule = self._rule_of(Subject("user", user_id))
        return rule.requests_per_minute if rule else None

    def _rule_of(self, subject: Subject) -> LimitRule | None:
        return self._rules.get(subject) or self._rules.get(Subject(subject.kind, EVERY))

    def _windows_of(self, subjects: tuple[Subject, ...]) -> tuple[SlidingWindow, ...]:
        """The windows of those subjects that have a rule."""
        if not self._rules:
            return ()
        windows = self._known.get(subjects)
        return self._remember(subjects) if windows is None else windows

    def _remember(self, subjects: tuple[Subject, ...]) -> tuple[SlidingWindow, ...]:
        if len(self._known) >= self._max_known:
            self._forget_idle()
        windows = []
        for subject in dict.fromkeys(subjects):
            rule = self._rule_of(subject)
            if rule is None:
                continue
            if subject not in self._windows:
                self._windows[subject] = SlidingWindow(subject, rule)
            windows.append(self._windows[subject])
        self._known[subjects] = tuple(windows)
        return self._known[subjects]

    def _forget_idle(self) -> None:
        now = self._clock()
        self._windows = {subject: window for subject, window in self._windows.items() if not window.is_idle(now)}
        self._known.clear()  # it refers to windows that are gone: a subject must never be counted in two
        self._max_known = max(MIN_KNOWN, len(self._windows))

    def _admit(self, windows: Sequence[SlidingWindow], tokens: int, now: float) -> "CountedRequest":
        return CountedRequest(
            [window.count(tokens, now) for window in windows], tokens, self._admit_waiting, self._clock
        )

    async def _wait(
        self, subjects: tuple[Subject, ...], windows: Sequence[SlidingWindow], tokens: int, deadline_s: float
    ) -> "CountedRequest":
        full = tuple(window for window in windows if not window.has_room())
        for window in full:
            if window.waiting >= window.max_waiting:
                raise window.queue_is_full()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(subjects, tokens, full, loop.create_future())
        self._queue[waiting] = None
        for window in full:
            window.waiting += 1
        timer = loop.call_later(max(0.0, deadline_s - self._clock()), self._give_up, waiting)
        try:
            with while_wanted(partial(self._drop, waiting)):
                answer = await waiting.answer
        except asyncio.CancelledError:
            if waiting.answer.cancelled():
                self._leave_queue(waiting)
            elif isinstance(
                admitted := waiting.answer.result(), CountedRequest
            ):  # admitted and cancelled in the same moment
                admitted.withdraw()
            raise
        finally:
            timer.cancel()
        if isinstance(answer, CountedRequest):
            return answer
        raise answer

    def _leave_queue(self, waiting: "_Waiting") -> None:
        if waiting in self._queue:
            del self._queue[waiting]
            for window in waiting.full:
                window.waiting -= 1

    def _drop(self, waiting: "_Waiting") -> None:
        """Let a request go whose caller has left."""
        if not waiting.answer.done():
            metrics.call_dropped("admission")
            self._answer(waiting, caller_left())

    def _answer(self, waiting: "_Waiting", answer: "CountedRequest | RateLimited | Overloaded | CallerLeft") -> None:
        self._leave_queue(waiting)
        if not waiting.answer.done():
            waiting.answer.set_result(answer)

    def _give_up(self, waiting: "_Waiting") -> None:
        full = (window for window in self._windows_of(waiting.subjects) if not window.has_room())
        self._answer(waiting, next(full, waiting.full[0]).no_room_in_time())

    def _admit_waiting(self, freed: Sequence[SlidingWindow]) -> None:
        """Admit waiting requests now that each window of `freed` has room. No others can be admitted."""
        for waiting in tuple(self._queue):
            if self._try(waiting) and not any(window.has_room() for window in freed):
                return

    def _try(self, waiting: "_Waiting") -> bool:
        """Admit or refuse a waiting request if there is room in flight. Returns False if it goes on waiting."""
        windows = self._windows_of(waiting.subjects)  # looked up anew: rules may have changed since it came
        if not _have_room(windows) or waiting.answer.cancelled():
            return False
        now = self._clock()
        refusal = _refusal(windows, waiting.tokens, now)
        self._answer(waiting, refusal or self._admit(windows, waiting.tokens, now))
        return True


class CountedRequest:
    """An admitted request: counted in the windows of its subjects, and in flight at each."""

    __slots__ = ("_clock", "_free", "_is_in_flight", "_slots", "_tokens")

    def __init__(
        self,
        slots: Sequence[Slot],
        tokens: int,
        free: Callable[[Sequence[SlidingWindow]], None],
        clock: Callable[[], float],
    ) -> None:
        """slots: where it is counted. free: called with the windows that were full before. Use `RateLimits.enter`."""
        self._clock = clock
        self._slots = slots
        self._tokens = tokens
        self._free = free
        self._is_in_flight = True

    def weigh(self, tokens: int) -> None:
        """Count the tokens of a request that entered with none, if each minute has room for them.

        Raises RateLimited if one has not; then the request is counted nowhere.
        """
        for slot in self._slots:
            slot.add(-1, 0)  # the request itself is not in its own way
        refusal = _refusal([slot.window for slot in self._slots], tokens, self._clock())
        for slot in self._slots:
            slot.add(1, 0)
        if refusal is not None:
            self.withdraw()
            raise refusal
        self.correct(tokens)

    def correct(self, tokens: int) -> None:
        """Replace the number of tokens counted so far by the true one, as of when the request was admitted."""
        if not self._slots:
            return
        difference = tokens - self._tokens
        self._tokens = tokens
        if difference:
            for slot in self._slots:
                slot.add(0, difference)

    def leave(self) -> None:
        """End being in flight; the next in the queue may be admitted. Idempotent."""
        if not self._slots or not self._is_in_flight:
            return
        self._is_in_flight = False
        freed = []
        for slot in self._slots:
            window = slot.window
            if window.in_flight == window.max_parallel:
                freed.append(window)
            window.in_flight -= 1
        if freed:
            self._free(freed)

    def withdraw(self) -> None:
        """Leave, and undo the count: for a request that was refused after all, before anything was sent."""
        for slot in self._slots:
            slot.add(-1, -self._tokens)
        self.leave()
        self._slots = ()


@dataclass(slots=True, eq=False)
class _Waiting:
    """A waiting request. `full`: the windows without room when it came; it counts towards their `max_waiting`."""

    subjects: tuple[Subject, ...]
    tokens: int
    full: tuple[SlidingWindow, ...]
    answer: "asyncio.Future[CountedRequest | RateLimited | Overloaded | CallerLeft]"


def _have_room(windows: Sequence[SlidingWindow]) -> bool:
    for window in windows:  # noqa: SIM110  `all()` over a generator takes three times as long, on every request
        if window.in_flight >= window.max_parallel:
            return False
    return True


def _refusal(windows: Sequence[SlidingWindow], tokens: int, now: float) -> RateLimited | None:
    """The refusal by the window that has room last; None if every window has room for the request."""
    refusing = [window for window in windows if not window.fits(tokens, now)]
    if not refusing:
        return None
    fits_at_s, slowest = max(((window.fits_at(tokens), window) for window in refusing), key=lambda pair: pair[0])
    if math.isinf(fits_at_s):
        return slowest.too_big(tokens)
    return slowest.minute_is_used(tokens, _seconds(now, fits_at_s))


def _seconds(start_s: float, end_s: float) -> float:
    """Seconds from one moment to the other, never rounded down: waiting that long must be enough."""
    wait_s = end_s - start_s
    return wait_s if start_s + wait_s >= end_s else math.nextafter(wait_s, math.inf)
