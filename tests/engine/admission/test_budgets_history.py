"""Random histories of budgets, beside a model that adds up the whole ledger for every question."""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedgate.core.access import BudgetRule, Period, Spends, Subject, SubjectKind
from embedgate.core.errors import BudgetExhausted, InternalError
from embedgate.engine.admission.budgets import Budgets, Hold
from forms import scaled
from memory_ledger import Entry, Memory, ms, rule, turn

CALLERS: list[tuple[Subject, ...]] = [
    (Subject("key", "a"), Subject("user", "u")),
    (Subject("key", "b"), Subject("user", "u")),
    (Subject("key", "c"), Subject("user", "v"), Subject("project", "p")),
]
SUBJECTS = [Subject("key", "a"), Subject("key", "c"), Subject("user", "u"), Subject("project", "p")]
KINDS: list[SubjectKind] = ["key", "user", "project"]
PERIODS: list[Period] = ["day", "month", "total"]


@dataclass
class Open:
    """A request in flight, as the model sees it."""

    hold: Hold
    subjects: tuple[Subject, ...]
    amount: int
    entry: Entry | None = None


class History:
    """Budgets and the model of them, on one clock and one ledger."""

    def __init__(self, rules: Sequence[BudgetRule], sums_late: bool) -> None:
        self.memory = Memory(sums_late=sums_late)
        self.now = datetime(2026, 11, 30, 20, 0, tzinfo=UTC)
        self.open: dict[str, Open] = {}
        self.owed: list[Entry] = []
        self.rules = list(rules)
        self.all_rules = [self.rules]
        self.is_orderly = True
        """Whether every cost was within its hold, and the clock never went back to an earlier day."""
        self.tasks: list[asyncio.Task[None]] = []
        self.ids = map(str, itertools.count())
        self.budgets = Budgets(self.rules, self.memory, lambda: self.now)

    def start(self, period: Period, at: datetime) -> int:
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        return {"day": ms(midnight), "month": ms(midnight.replace(day=1)), "total": 0}[period]

    def rule_for(self, subject: Subject, period: Period, rules: Sequence[BudgetRule]) -> BudgetRule | None:
        for wanted in (subject, Subject(subject.kind, "*")):
            for found in rules:
                if (found.subject, found.period) == (wanted, period):
                    return found
        return None

    def spent(self, subject: Subject, period: Period) -> int:
        """Of requests that have ended: those in flight are held, whether or not they have an entry."""
        since_ms = self.start(period, self.now)
        entries = [entry for entry in self.memory.entries + self.owed if entry.request_id not in self.open]
        return sum(entry.cost for entry in entries if subject in entry.subjects and entry.at_ms >= since_ms)

    def held(self, subject: Subject) -> int:
        return sum(request.amount for request in self.open.values() if subject in request.subjects)

    def has_room(self, subjects: Sequence[Subject], more: int) -> bool:
        for subject, period in itertools.product(subjects, PERIODS):
            found = self.rule_for(subject, period, self.rules)
            if found and more > 0 and self.spent(subject, period) + self.held(subject) + more > found.cap_picodollars:
                return False
        return True

    async def hold(self, subjects: tuple[Subject, ...], amount: int) -> None:
        request_id, budgets = next(self.ids), self.budgets
        try:
            hold = await budgets.hold(request_id, subjects, amount)
        except BudgetExhausted:
            assert not self.has_room(subjects, amount)
            return
        assert self.has_room(subjects, amount)
        self.open[request_id] = Open(hold, subjects, amount)

    async def cover(self, request: Open, total: int) -> None:
        try:
            await request.hold.cover(total)
        except BudgetExhausted:
            assert not self.has_room(request.subjects, total - request.amount)
        except InternalError:
            assert request.hold.request_id not in self.open
        else:
            assert self.has_room(request.subjects, total - request.amount)
            request.amount = max(request.amount, total)

    async def spends(self, subject: Subject) -> None:
        assert await self.budgets.spends(subject) == Spends(self.spent(subject, "day"), self.spent(subject, "month"))

    def commit(self, request: Open, cost: int) -> Entry:
        if request.entry is None:
            self.is_orderly &= cost <= request.amount
            request.entry = Entry(request.hold.request_id, request.subjects, ms(self.now), cost)
            self.memory.entries.append(request.entry)
        return request.entry

    def settle(self, request: Open, cost: int) -> None:
        entry = self.commit(request, cost)
        del self.open[entry.request_id]
        request.hold.settle(entry.cost, entry.at_ms)

    def settle_unrecorded(self, request: Open, cost: int) -> None:
        if request.entry is not None:
            return
        self.is_orderly &= cost <= request.amount
        request_id = request.hold.request_id
        del self.open[request_id]
        self.owed.append(Entry(request_id, request.subjects, ms(self.now), cost))
        request.hold.settle(cost, ms(self.now), is_recorded=False)

    def release(self, request: Open) -> None:
        if request.entry is None:
            del self.open[request.hold.request_id]
            request.hold.release()

    def write_owed(self) -> None:
        self.memory.entries += self.owed
        self.owed = []

    def move_clock(self, by: timedelta) -> None:
        before = self.now
        self.now += by
        self.is_orderly &= self.now.date() >= before.date()

    def change_rules(self, rules: Sequence[BudgetRule]) -> None:
        self.rules = list(rules)
        self.all_rules.append(self.rules)
        self.budgets.replace(self.rules)

    async def restart(self) -> None:
        """Killed and started again, on a clock that is right: past all that it dated before."""
        await self.quiet()
        self.open.clear()
        self.write_owed()
        newest_ms = max((entry.at_ms for entry in self.memory.entries), default=0)
        self.now = max(self.now, datetime.fromtimestamp(newest_ms / 1000, UTC) + timedelta(milliseconds=1))
        self.budgets = Budgets(self.rules, self.memory, lambda: self.now)

    def begin(self, work: Coroutine[None, None, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def quiet(self) -> None:
        """Let the ledger flow, and all that wait for it end."""
        self.memory.flowing.set()
        for end in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(end, Exception):
                raise end
        self.tasks = []

    async def check_the_end(self) -> None:
        await self.quiet()
        for state in await self.budgets.state():
            assert state.spent_picodollars == self.spent(state.subject, state.period)
            assert state.held_picodollars == self.held(state.subject)
            found = self.rule_for(state.subject, state.period, self.rules)
            assert found and found.cap_picodollars == state.cap_picodollars
        for subjects in CALLERS:
            for subject in subjects:
                await self.spends(subject)
        if self.is_orderly:
            self.check_no_budget_is_overspent()

    def check_no_budget_is_overspent(self) -> None:
        """In every day and month of the ledger, for the budgets that were in force all the time."""
        for subject, period in itertools.product({s for caller in CALLERS for s in caller}, PERIODS):
            rules = [self.rule_for(subject, period, in_force) for in_force in self.all_rules]
            caps = [found.cap_picodollars for found in rules if found]
            if len(caps) < len(rules):
                continue
            sums: dict[int, int] = {}
            for entry in self.memory.entries + self.owed:
                if subject in entry.subjects:
                    start = self.start(period, datetime.fromtimestamp(entry.at_ms / 1000, UTC))
                    sums[start] = sums.get(start, 0) + entry.cost
            assert max(sums.values(), default=0) <= max(caps)


def some_rules(pick: random.Random) -> list[BudgetRule]:
    subjects = [*SUBJECTS, *(Subject(kind, "*") for kind in KINDS)]
    pairs = pick.sample(list(itertools.product(subjects, PERIODS)), pick.randint(0, 6))
    return [rule(subject, period, pick.randint(0, 60)) for subject, period in pairs]


RULE_SETS = [some_rules(random.Random(seed)) for seed in range(60)]
"""Made beforehand: drawing each rule would take most of the time."""
IN_FLIGHT = ["cover", "commit", "settle", "settle", "settle_in_full", "unrecorded", "release"]
AT_ANY_TIME = ["hold"] * 4 + ["write_owed", "clock", "clock", "stall", "flow", "leave", "spends", "restart", "rules"]
HOURS = [-50, -5, -1, 0, 1, 3, 5, 24, 40]
MAX_AMOUNT = 30
Step = tuple[str, int]
steps: st.SearchStrategy[Step] = st.tuples(
    st.sampled_from(IN_FLIGHT + AT_ANY_TIME), st.integers(0, len(RULE_SETS) * (MAX_AMOUNT + 1) - 1)
)


def within(request: Open, cost: int) -> int:
    """Mostly no more than what is held."""
    return cost if cost == MAX_AMOUNT else min(cost, request.amount)


async def take(history: History, step: Step) -> None:
    name, which, amount = step[0], *divmod(step[1], MAX_AMOUNT + 1)
    requests = list(history.open.values())
    request = requests[which % len(requests)] if requests else None
    caller = CALLERS[which % len(CALLERS)]
    always: dict[str, Callable[[], object]] = {
        "hold": lambda: history.begin(history.hold(caller, amount)),
        "write_owed": history.write_owed,
        "clock": lambda: history.move_clock(timedelta(hours=HOURS[which % len(HOURS)], seconds=amount)),
        "stall": history.memory.flowing.clear,
        "flow": history.memory.flowing.set,
        "leave": lambda: history.tasks[which % len(history.tasks)].cancel() if history.tasks else None,
        "spends": lambda: history.begin(history.spends(caller[0])),
        "rules": lambda: history.change_rules(RULE_SETS[which]),
    }
    if name == "restart":
        await history.restart()
    elif name in always:
        always[name]()
    elif request is not None:
        in_flight: dict[str, Callable[[Open], object]] = {
            "cover": lambda request: history.begin(history.cover(request, amount)),
            "commit": lambda request: history.commit(request, within(request, amount)),
            "settle": lambda request: history.settle(request, within(request, amount)),
            "settle_in_full": lambda request: history.settle(request, request.amount),
            "unrecorded": lambda request: history.settle_unrecorded(request, within(request, amount)),
            "release": history.release,
        }
        in_flight[name](request)
    await turn()


@pytest.mark.hostile
@settings(max_examples=scaled(200, 2000), deadline=None)
@given(first=st.sampled_from(RULE_SETS), story=st.lists(steps, min_size=20, max_size=60), sums_late=st.booleans())
def test_any_history_agrees_with_adding_up_the_ledger_for_every_request(
    first: list[BudgetRule], story: list[Step], sums_late: bool
) -> None:
    async def tell() -> None:
        history = History(first, sums_late)
        for step in story:
            await take(history, step)
        await history.check_the_end()

    asyncio.run(tell())
