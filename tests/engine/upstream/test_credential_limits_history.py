"""Any history of an account against slow and obvious accounts of it: ours, and that of the provider."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedgate.core.errors import UpstreamLimited
from embedgate.core.hints import Allowance, RateHints
from embedgate.engine.admission.sliding_window import SLOT_S
from embedgate.engine.upstream.gauges import SOON_S
from embedgate.engine.upstream.limits import LIKELY_TOKENS, CredentialLimits, QueueLimits, Ticket
from forms import scaled
from virtual_time import now, run_virtually

FAR_S = 1e9
MAX_WAIT_S = 5.0
MAX_WAITING = 4
HAIR_S = 1e-6


@dataclass
class Made:
    """A call that was let in."""

    ticket: Ticket
    began_s: float
    tokens: int
    ended_s: float = math.inf


@dataclass
class Book:
    """Every call that was ever let in: nothing expires, nothing is added up beforehand."""

    rpm: int
    tpm: int
    made: list[Made] = field(default_factory=list)

    def counted(self, at_s: float, window_s: float) -> tuple[int, int]:
        """Requests and tokens that count at a moment, if nothing ends until then."""
        counting = [one for one in self.made if one.ended_s + window_s > at_s]
        return len(counting), sum(one.tokens for one in counting)

    def room_at(self, requests: int, tokens: int, window_s: float) -> float:
        """The first moment from now on that has room for so much, if nothing begins or ends."""
        moments = [now(), *(one.ended_s + window_s for one in self.made if now() < one.ended_s + window_s < math.inf)]
        for at_s in sorted(moments):
            counted = self.counted(at_s, window_s)
            if counted[0] + requests <= self.rpm and counted[1] + tokens <= self.tpm:
                return at_s
        return now() + 60

    def worth_waiting_until(self, tokens: int, ahead: Sequence[int], window_s: float) -> float:
        """When a call behind others is told that there will be room: soon, if those before it likely use less."""
        requests_s = self.room_at(len(ahead) + 1, 0, window_s)
        tokens_s = self.room_at(0, sum(ahead) + tokens, window_s)
        before = sum(ahead) + sum(one.tokens for one in self.made if one.ended_s == math.inf)
        short = self.counted(now(), window_s)[1] + sum(ahead) + tokens - self.tpm
        is_hopeful = 0 < short <= before * (1 - LIKELY_TOKENS)
        return max(requests_s, min(tokens_s, now() + SOON_S) if is_hopeful else tokens_s)


@dataclass
class Trial:
    """The account and the book side by side. The account may be stricter by one slot, never looser."""

    account: CredentialLimits
    book: Book
    line: list[tuple[int, float, "asyncio.Task[None]"]] = field(default_factory=list)

    async def ask(self, tokens: int) -> None:
        asked_s = now()
        tokens = min(tokens, self.book.tpm)  # more than ever fits goes when all of it is free
        ahead = [other for other, _, task in self.line if not task.done()]
        rooms = [self.book.worth_waiting_until(tokens, ahead, window_s) for window_s in (60, 60 + SLOT_S)]
        task = asyncio.create_task(self._enter(tokens, asked_s, len(ahead), rooms))
        entry = (tokens, asked_s, task)
        await asyncio.sleep(0)
        if not task.done():
            assert asked_s < rooms[0] <= asked_s + MAX_WAIT_S + HAIR_S
            self.line.append(entry)
            task.add_done_callback(lambda _: self.line.remove(entry))
        await asyncio.sleep(0)

    async def _enter(self, tokens: int, asked_s: float, n_ahead: int, rooms: Sequence[float]) -> None:
        try:
            ticket = await self.account.enter("m", tokens, FAR_S)
        except UpstreamLimited as refusal:
            assert refusal.retry_after_s is not None
            if now() == asked_s:
                is_too_late = rooms[1] > asked_s + MAX_WAIT_S - HAIR_S
                assert is_too_late or n_ahead == MAX_WAITING
                at_s = now() + refusal.retry_after_s
                assert rooms[0] - HAIR_S <= at_s <= rooms[1] + HAIR_S
            else:
                assert now() <= asked_s + MAX_WAIT_S + HAIR_S
            return
        assert now() <= asked_s + MAX_WAIT_S + HAIR_S
        assert self.book.room_at(1, tokens, 60) == now()
        # Nobody who came earlier is left in line; who was refused in the same moment may not have heard of it yet.
        assert all(waiting.until_s >= asked_s + MAX_WAIT_S for waiting in self.account._queue)
        self.book.made.append(Made(ticket, now(), tokens))

    async def end(self, one: Made, tokens: int) -> None:
        one.ended_s, one.tokens = now(), min(tokens, one.tokens)
        one.ticket.end(one.tokens)
        await asyncio.sleep(0)  # who is let in by that writes it into the book

    def check_the_providers_view(self, seen_at: Sequence[float]) -> None:
        """However late each call reached the provider, no minute there has more than the limit."""
        views = []
        for one, share in zip(self.book.made, seen_at, strict=False):
            end_s = min(one.ended_s, now())
            views.append((one.began_s + share * (end_s - one.began_s), one.tokens))
        for start_s, _ in views:
            minute = [tokens for at_s, tokens in views if start_s <= at_s < start_s + 60 - HAIR_S]
            assert len(minute) <= self.book.rpm
            assert sum(minute) <= self.book.tpm


PAUSES = st.sampled_from([0.01, 0.059, 0.061, 1.0, 4.99, 5.01, 29.97, 55.5, 59.95, 60.0]) | st.floats(0.001, 61)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 40)),
        st.tuples(st.just("pause"), PAUSES),
        st.tuples(st.just("end"), st.integers(0), st.integers(0, 40)),
        st.tuples(st.just("cancel"), st.integers(0)),
    ),
    min_size=5,
    max_size=40,
)


@pytest.mark.hostile
@settings(max_examples=scaled(150, 1500), deadline=None)
@given(
    rpm=st.integers(1, 5),
    tpm=st.integers(1, 60),
    steps=STEPS,
    seen_at=st.lists(st.floats(0, 1), min_size=40, max_size=40),
)
def test_any_history_agrees_with_the_book(
    rpm: int, tpm: int, steps: list[tuple[Any, ...]], seen_at: list[float]
) -> None:
    async def run() -> None:
        line = QueueLimits(MAX_WAIT_S, MAX_WAITING)
        account = CredentialLimits("a", line, requests_per_minute=rpm, tokens_per_minute=tpm, clock=now)
        trial = Trial(account, Book(rpm, tpm))
        made = trial.book.made
        for step in steps:
            match step:
                case ("ask", tokens):
                    await trial.ask(tokens)
                case ("pause", pause_s):
                    await asyncio.sleep(pause_s)
                case ("end", n, tokens) if made and made[n % len(made)].ended_s == math.inf:
                    await trial.end(made[n % len(made)], tokens)
                case ("cancel", n) if trial.line:
                    task = trial.line[n % len(trial.line)][2]
                    task.cancel()
                    await asyncio.wait([task])
        await asyncio.sleep(MAX_WAIT_S + 1)
        assert trial.line == []
        trial.check_the_providers_view(seen_at)
        for one in made:
            one.ticket.end(0)
        assert account.in_flight == 0

    run_virtually(run())


@dataclass
class Host:
    """A provider with a limit of requests, and what it says of it with each answer."""

    limit: int
    window_s: float
    is_bucket: bool
    began_s: float = field(default_factory=now)
    used: float = 0.0
    as_of_s: float = field(default_factory=now)

    def call(self) -> tuple[bool, RateHints]:
        """Whether a call that arrives now is served."""
        if self.is_bucket:
            self.used = max(0.0, self.used - (now() - self.as_of_s) * self.limit / 60)
            self.as_of_s = now()
        elif now() >= self.began_s + self.window_s:
            self.began_s += (now() - self.began_s) // self.window_s * self.window_s
            self.used = 0
        is_served = self.used + 1 <= self.limit + HAIR_S
        self.used += is_served
        reset_s = self.used * 60 / self.limit if self.is_bucket else self.began_s + self.window_s - now()
        return is_served, RateHints(Allowance(self.limit, int(self.limit - self.used), reset_s))


CALLS = st.lists(
    st.tuples(st.just(0.0) | st.floats(0, 3), *[st.floats(0, 0.3) | st.floats(0, 4)] * 2), min_size=10, max_size=60
)


@pytest.mark.hostile
@settings(max_examples=scaled(100, 1000), deadline=None)
@given(
    limit=st.integers(1, 12),
    window_s=st.sampled_from([1.0, 5.0, 20.0]),
    is_bucket=st.booleans(),
    calls=CALLS,
)
def test_once_a_provider_has_said_its_limit_it_has_nothing_to_refuse(
    limit: int, window_s: float, is_bucket: bool, calls: list[tuple[float, float, float]]
) -> None:
    async def run() -> None:
        host = Host(limit, window_s, is_bucket)
        account = CredentialLimits("a", QueueLimits(60.0, 100), clock=now)
        refused = served = 0

        async def call(there_s: float, back_s: float) -> None:
            nonlocal refused, served
            ticket = await account.enter("m", 0, FAR_S)
            await asyncio.sleep(there_s)
            is_served, hints = host.call()
            await asyncio.sleep(back_s)
            ticket.learn(hints)
            ticket.end()
            served += is_served
            refused += not is_served

        await call(0, 0)
        tasks = []
        for pause_s, there_s, back_s in calls:
            await asyncio.sleep(pause_s)
            tasks.append(asyncio.create_task(call(there_s, back_s)))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        limited = [outcome for outcome in outcomes if isinstance(outcome, UpstreamLimited)]
        assert [outcome for outcome in outcomes if outcome is not None and outcome not in limited] == []
        assert refused == 0
        assert served + len(limited) == len(calls) + 1
        assert account.in_flight == 0

    run_virtually(run())
