"""Random histories of callers, rules, providers, clocks and restarts, beside a model that counts everything anew.

The model knows what was asked, decided and billed, and answers each question by going through all of it. What it cannot
foresee is whether a further attempt after a wrong answer that was billed has found room in a budget: as long as such a
request is in progress, a refusal that depends on it may come or not.
"""

import asyncio
import contextlib
import contextvars
import itertools
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles import Bench, DictCache, Memory, ScriptedProvider, model, vector_of, weight
from embedgate.core.access import EVERY, BudgetRule, Caller, LimitRule, Period, Rules, Subject, SubjectKind
from embedgate.core.errors import (
    AccessError,
    BudgetExhausted,
    InternalError,
    NotPermitted,
    Overloaded,
    RateLimited,
    UpstreamBusy,
    UpstreamRejected,
)
from embedgate.core.models import Route
from embedgate.core.types import Batch, EmbedRequest, EmbedResult, LedgerEntry, ProviderReply
from embedgate.engine.ledger.tokens import bounds
from embedgate.settings import UpstreamSettings
from forms import scaled

KINDS: list[SubjectKind] = ["key", "user", "project"]
PERIODS: list[Period] = ["day", "month", "total"]
START = datetime(2026, 11, 30, 20, 0, tzinfo=UTC)
AT_ONCE = UpstreamSettings(max_retries=1, retry_wait_s=1e-9)
ASKING: contextvars.ContextVar[str] = contextvars.ContextVar("ASKING", default="")
"""Whose provider call it is: tasks inherit it from the one who asks."""


def caller(key: str, user: str, project: str | None = None) -> Caller:
    subjects = [Subject("key", key), Subject("user", user)] + ([Subject("project", project)] if project else [])
    return Caller(user, user, key, project_id=project, subjects=tuple(subjects))


CALLERS = [caller("a", "u"), caller("b", "u"), caller("c", "v", "p")]


