"""Budgets: never overspent, whatever is in flight, whenever the ledger is summed up, whatever the clock does."""

import asyncio
import gc
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs

from embedgate.core.access import BudgetRule, BudgetState, Period, Spends, Subject
from embedgate.core.errors import BudgetExhausted, GatewayError, InternalError, Overloaded
from embedgate.core.types import LedgerEntry
from embedgate.engine.admission.budgets import MAX_UNRECORDED, SWEEP_FROM, Budgets, Hold
from embedgate.storage.database import open_database
from embedgate.storage.ledger import SqlLedger
from embedgate.storage.spending import LedgerSpending
from memory_ledger import Entry, Memory, ms, rule, turn

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
KEY, USER, PROJECT = Subject("key", "key_a"), Subject("user", "user_a"), Subject("project", "project_a")
CALLER = (KEY, USER, PROJECT)


class Bench:
    """Budgets over a ledger in memory and a clock that is set by hand."""

    def __init__(self, *rules: BudgetRule, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        self.now = NOON
        self.rules = rules
        self.budgets = self.fresh()
        self._ids = map(str, itertools.count())

    def fresh(self) -> Budgets:
        return Budgets(self.rules, self.memory, lambda: self.now)

    async def hold(self, amount: int, subjects: Sequence[Subject] = CALLER) -> Hold:
        return await self.budgets.hold(next(self._ids), subjects, amount)

    def commit(self, hold: Hold, cost: int, subjects: Sequence[Subject] = CALLER) -> int:
        """Put the entry of a request into the ledger. Returns its time."""
        at_ms = ms(self.now)
        self.memory.entries.append(Entry(hold.request_id, tuple(subjects), at_ms, cost))
        return at_ms

    def settle(self, hold: Hold, cost: int, subjects: Sequence[Subject] = CALLER) -> None:
        hold.settle(cost, self.commit(hold, cost, subjects))

    async def spend(self, cost: int, subjects: Sequence[Subject] = CALLER) -> None:
        self.settle(await self.hold(cost, subjects), cost, subjects)

    async def room(self, subjects: Sequence[Subject] = CALLER, most: int = 1_000_000) -> int:
        """The most that can be held, found by trying."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            try:
                (await self.hold(middle, subjects)).release()
                low = middle
            except BudgetExhausted:
                high = middle - 1
        return low


async def test_of_200_requests_at_once_as_many_are_admitted_as_the_budget_is_worth() -> None:
    bench = Bench(rule(KEY, "day", 50 * 7 + 6))
    outcomes = await asyncio.gather(*(bench.hold(7) for _ in range(200)), return_exceptions=True)
    holds = [outcome for outcome in outcomes if isinstance(outcome, Hold)]
    assert len(holds) == 50
    assert sum(isinstance(outcome, BudgetExhausted) for outcome in outcomes) == 150
    assert bench.memory.n_sums == 2  # of the day and of the month, once for all
    for hold in holds:
        bench.settle(hold, 3)
    assert await bench.room() == 50 * 7 + 6 - 50 * 3


async def test_budgets_that_are_nearly_used_up_are_counted() -> None:
    bench = Bench(rule(KEY, "day", 100), rule(USER, "day", 1_000), rule(USER, "total", 79), rule(PROJECT, "month", 0))
    assert bench.budgets.near_cap() == {"day": 0, "month": 0, "total": 0}
    await bench.spend(0, (PROJECT,))
    await bench.spend(63, (KEY, USER))
    assert bench.budgets.near_cap() == {"day": 0, "month": 0, "total": 0}
    hold = await bench.hold(16, (KEY, USER))
    assert bench.budgets.near_cap() == {"day": 0, "month": 0, "total": 1}
    hold.release()
    await bench.spend(16, (KEY, USER))
    await bench.spend(1, (KEY,))
    assert bench.budgets.near_cap() == {"day": 1, "month": 0, "total": 1}
    bench.now += timedelta(days=1)
    assert bench.budgets.near_cap() == {"day": 0, "month": 0, "total": 1}


async def test_a_request_needs_room_in_every_budget_and_a_refused_one_holds_nothing() -> None:
    bench = Bench(rule(KEY, "day", 100), rule(KEY, "month", 90), rule(USER, "total", 80), rule(PROJECT, "day", 70))
    with pytest.raises(BudgetExhausted, match="day budget of this project"):
        await bench.hold(71)
    assert [state.held_picodollars for state in await bench.budgets.state()] == [0, 0, 0, 0]
    await bench.hold(70)
    assert await bench.room((KEY,)) == 20
    assert await bench.room((USER,)) == 10
    assert await bench.room((PROJECT,)) == 0


async def test_a_hold_ends_once_by_settling_or_by_release() -> None:
    bench = Bench(rule(KEY, "day", 100))
    settled, released = await bench.hold(40), await bench.hold(40)
    bench.settle(settled, 30)
    settled.settle(30, ms(bench.now))
    settled.release()
    released.release()
    released.release()
    released.settle(40, ms(bench.now))
    assert await bench.room() == 70


async def test_a_bill_above_the_hold_is_booked_and_seen_by_the_next_request() -> None:
    bench = Bench(rule(KEY, "day", 100))
    bench.settle(await bench.hold(10), 130)
    with pytest.raises(BudgetExhausted, match=r"; 0\.0 are left"):
        await bench.hold(1)
    assert (await bench.budgets.state())[0].spent_picodollars == 130


async def test_what_costs_nothing_is_admitted_even_when_nothing_is_left() -> None:
    bench = Bench(rule(KEY, "day", 100))
    bench.settle(await bench.hold(10), 130)
    (await bench.hold(0)).release()


DAY_TEXT = (
    "The request could cost 0.9 dollars; 0.75 are left of the day budget of this key, 1.0 dollars. "
    "It resets at 2026-11-22 00:00 UTC. Wait until then, send less, or ask an administrator for a larger budget."
)
HELD_TEXT = (
    "The request could cost 0.7 dollars; 0.5 are left of the month budget of this user, 1.0 dollars, with 0.25 held "
    "for requests in progress. It resets at 2026-12-01 00:00 UTC. Try again when those have ended, or ask an "
    "administrator for a larger budget."
)
TOTAL_TEXT = (
    "The request could cost 1.5 dollars; 0.75 are left of the total budget of this project, 1.0 dollars. "
    "It does not reset. Send less, or ask an administrator for a larger budget."
)


@pytest.mark.parametrize(
    ("subject", "period", "held", "asked", "text"),
    [
        (KEY, "day", 0, 900, DAY_TEXT),
        (USER, "month", 250, 700, HELD_TEXT),
        (PROJECT, "total", 0, 1500, TOTAL_TEXT),
    ],
)
async def test_a_refusal_says_which_budget_what_is_left_what_is_asked_and_what_to_do(
    subject: Subject, period: Period, held: int, asked: int, text: str
) -> None:
    milli = 1_000_000_000
    bench = Bench(rule(subject, period, 1000 * milli))
    await bench.spend(250 * milli)
    await bench.hold(held * milli)
    with pytest.raises(BudgetExhausted) as refusal:
        await bench.hold(asked * milli)
    assert refusal.value.message == text


async def test_a_star_rule_is_for_each_of_its_kind_that_has_no_rule_of_its_own_for_that_period() -> None:
    bench = Bench(rule(Subject("key", "*"), "day", 10), rule(Subject("key", "*"), "month", 15), rule(KEY, "day", 12))
    other, third = Subject("key", "key_b"), Subject("key", "key_c")
    assert await bench.room((other,)) == 10
    await bench.hold(10, (other,))
    assert await bench.room((other,)) == 0
    assert await bench.room((third,)) == 10
    assert await bench.room((KEY,)) == 12
    bench.budgets.replace([rule(Subject("key", "*"), "month", 15), rule(KEY, "day", 17)])
    assert await bench.room((KEY,)) == 15
    assert await bench.room((USER,)) == 1_000_000


async def test_it_is_known_whether_any_budget_concerns_a_caller() -> None:
    bench = Bench(rule(KEY, "day", 10))
    assert bench.budgets.applies(CALLER)
    assert not bench.budgets.applies((USER, Subject("key", "key_b")))
    bench.budgets.replace([rule(Subject("user", "*"), "day", 10)])
    assert bench.budgets.applies((USER,))


async def test_callers_who_leave_while_the_ledger_is_summed_up_hold_nothing_and_stop_nobody() -> None:
    bench = Bench(rule(KEY, "day", 100))
    bench.memory.flowing.clear()
    waiting = [asyncio.create_task(bench.hold(30)) for _ in range(6)]
    await turn()
    for task in waiting[:4]:
        task.cancel()
    await turn()
    bench.memory.flowing.set()
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == (
        [asyncio.CancelledError] * 4 + [Hold] * 2
    )
    assert bench.memory.n_sums == 2
    assert await bench.room() == 40


async def test_a_sum_that_fails_after_everyone_has_left_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rule(KEY, "day", 100))
    bench.memory.flowing.clear()
    waiting = asyncio.create_task(bench.hold(30))
    await turn()
    waiting.cancel()
    await turn()
    bench.memory.error = InternalError("unreadable")
    bench.memory.flowing.set()
    await turn()
    del waiting
    gc.collect()
    assert caplog.records == []  # such as that an exception was never retrieved
    bench.memory.error = None
    assert await bench.room() == 100


@pytest.mark.parametrize("error", [InternalError("unreadable"), Overloaded("later", retry_after_s=1.0)])
async def test_while_the_ledger_cannot_be_summed_up_requests_are_refused(error: GatewayError) -> None:
    bench = Bench(rule(KEY, "day", 100))
    bench.memory.error = error
    ends = await asyncio.gather(*(bench.hold(30) for _ in range(3)), return_exceptions=True)
    assert [(type(end), str(end)) for end in ends] == [(type(error), error.message)] * 3
    assert [getattr(end, "retry_after_s", None) for end in ends] == [error.retry_after_s] * 3
    assert len({id(end) for end in ends}) == 3
    with pytest.raises(type(error)):
        await bench.budgets.spends(KEY)
    with pytest.raises(type(error)):
        await bench.budgets.state()
    assert isinstance(await bench.hold(30, (USER,)), Hold)  # no budget concerns it
    bench.memory.error = None
    assert await bench.room() == 100


async def test_at_midnight_the_day_begins_anew_but_what_is_held_still_counts() -> None:
    bench = Bench(rule(KEY, "day", 100), rule(KEY, "month", 1000))
    bench.now = datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC)
    await bench.spend(60)
    over_night, late = await bench.hold(25), await bench.hold(15)
    late_ms = bench.commit(late, 15)
    sums = bench.memory.n_sums
    bench.now += timedelta(seconds=1)
    assert await bench.room() == 60
    late.settle(15, late_ms)  # its entry is of the day before
    assert await bench.room() == 75
    bench.settle(over_night, 20)
    assert await bench.room() == 80
    assert await bench.budgets.spends(KEY) == Spends(20, 95)
    assert bench.memory.n_sums == sums


async def test_the_first_thing_of_a_day_may_be_the_end_of_a_request() -> None:
    bench = Bench(rule(KEY, "day", 100))
    await bench.spend(20)
    hold = await bench.hold(70)
    sums = bench.memory.n_sums
    bench.now += timedelta(days=1)
    bench.settle(hold, 70)
    assert await bench.room() == 30
    assert bench.memory.n_sums == sums


async def test_at_the_end_of_a_month_its_budget_begins_anew() -> None:
    bench = Bench(rule(USER, "month", 100), rule(USER, "total", 300))
    bench.now = datetime(2026, 12, 31, 23, 0, tzinfo=UTC)
    await bench.spend(90)
    held = await bench.hold(10)
    bench.now = datetime(2027, 1, 1, 0, 0, tzinfo=UTC)
    assert await bench.room() == 90
    bench.settle(held, 10)
    assert await bench.room() == 90
    bench.now = datetime(2027, 2, 28, 23, 59, tzinfo=UTC)
    assert await bench.room() == 100
    bench.now = datetime(2027, 3, 1, 0, 0, tzinfo=UTC)
    await bench.spend(100)
    bench.now = datetime(2028, 1, 1, 0, 0, tzinfo=UTC)
    await bench.spend(99)
    assert await bench.room() == 1


async def test_when_the_clock_is_set_back_the_ledger_says_what_was_spent_that_day() -> None:
    bench = Bench(rule(KEY, "day", 100))
    await bench.spend(30)
    bench.now += timedelta(days=2)
    await bench.spend(40)
    bench.now -= timedelta(days=2)
    assert await bench.room() == 30  # entries of the future count too: the money is gone
    bench.now += timedelta(days=1)
    assert await bench.room() == 60
    bench.now += timedelta(days=1)
    assert await bench.room() == 60
    bench.now += timedelta(days=1)
    assert await bench.room() == 100


async def test_the_first_request_after_the_clock_was_set_back_is_measured_by_the_ledger_too() -> None:
    bench = Bench(rule(KEY, "month", 100))
    await bench.spend(60)
    bench.now += timedelta(days=20)
    assert await bench.room() == 100
    bench.now -= timedelta(days=15)
    with pytest.raises(BudgetExhausted):
        await bench.hold(41)
    assert await bench.room() == 40


async def test_a_month_that_the_clock_was_set_back_from_is_not_forgotten() -> None:
    bench = Bench(rule(KEY, "month", 100))
    bench.now = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
    await bench.spend(60)
    bench.now -= timedelta(days=1)
    assert await bench.room() == 40
    bench.now += timedelta(days=2)
    assert await bench.room() == 40


async def test_a_sum_is_taken_once_though_the_day_changed_since_the_last_request() -> None:
    bench = Bench(rule(KEY, "day", 100))
    bench.now -= timedelta(days=1)
    await bench.spend(60)
    assert bench.memory.n_sums == 2


async def test_midnight_during_a_sum_makes_it_begin_again() -> None:
    bench = Bench()
    early = await bench.hold(0)
    await bench.spend(50)
    bench.budgets.replace([rule(KEY, "day", 100)])
    bench.memory.flowing.clear()
    waiting = asyncio.create_task(bench.hold(80))
    await turn()
    bench.now += timedelta(days=1)
    bench.settle(early, 10)
    bench.memory.flowing.set()
    await waiting
    assert await bench.room() == 10


@pytest.mark.parametrize("sums_late", [False, True])
async def test_a_rule_that_comes_while_requests_are_in_flight_counts_each_of_them_once(sums_late: bool) -> None:
    bench = Bench(memory=Memory(sums_late=sums_late))
    await bench.spend(1)
    ended, committed, running, released = [await bench.hold(10) for _ in range(4)]
    bench.settle(ended, 2)
    committed_ms = bench.commit(committed, 4)
    bench.budgets.replace([rule(KEY, "day", 100)])
    bench.memory.flowing.clear()
    first = asyncio.create_task(bench.hold(50))
    await turn()
    assert not first.done()
    bench.settle(running, 8)
    released.release()
    bench.memory.flowing.set()
    await first
    assert await bench.room() == 100 - 50 - 1 - 2 - 10 - 8
    committed.settle(4, committed_ms)
    assert await bench.room() == 100 - 50 - 1 - 2 - 4 - 8
    assert [state.held_picodollars for state in await bench.budgets.state()] == [50]


async def test_requests_without_a_budget_wait_while_their_subject_is_summed_up() -> None:
    bench = Bench(memory=Memory(sums_late=True))
    bench.memory.flowing.clear()
    asking = asyncio.create_task(bench.budgets.spends(KEY))
    await turn()
    spending = asyncio.create_task(bench.spend(30))
    await turn()
    bench.memory.flowing.set()
    await spending
    assert await asking == Spends(0, 0)
    assert await bench.budgets.spends(KEY) == Spends(30, 30)


async def test_other_rules_keep_what_is_held_and_spent() -> None:
    bench = Bench(rule(KEY, "day", 100))
    bench.now -= timedelta(days=1)
    await bench.spend(5)
    bench.now += timedelta(days=1)
    await bench.spend(20)
    hold = await bench.hold(30)
    sums = bench.memory.n_sums
    bench.budgets.replace([rule(KEY, "month", 200)])
    assert await bench.room() == 145
    assert bench.memory.n_sums == sums
    bench.budgets.replace([rule(KEY, "total", 300), rule(KEY, "month", 290)])
    assert await bench.room() == 235
    bench.settle(hold, 10)
    assert await bench.room() == 255
    bench.budgets.replace([])
    assert await bench.room() == 1_000_000


async def test_a_rule_that_comes_during_a_sum_is_heeded() -> None:
    bench = Bench(rule(KEY, "day", 100))
    bench.now -= timedelta(days=300)
    await bench.spend(50)
    bench.now = NOON
    bench.budgets = bench.fresh()
    bench.memory.flowing.clear()
    waiting = asyncio.create_task(bench.hold(20))
    await turn()
    bench.budgets.replace([rule(KEY, "total", 60)])
    bench.memory.flowing.set()
    with pytest.raises(BudgetExhausted, match="total budget"):
        await waiting


async def test_cover_raises_a_hold_or_refuses_and_leaves_it() -> None:
    bench = Bench(rule(KEY, "day", 100), rule(USER, "day", 90))
    hold, other = await bench.hold(40), await bench.hold(20)
    await hold.cover(30)
    assert hold.amount_picodollars == 40
    assert await bench.room() == 30
    await hold.cover(60)
    assert hold.amount_picodollars == 60
    assert await bench.room() == 10
    with pytest.raises(BudgetExhausted, match=r"could cost 0\.000000000071 dollars; 0\.00000000007 are left"):
        await hold.cover(71)
    assert hold.amount_picodollars == 60
    assert await bench.room() == 10
    bench.settle(other, 0)
    await asyncio.gather(hold.cover(71), hold.cover(65))
    assert hold.amount_picodollars == 71
    bench.settle(hold, 70)
    assert await bench.room() == 20


async def test_a_hold_that_has_ended_cannot_be_raised() -> None:
    bench = Bench()
    ended, ending = await bench.hold(10), await bench.hold(10)
    ended.release()
    with pytest.raises(InternalError):
        await ended.cover(20)
    bench.budgets.replace([rule(KEY, "day", 100)])
    bench.memory.flowing.clear()
    covering = asyncio.create_task(ending.cover(50))
    await turn()
    bench.settle(ending, 10)
    bench.memory.flowing.set()
    with pytest.raises(InternalError):
        await covering
    assert await bench.room() == 90


async def test_a_hold_from_before_a_rule_is_covered_within_the_rule() -> None:
    bench = Bench()
    hold = await bench.hold(10)
    bench.budgets.replace([rule(KEY, "day", 100)])
    with pytest.raises(BudgetExhausted):
        await hold.cover(101)
    await hold.cover(100)
    assert await bench.room() == 0


async def test_a_cost_that_the_ledger_did_not_take_counts_once_before_and_after_it_is_written() -> None:
    bench = Bench(rule(KEY, "day", 100))
    hold = await bench.hold(30)
    hold.settle(25, ms(bench.now), is_recorded=False)
    assert await bench.room() == 75
    bench.budgets.replace([rule(KEY, "total", 100)])  # a new sum
    assert await bench.room() == 75
    bench.commit(hold, 25)
    assert await bench.room() == 75
    bench.now += timedelta(days=1)
    bench.budgets.replace([rule(KEY, "day", 100)])
    assert await bench.room() == 100
    bench.now -= timedelta(days=1)  # another sum
    assert await bench.room() == 75


async def test_of_costs_that_the_ledger_did_not_take_a_bounded_number_is_remembered() -> None:
    bench = Bench()
    for _ in range(MAX_UNRECORDED + 5):
        (await bench.hold(1)).settle(1, ms(bench.now), is_recorded=False)
    assert await bench.budgets.spends(KEY) == Spends(MAX_UNRECORDED, MAX_UNRECORDED)


async def test_what_a_key_has_spent_is_known_without_a_budget() -> None:
    bench = Bench()
    bench.now -= timedelta(days=1)
    await bench.spend(5)
    bench.now += timedelta(days=1)
    await bench.spend(7)
    assert await bench.budgets.spends(KEY) == Spends(7, 12)
    sums = bench.memory.n_sums
    await bench.spend(10)
    assert await bench.budgets.spends(KEY) == Spends(17, 22)
    bench.now += timedelta(days=1)
    assert await bench.budgets.spends(KEY) == Spends(0, 22)
    assert bench.memory.n_sums == sums


async def test_a_report_has_every_named_budget_and_those_of_star_rules_in_memory() -> None:
    every = Subject("user", "*")
    bench = Bench(rule(KEY, "day", 100), rule(KEY, "total", 200), rule(every, "month", 300))
    await bench.spend(10, (USER,))
    await bench.hold(5, (USER,))
    assert await bench.budgets.state() == [
        BudgetState(KEY, "day", 100, 0, 0),
        BudgetState(KEY, "total", 200, 0, 0),
        BudgetState(USER, "month", 300, 10, 5),
    ]


async def test_subjects_that_stay_away_leave_memory_and_find_their_sums_when_they_return() -> None:
    bench = Bench(rule(Subject("key", "*"), "day", 100))
    away, held, asking, watched, *others = (Subject("key", str(n)) for n in range(4 * SWEEP_FROM))
    await bench.spend(30, (away,))
    hold = await bench.hold(40, (held,))
    for other in others:
        (await bench.hold(0, (asking,))).release()
        await bench.budgets.spends(watched)
        await bench.hold(0, (other,))
    assert bench.memory.n_sums == 2 * 4 * SWEEP_FROM
    in_memory = {state.subject for state in await bench.budgets.state()}
    assert len(in_memory) < 3 * SWEEP_FROM
    assert in_memory & {away, held, asking, watched} == {held, asking, watched}
    assert await bench.room((away,)) == 70
    bench.settle(hold, 40, (held,))
    assert await bench.room((held,)) == 60


ENTRY = LedgerEntry(
    request_id="r",
    at_ms=0,
    dialect="openai",
    user_id=USER.id,
    key_id=KEY.id,
    end_user=None,
    model="m",
    space="s",
    provider="p",
    upstream_model="m",
    items=1,
    tokens=1,
    reused_tokens=0,
    tokens_estimated=False,
    price_picodollars=1,
    price_as_of=None,
    cost_picodollars=0,
    outcome="ok",
    total_ms=1.0,
    upstream_ms=1.0,
    project_id=PROJECT.id,
)


async def test_a_restart_over_the_same_ledger_leaves_the_same_room(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    ledger, spending = SqlLedger(database), LedgerSpending(database)
    rules = [rule(KEY, "day", 1000), rule(USER, "month", 1500), rule(Subject("project", "*"), "total", 2000)]
    now = NOON

    async def request(budgets: Budgets, request_id: str, cost: int) -> None:
        hold = await budgets.hold(request_id, CALLER, cost + 50)
        entry = structs.replace(ENTRY, request_id=request_id, at_ms=ms(now), cost_picodollars=cost)
        await ledger.record(entry)
        hold.settle(cost, entry.at_ms)

    budgets = Budgets(rules, spending, lambda: now)
    await asyncio.gather(*(request(budgets, f"first-{n}", 10) for n in range(10)))
    now += timedelta(days=1)
    await asyncio.gather(*(request(budgets, f"second-{n}", 20) for n in range(10)))
    before = await budgets.state()
    await budgets.hold("killed", CALLER, 500)
    after = await Budgets(rules, spending, lambda: now).state()
    assert before[:2] == after == [BudgetState(KEY, "day", 1000, 200, 0), BudgetState(USER, "month", 1500, 300, 0)]
    assert before[2:] == [BudgetState(PROJECT, "total", 2000, 300, 0)]
    ledger.close()
    spending.close()
    database.close()
