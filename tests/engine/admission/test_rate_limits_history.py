"""Any history of the limits against a slow and obvious account of it."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asking_limits import FAR_S, KEY, PROJECT, USER, Clock, admitted, refused, settle, start, wait_of
from embedgate.core.access import EVERY, LimitRule, Subject
from embedgate.core.errors import Overloaded, RateLimited
from embedgate.engine.admission.rate_limits import CountedRequest, RateLimits
from embedgate.engine.admission.sliding_window import SLOT_S
from forms import scaled


@dataclass
class Seen:
    """A request that was let in."""

    at_s: float
    subjects: tuple[Subject, ...]
    tokens: int
    place: CountedRequest
    is_in_flight: bool = True


@dataclass
class Waits:
    """A request that stands in line."""

    subjects: tuple[Subject, ...]
    tokens: int
    full: tuple[Subject, ...]
    task: "asyncio.Task[CountedRequest]"


@dataclass
class Account:
    """Everything that was ever let in, and the rules: nothing expires, nothing is added up beforehand."""

    rules: dict[Subject, LimitRule]
    seen: list[Seen] = field(default_factory=list)
    line: list[Waits] = field(default_factory=list)

    def rules_of(self, subjects: Sequence[Subject]) -> list[tuple[Subject, LimitRule]]:
        pairs = [(s, self.rules.get(s) or self.rules.get(Subject(s.kind, EVERY))) for s in dict.fromkeys(subjects)]
        return [(subject, rule) for subject, rule in pairs if rule is not None]

    def fits(self, subjects: Sequence[Subject], tokens: int, now: float, window_s: float) -> bool:
        """Whether the minute, if it had `window_s`, has room."""
        for subject, rule in self.rules_of(subjects):
            recent = [one for one in self.seen if subject in one.subjects and one.at_s + window_s > now]
            if rule.requests_per_minute is not None and len(recent) + 1 > rule.requests_per_minute:
                return False
            if rule.tokens_per_minute is not None and sum(o.tokens for o in recent) + tokens > rule.tokens_per_minute:
                return False
        return True

    def full(self, subjects: Sequence[Subject]) -> tuple[Subject, ...]:
        return tuple(
            subject
            for subject, rule in self.rules_of(subjects)
            if rule.max_parallel is not None
            and sum(one.is_in_flight and subject in one.subjects for one in self.seen) >= rule.max_parallel
        )

    def line_has_room(self, full: Sequence[Subject]) -> bool:
        return all(
            sum(subject in other.full for other in self.line) < rule.max_waiting
            for subject, rule in self.rules_of(full)
        )


class Trial:
    """The limits and the account side by side. The limits may be stricter by one slot, never looser."""

    def __init__(self, rules: Sequence[LimitRule]) -> None:
        self.clock = Clock()
        self.limits = RateLimits(rules, self.clock)
        self.account = Account({rule.subject: rule for rule in rules})

    def check_let_in(self, subjects: tuple[Subject, ...], tokens: int, place: CountedRequest) -> None:
        assert self.account.fits(subjects, tokens, self.clock.now, 60)
        self.account.seen.append(Seen(self.clock.now, subjects, tokens, place))

    def check_refused(self, subjects: tuple[Subject, ...], tokens: int, error: RateLimited) -> None:
        assert not self.account.fits(subjects, tokens, self.clock.now, 60 + SLOT_S)
        if error.retry_after_s is None:
            assert any(tokens > (rule.tokens_per_minute or tokens) for _, rule in self.account.rules_of(subjects))
            return
        at_s = self.clock.now + error.retry_after_s
        assert self.account.fits(subjects, tokens, at_s, 60)
        assert not self.account.fits(subjects, tokens, math.nextafter(at_s, 0), 60 + SLOT_S)

    async def ask(self, subjects: tuple[Subject, ...], tokens: int, is_patient: bool) -> None:
        full = self.account.full(subjects)
        task = await start(self.limits.enter(subjects, tokens, FAR_S))
        if not task.done():
            assert full
            assert self.account.line_has_room(full)
            self.account.line.append(Waits(subjects, tokens, full, task))
            return
        try:
            place = await task
        except RateLimited as error:
            self.check_refused(subjects, tokens, error)
            if is_patient and error.retry_after_s is not None:
                await self.ask_as_told(subjects, tokens, error.retry_after_s)
        except Overloaded:
            assert full
            assert not self.account.line_has_room(full)
        else:
            assert not full
            self.check_let_in(subjects, tokens, place)

    async def ask_as_told(self, subjects: tuple[Subject, ...], tokens: int, wait_s: float) -> None:
        """A hair too early it is refused; in time it is refused no more, though there may be no place for it."""
        at_s = self.clock.now + wait_s
        self.clock.now = math.nextafter(at_s, 0)
        await refused(self.limits, *subjects, tokens=tokens)
        self.clock.now = at_s
        n_seen, n_line = len(self.account.seen), len(self.account.line)
        await self.ask(subjects, tokens, is_patient=False)
        was_counted = (len(self.account.seen), len(self.account.line)) != (n_seen, n_line)
        assert was_counted or self.account.full(subjects)

    async def call_line(self) -> None:
        """After places came free: who has one at all subjects must have an answer, in order; the others none."""
        await settle()
        for waits in tuple(self.account.line):
            if self.account.full(waits.subjects):
                assert not waits.task.done()
                continue
            assert waits.task.done()
            self.account.line.remove(waits)
            try:
                place = await waits.task
            except RateLimited as error:
                self.check_refused(waits.subjects, waits.tokens, error)
            else:
                self.check_let_in(waits.subjects, waits.tokens, place)

    async def leave(self, one: Seen) -> None:
        one.place.leave()
        one.is_in_flight = False
        await self.call_line()

    async def withdraw(self, one: Seen) -> None:
        one.place.withdraw()
        self.account.seen.remove(one)
        await self.call_line()

    async def cancel(self, waits: Waits) -> None:
        waits.task.cancel()
        self.account.line.remove(waits)
        await self.call_line()
        assert waits.task.cancelled()

    async def end(self) -> None:
        """Everyone leaves: nobody is left in line."""
        while any(one.is_in_flight for one in self.account.seen):
            await self.leave(next(one for one in self.account.seen if one.is_in_flight))
        assert not self.account.line


PEOPLE = [
    (KEY, USER, PROJECT),
    (Subject("key", "k2"), USER),
    (Subject("key", "k3"), Subject("user", "u2"), PROJECT),
    (USER,),
    (PROJECT,),
]
SUBJECTS = [KEY, USER, Subject("user", EVERY), Subject("key", EVERY), PROJECT]
RULES = st.lists(
    st.builds(
        LimitRule,
        st.sampled_from(SUBJECTS),
        requests_per_minute=st.none() | st.integers(1, 5),
        tokens_per_minute=st.none() | st.integers(1, 60),
        max_parallel=st.none() | st.integers(1, 3),
        max_waiting=st.integers(0, 3),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda rule: rule.subject,
)
PAUSES = st.sampled_from([0.0, 0.01, 0.03, 0.059, 0.06, 0.061, 1.0, 29.97, 59.95, 60.0, 61.0]) | st.floats(0, 61)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(PEOPLE), st.integers(0, 30), st.booleans()),
        st.tuples(st.just("pause"), PAUSES),
        st.tuples(st.just("correct"), st.integers(0), st.integers(0, 60)),
        st.tuples(st.sampled_from(["leave", "withdraw", "cancel"]), st.integers(0)),
    ),
    min_size=5,
    max_size=40,
)


@pytest.mark.hostile
@settings(max_examples=scaled(150, 1500), deadline=None)
@given(rules=RULES, steps=STEPS)
async def test_any_history_agrees_with_the_account(rules: list[LimitRule], steps: list[tuple[Any, ...]]) -> None:
    trial = Trial(rules)
    account = trial.account
    for step in steps:
        match step:
            case ("ask", subjects, tokens, is_patient):
                await trial.ask(subjects, tokens, is_patient)
            case ("pause", pause_s):
                trial.clock.now += pause_s
            case ("correct", n, tokens) if account.seen:
                one = account.seen[n % len(account.seen)]
                one.place.correct(tokens)
                one.tokens = tokens
            case ("leave", n) if account.seen:
                await trial.leave(account.seen[n % len(account.seen)])
            case ("withdraw", n) if account.seen:
                await trial.withdraw(account.seen[n % len(account.seen)])
            case ("cancel", n) if account.line:
                await trial.cancel(account.line[n % len(account.line)])
    await trial.end()


@pytest.mark.hostile
@settings(max_examples=scaled(50, 500), deadline=None)
@given(
    n=st.integers(1, 12),
    pauses=st.lists(st.floats(0, 0.2) | st.floats(0, 70), min_size=20, max_size=120),
)
async def test_no_minute_whatever_its_beginning_has_more_than_the_limit(n: int, pauses: list[float]) -> None:
    clock = Clock(0.0)
    limits = RateLimits([LimitRule(USER, requests_per_minute=n)], clock)
    let_in: list[float] = []
    for pause_s in pauses:
        clock.now += pause_s
        try:
            await admitted(limits, USER)
        except RateLimited as error:
            clock.now += wait_of(error)
            await admitted(limits, USER)
        let_in.append(clock.now)
    for position, at_s in enumerate(let_in):
        assert sum(earlier + 60 > at_s for earlier in let_in[: position + 1]) <= n