class Ledger(Memory):
    """A ledger that may be down: then it keeps what it owes, and says that it could not write it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.is_of_a_dead_process = False
        self.owed: list[LedgerEntry] = []

    async def record(self, entry: LedgerEntry) -> None:
        if self.is_of_a_dead_process:
            return
        if self.is_down:
            self.owed.append(entry)
            raise InternalError("the ledger cannot be written")
        self.entries.append(entry)

    def come_up(self) -> None:
        self.is_down = False
        self.entries += self.owed
        self.owed = []

    def after_a_kill(self) -> "Ledger":
        """What the next process finds."""
        found = Ledger()
        found.entries, found.events = list(self.entries), list(self.events)
        self.is_of_a_dead_process = True
        return found


@dataclass
class FarCall:
    """A provider call that waits for its end. `request_id` says for whom it was made."""

    request_id: str
    space: str
    batch: Batch
    picodollars_per_token: int
    answer: asyncio.Future[ProviderReply]


@dataclass
class Slow(ScriptedProvider):
    """A provider whose calls end when they are told to."""

    calls: list[FarCall] = field(default_factory=list)

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        price = route.price.picodollars_per_token if route.price else 0
        call = FarCall(ASKING.get(), self.space, batch, price, asyncio.get_running_loop().create_future())
        self.calls.append(call)
        return await call.answer


@dataclass
class Asked:
    """A request that was let in, as the model sees it. `tokens` are those that count in its minute.

    `limited`: those of its subjects that had a limit when it came; others do not count it. `doubtful`: what may be held
    for it beyond `amount`, for answers that were billed and are of no use.
    """

    caller: Caller
    request: EmbedRequest
    at_s: float
    tokens: int
    amount: int
    limited: frozenset[Subject]
    doubtful: int = 0


class History:
    """A pipeline and the model of it, on one clock and one ledger."""

    def __init__(self, rules: Rules, prices: tuple[int, int, int], charges_reuse: bool) -> None:
        self.rules = rules
        self.all_budgets = [rules.budgets]
        self.prices = dict(zip("abc", prices, strict=True))
        self.charges_reuse = charges_reuse
        self.now, self.clock_s = START, 0.0
        self.ids = map("r{}".format, itertools.count())
        self.memory = Ledger()
        self.asking: dict[str, asyncio.Task[EmbedResult]] = {}
        self.open: dict[str, Asked] = {}
        self.granted: list[Asked] = []
        self.billed: Counter[str] = Counter()
        self.outcomes: dict[str, str] = {}
        self.recorded: set[str] = set()
        self.start()

    def start(self) -> None:
        self.calls: list[FarCall] = []
        self.forbidden: set[str] = set()
        main = model("a", "b", max_inputs=2, price=self.prices["a"])
        dear = model("b", price=self.prices["b"]).routes[0]
        other = model("c", name="acme/other", space="t", price=self.prices["c"])
        main = replace(main, routes=(main.routes[0], dear))
        self.bench = Bench(
            [main, other],
            {name: Slow(space="t" if name == "c" else "s", calls=self.calls) for name in "abc"},
            cache=DictCache(),
            rules=self.rules,
            memory=self.memory,
            upstream=AT_ONCE,
            charges_reuse=self.charges_reuse,
            now=lambda: self.now,
            clock=lambda: self.clock_s,
        )

    # What the model says.

    def limit_of(self, subject: Subject) -> LimitRule | None:
        for wanted in (subject, Subject(subject.kind, EVERY)):
            for rule in self.rules.limits:
                if rule.subject == wanted:
                    return rule
        return None

    def cap_of(self, subject: Subject, period: Period, budgets: Sequence[BudgetRule]) -> int | None:
        for wanted in (subject, Subject(subject.kind, EVERY)):
            for rule in budgets:
                if (rule.subject, rule.period) == (wanted, period):
                    return rule.cap_picodollars
        return None

    def caps_of(self, subject: Subject) -> dict[Period, int]:
        found = {period: self.cap_of(subject, period, self.rules.budgets) for period in PERIODS}
        return {period: cap for period, cap in found.items() if cap is not None}

    def spent(self, subject: Subject, period: Period) -> int:
        since_ms = ms(period_start(period, self.now))
        entries = [entry for entry in self.memory.entries + self.memory.owed if entry.at_ms >= since_ms]
        return sum(entry.cost_picodollars for entry in entries if is_of(entry, subject))

    def held(self, subject: Subject) -> tuple[int, int]:
        """At least, and at most."""
        of_it = [asked for asked in self.open.values() if subject in asked.caller.subjects]
        least = sum(asked.amount for asked in of_it)
        return least, least + sum(asked.doubtful for asked in of_it)

    def amount(self, asker: Caller, request: EmbedRequest) -> int:
        """The price on the dearest permitted route, of a bound of the tokens where no rule asks for the true ones."""
        is_exact = any(self.caps_of(subject) or self.limit_of(subject) for subject in asker.subjects)
        tokens = tokens_of(request) if is_exact else sum(bounds(request.inputs))
        return max((self.prices[name] for name in self.permitted(request)), default=0) * tokens

    def answers(self, asker: Caller, request: EmbedRequest) -> set[type[AccessError] | None]:
        """What the gate may say: None lets the request in."""
        if not self.permitted(request):
            return {NotPermitted}
        limits = [(subject, rule) for subject in asker.subjects if (rule := self.limit_of(subject))]
        for subject, rule in limits:
            counted = [each for each in self.granted if subject in each.limited and self.clock_s < each.at_s + 60]
            if len(counted) + 1 > (rule.requests_per_minute or 10**9):
                return {RateLimited}
            if sum(each.tokens for each in counted) + tokens_of(request) > (rule.tokens_per_minute or 10**9):
                return {RateLimited}
        for subject, rule in limits:
            in_flight = [asked for asked in self.open.values() if subject in asked.limited]
            if len(in_flight) + 1 > (rule.max_parallel or 10**9):
                return {Overloaded}
        return self.money_answers(asker, self.amount(asker, request))

    def permitted(self, request: EmbedRequest) -> set[str]:
        return ({"a", "b", "c"} if request.fallback_model else {"a", "b"}) - self.forbidden

    def money_answers(self, asker: Caller, amount: int) -> set[type[AccessError] | None]:
        must = may = False
        for subject in asker.subjects:
            least, most = self.held(subject)
            for period, cap in self.caps_of(subject).items():
                must |= amount > 0 and self.spent(subject, period) + least + amount > cap
                may |= amount > 0 and self.spent(subject, period) + most + amount > cap
        return {BudgetExhausted} if must else {BudgetExhausted, None} if may else {None}

    # What happens.

    async def ask(self, asker: Caller, request: EmbedRequest) -> None:
        expected, amount = self.answers(asker, request), self.amount(asker, request)
        request_id = next(self.ids)
        context = contextvars.copy_context()
        context.run(ASKING.set, request_id)
        asking = self.bench.pipeline.embed_as(request_id, asker, request)
        task = asyncio.get_running_loop().create_task(asking, context=context)
        self.asking[request_id] = task
        await turns()
        error = task.exception() if task.done() else None
        refusal = type(error) if isinstance(error, AccessError) else None
        assert refusal in expected
        self.outcomes[request_id] = (
            "permit" if refusal is None else "forbid" if refusal is NotPermitted else refusal.code
        )
        if refusal is None:
            limited = frozenset(subject for subject in asker.subjects if self.limit_of(subject))
            asked = Asked(asker, request, self.clock_s, tokens_of(request), amount, limited)
            self.open[request_id] = asked
            self.granted.append(asked)

    def end_call(self, which: int, how: str) -> None:
        """Let one provider call end."""
        if not self.calls:
            return
        call = self.calls.pop(which % len(self.calls))
        tokens = sum(map(weight, call.batch.inputs))
        rows = np.stack([vector_of(item, call.space) for item in call.batch.inputs])
        if how == "busy":
            call.answer.set_exception(UpstreamBusy("later", retry_after_s=0))
            return
        if how == "refused":
            call.answer.set_exception(UpstreamRejected("no"))
            return
        cost = tokens * call.picodollars_per_token
        self.billed[call.request_id] += cost
        asked = self.open[call.request_id]
        if how == "wrong" or asked.request.fallback_model:  # even a right answer is lost when the space changes
            asked.doubtful += cost
        call.answer.set_result(ProviderReply(rows * 0 if how == "wrong" else rows, None if how == "silent" else tokens))

    def close_ended(self, ended: list[str]) -> None:
        """Compare what each request that has ended left in the ledger with what was billed for it."""
        while ended:
            request_id = ended.pop()
            asked = self.open.pop(request_id, None)
            if asked is None:
                continue
            entries = [e for e in self.memory.entries + self.memory.owed if e.request_id == request_id]
            if not entries:
                assert self.billed[request_id] == 0
                asked.tokens = 0
                continue
            (entry,) = entries
            asked.tokens = tokens_of(asked.request) if entry.outcome == "ok" else entry.tokens
            reuse = entry.reused_tokens * entry.price_picodollars if self.charges_reuse else 0
            assert entry.cost_picodollars == self.billed[request_id] + reuse
            self.recorded.add(request_id)
            task = self.asking[request_id]
            if task.done() and not task.cancelled() and task.exception() is None:
                assert task.result().cost_picodollars == entry.cost_picodollars
                assert task.result().usage.tokens == tokens_of(asked.request)

    def move_clock(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.clock_s += seconds

    def change_rules(self, rules: Rules) -> None:
        self.rules = rules
        self.all_budgets.append(rules.budgets)
        self.bench.limits.replace(rules.limits)
        self.bench.budgets.replace(rules.budgets)

    def change_policy(self, which: int) -> None:
        self.forbidden ^= {"abc"[which % 3]}
        self.bench.policies.forbidden = self.forbidden

    def leave(self, which: int) -> None:
        staying = [task for task in self.asking.values() if not task.done()]
        if staying:
            staying[which % len(staying)].cancel()

    async def restart(self, prices: tuple[int, int, int]) -> None:
        """Killed, and started again with other prices. What was in progress is in no ledger."""
        self.recorded -= {entry.request_id for entry in self.memory.owed}
        self.memory = self.memory.after_a_kill()
        await self.bench.pipeline.running.drain(0)
        self.open, self.granted = {}, []  # limits are counted by the process
        self.prices = dict(zip("abc", prices, strict=True))
        self.start()

    async def check(self) -> None:
        """Where every budget stands, and that nobody is lost."""
        for state in await self.bench.budgets.state():
            least, most = self.held(state.subject)
            assert least <= state.held_picodollars <= most
            assert state.spent_picodollars == self.spent(state.subject, state.period)
            assert state.cap_picodollars == self.caps_of(state.subject)[state.period]
        assert len(self.bench.pipeline.running) == len(self.open)

    async def check_the_end(self, ended: list[str]) -> None:
        while self.calls:
            self.end_call(0, "right")
            await turns()
            self.close_ended(ended)
        await self.check()
        assert not self.open
        assert all(state.held_picodollars == 0 for state in await self.bench.budgets.state())
        self.memory.come_up()
        assert sorted(entry.request_id for entry in self.memory.entries) == sorted(self.recorded)
        noted = [(event.request_id, event.outcome) for event in self.memory.events]
        assert sorted(noted) == sorted(self.outcomes.items())  # one decision a request
        self.check_no_budget_is_overspent()

    def check_no_budget_is_overspent(self) -> None:
        """In every period of the ledger, for the budgets that were in force all the time."""
        for subject, period in itertools.product({s for each in CALLERS for s in each.subjects}, PERIODS):
            caps = [self.cap_of(subject, period, budgets) for budgets in self.all_budgets]
            sums: Counter[datetime] = Counter()
            for entry in self.memory.entries:
                if is_of(entry, subject):
                    at = datetime.fromtimestamp(entry.at_ms / 1000, UTC)
                    sums[period_start(period, at)] += entry.cost_picodollars
            if None not in caps:
                assert max(sums.values(), default=0) <= max(cap for cap in caps if cap is not None)


def is_of(entry: LedgerEntry, subject: Subject) -> bool:
    return {"key": entry.key_id, "user": entry.user_id, "project": entry.project_id}[subject.kind] == subject.id


def tokens_of(request: EmbedRequest) -> int:
    return sum(map(weight, request.inputs))


def period_start(period: Period, at: datetime) -> datetime:
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return {"day": midnight, "month": midnight.replace(day=1), "total": datetime.fromtimestamp(0, UTC)}[period]


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


async def turns() -> None:
    """Let every request go as far as it can."""
    for _ in range(25):
        await asyncio.sleep(0)


class Ends(logging.Handler):
    """The requests that the log says have ended."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.request_ids: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() in ("request", "request_failed"):
            self.request_ids.append(record.fields["request_id"])  # type: ignore[attr-defined]  # of every event


@contextlib.contextmanager
def watched_ends() -> Iterator[list[str]]:
    logger, ends = logging.getLogger("embedgate"), Ends()
    level = logger.level
    logger.addHandler(ends)
    logger.setLevel(logging.DEBUG)
    yield ends.request_ids
    logger.setLevel(level)
    logger.removeHandler(ends)


def some_rules(pick: random.Random) -> Rules:
    subjects = sorted(
        {s for each in CALLERS for s in each.subjects} | {Subject(kind, EVERY) for kind in KINDS}, key=repr
    )
    budgets = pick.sample(list(itertools.product(subjects, PERIODS)), pick.randint(0, 5))
    return Rules(
        limits=tuple(
            LimitRule(subject, pick.choice((None, 1, 3, 6)), pick.choice((None, 10, 30)), pick.choice((None, 1, 3)))
            for subject in pick.sample(subjects, pick.randint(0, 3))
        ),
        budgets=tuple(BudgetRule(subject, period, pick.randint(0, 250)) for subject, period in budgets),
    )


RULE_SETS = [some_rules(random.Random(seed)) for seed in range(60)]
"""Made beforehand: drawing each rule would take most of the time."""
PRICES = [(3, 7, 5), (7, 3, 2), (0, 4, 9), (5, 5, 5)]
TEXTS = ["a", "b b", "c c c", "d", "e e"]
ENDS = ["right"] * 4 + ["silent", "wrong", "wrong", "busy", "refused"]
STEPS = ["ask"] * 8 + ENDS + ["leave", "leave", "clock", "clock", "policy", "rules", "restart", "down", "up"]
SECONDS = [1, 20, 59, 60, 3600, 4 * 3600, 24 * 3600]
Step = tuple[str, int]
steps: st.SearchStrategy[Step] = st.tuples(st.sampled_from(STEPS), st.integers(0, 10**6))


def some_request(pick: random.Random) -> EmbedRequest:
    return EmbedRequest(
        model="acme/m",
        inputs=tuple(pick.choices(TEXTS, k=pick.randint(1, 4))),
        fallback_model="acme/other" if pick.random() < 0.3 else None,
        allow_space_change=True,
        cache=pick.choice(("store", "no-store")),
    )


async def take(history: History, step: Step) -> None:
    name, which = step
    if name == "ask":
        pick = random.Random(which)
        await history.ask(pick.choice(CALLERS), some_request(pick))
    elif name == "restart":
        await history.restart(PRICES[which % len(PRICES)])
    elif name in ENDS:
        history.end_call(which, name)
    else:
        others: dict[str, Callable[[], object]] = {
            "leave": lambda: history.leave(which),
            "clock": lambda: history.move_clock(SECONDS[which % len(SECONDS)]),
            "policy": lambda: history.change_policy(which),
            "rules": lambda: history.change_rules(RULE_SETS[which % len(RULE_SETS)]),
            "down": lambda: setattr(history.memory, "is_down", True),
            "up": history.memory.come_up,
        }
        others[name]()
    await turns()


@pytest.mark.hostile
@settings(max_examples=scaled(100, 1000), deadline=None)
@given(
    first=st.sampled_from(RULE_SETS),
    prices=st.sampled_from(PRICES),
    charges_reuse=st.booleans(),
    story=st.lists(steps, min_size=10, max_size=50),
)
def test_any_history_is_let_in_refused_and_billed_as_counting_everything_anew_says(
    first: Rules, prices: tuple[int, int, int], charges_reuse: bool, story: list[Step]
) -> None:
    async def tell() -> None:
        with watched_ends() as ended:
            history = History(first, prices, charges_reuse)
            for step in story:
                await take(history, step)
                history.close_ended(ended)
                await history.check()
            await history.check_the_end(ended)
            await asyncio.gather(*history.asking.values(), return_exceptions=True)

    asyncio.run(tell())
