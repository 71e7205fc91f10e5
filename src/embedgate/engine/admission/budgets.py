"""Budgets: money is held before it is spent, so that no key, user or project exceeds its budget.

Implements the port BudgetKeeper in this process, for one event loop, and for the only process that spends. A hold is
kept for each request in flight; it is settled or released when the request ends, whichever is first. For each subject
that needs one there is a balance: what the ledger says it has spent since the period began, and what is held for it
now. Raises BudgetExhausted for what could cost more than is left. What a request could cost is worked out elsewhere.

The ledger is the one lasting truth; a balance is a copy, which may be dropped at any time and made again. That a
request is counted exactly once rests on two rules. Every request in flight has a hold, budget or not, and a sum is
taken without the entries of those requests, which are then added from memory: it does not matter whether an entry was
committed before or after the sum was taken. And while the sum of a subject is being taken, no further request of it
is let in.

A hold belongs to no period: it counts in each period that it lives in, and its cost in those that its ledger entry
falls into. So neither of two days can be overspent by what is in flight at midnight.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, get_args

from msgspec import Struct

from embedgate.core.access import EVERY, BudgetRule, BudgetState, Period, Spends, Subject, SubjectKind
from embedgate.core.clock import ms_of, utc_now
from embedgate.core.errors import BudgetExhausted, InternalError, Overloaded
from embedgate.core.money import usd_text

SWEEP_FROM = 1_000
"""Balances in memory before those that nobody uses are looked for; again whenever their number has doubled."""
MAX_UNRECORDED = 10_000
"""Costs to remember that the ledger has not taken yet. Older ones are in it by then, or lost to its log."""


class Spending(Protocol):
    """The sums of the ledger."""

    async def spent(self, subject: Subject, since_ms: int, without: Collection[str]) -> int:
        """Picodollars that the entries of a subject cost from `since_ms` on, those of some requests left out.

        without: request ids. Raises InternalError if the ledger cannot be read, Overloaded if too many sums wait.
        """
        ...


class Hold(Struct, eq=False):
    """The most that one request can cost, kept for it until it is settled or released, whichever is first.

    Made by `Budgets.hold`.
    """

    _budgets: "Budgets"
    request_id: str
    keys: Sequence[Subject]
    amount_picodollars: int
    is_open: bool = True
    cost_picodollars: int = 0
    at_ms: int = 0

    async def cover(self, total_picodollars: int) -> None:
        """Raise the hold to `total_picodollars`; a hold of that much already stays as it is.

        To be called before more is spent than was held. Raises BudgetExhausted, InternalError if the hold has ended,
        or what `Spending.spent` does; the hold is then unchanged.
        """
        await self._budgets._raise_hold(self, total_picodollars)

    def settle(self, cost_picodollars: int, at_ms: int, *, is_recorded: bool = True) -> None:
        """Book the true cost, even one above the hold, and end the hold.

        at_ms: of the ledger entry, which must be committed. is_recorded: False if the ledger could not take the entry,
        now or ever: the cost then counts from memory, and still once when the entry is committed later.
        """
        if self.is_open:
            self.cost_picodollars, self.at_ms = cost_picodollars, at_ms
            self._budgets._end_hold(self, is_recorded)

    def release(self) -> None:
        """End the hold of a request that has no ledger entry."""
        if self.is_open:
            self._budgets._end_hold(self, is_recorded=True)


@dataclass(slots=True)
class _Balance:
    """What one subject has spent since each period began, and what is held for it."""

    spent: dict[Period, int]
    held: int = 0
    is_used: bool = True
    """Since the last sweep."""

    def book(self, hold: Hold, starts_ms: dict[Period, int]) -> None:
        """Add the cost of a settled hold to the periods that its entry falls into."""
        for period in self.spent:
            if hold.at_ms >= starts_ms[period]:
                self.spent[period] += hold.cost_picodollars


@dataclass(frozen=True, slots=True)
class _Today:
    """The UTC day that budgets are reckoned for, and where its periods begin in the ledger."""

    begins: datetime
    ends: datetime
    starts_ms: dict[Period, int]
    ends_ms: int

    @classmethod
    def at(cls, now: datetime) -> "_Today":
        begins = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        ends = begins + timedelta(days=1)
        starts_ms: dict[Period, int] = {"day": ms_of(begins), "month": ms_of(begins.replace(day=1)), "total": 0}
        return cls(begins, ends, starts_ms, ms_of(ends))

    def resets_at(self, period: Period) -> datetime | None:
        """When the sum of a period begins anew; None if never."""
        if period == "total":
            return None
        return self.ends if period == "day" else (self.begins.replace(day=1) + timedelta(days=32)).replace(day=1)


class Budgets:
    """Every budget of the gateway, and all holds on them."""

    def __init__(
        self,
        rules: Sequence[BudgetRule],
        spending: Spending,
        now: Callable[[], datetime] = utc_now,
        newest_ms: int = 0,
    ) -> None:
        """spending: the ledger's sums. now: an aware time, of the clock that dates ledger entries.

        newest_ms: of the newest entry there is. The clock of an earlier process may have been ahead of this one's.
        """
        self._spending = spending
        self._now = now
        self._today = _Today.at(now())
        self._newest_ms = max(newest_ms, ms_of(now()))  # no entry is newer
        self._balances: dict[Subject, _Balance] = {}
        self._sweep_at = SWEEP_FROM
        self._loading: dict[Subject, asyncio.Task[None]] = {}
        self._in_flight: set[Hold] = set()
        self._unrecorded: deque[Hold] = deque()
        self.replace(rules)

    def replace(self, rules: Sequence[BudgetRule]) -> None:
        """Put other rules in force. What is held and spent stays counted."""
        every: dict[SubjectKind, dict[Period, BudgetRule]] = {}
        own: dict[Subject, dict[Period, BudgetRule]] = {}
        for rule in rules:
            kind, name = rule.subject.kind, rule.subject.id
            of_subject = every.setdefault(kind, {}) if name == EVERY else own.setdefault(rule.subject, {})
            of_subject[rule.period] = rule
        self._every = {kind: tuple(by_period.values()) for kind, by_period in every.items()}
        self._own = {key: tuple({**every.get(key.kind, {}), **by_period}.values()) for key, by_period in own.items()}
        lacking = [key for key, balance in self._balances.items() if not self._periods(key) <= balance.spent.keys()]
        for key in lacking:
            del self._balances[key]

    def recount(self) -> None:
        """Take every sum anew from the ledger, where it was corrected; what is held stays held."""
        self._balances.clear()

    def applies(self, subjects: Sequence[Subject]) -> bool:
        """Whether any budget applies to these subjects. If none does, a hold may be of a rough bound.

        Not 0, though: a rule may come at any time, and then counts what is in flight.
        """
        return bool(self._own or self._every) and any(self._rules_of(subject) for subject in subjects)

    async def hold(self, request_id: str, subjects: Sequence[Subject], amount_picodollars: int) -> Hold:
        """Hold the maximum cost of a request in every budget of its subjects at once. Settle or release it.

        request_id: as its ledger entry will have it. What costs nothing is never refused for lack of money. Suspends
        only to sum up the ledger, when a subject is first seen.
        Raises BudgetExhausted, or what `Spending.spent` does; then nothing is held.
        """
        while (missing := self._reserve(subjects, 0, amount_picodollars)) is not None:
            await self._load(missing)
        hold = Hold(self, request_id, subjects, amount_picodollars)
        self._in_flight.add(hold)
        return hold

    async def spends(self, subject: Subject) -> Spends:
        """What a subject has spent, whether or not it has a budget. Suspends only to sum up the ledger.

        Raises what `Spending.spent` does.
        """
        balance = await self._balance(subject)
        balance.is_used = True
        return Spends(balance.spent["day"], balance.spent["month"])

    async def state(self) -> list[BudgetState]:
        """Every budget: of each subject that a rule names, and of the others of a `*` rule that are in memory.

        Raises what `Spending.spent` does.
        """
        states = []
        for key in dict.fromkeys([*self._own, *self._balances]):
            if not self._rules_of(key):
                continue
            balance = await self._balance(key)
            states += [
                BudgetState(key, rule.period, rule.cap_picodollars, balance.spent[rule.period], balance.held)
                for rule in self._rules_of(key)
            ]
        return states

    def near_cap(self) -> dict[Period, int]:
        """How many budgets that name their subject are used to four fifths or more, by period.

        Of those in memory, which are all that requests have come for since the start.
        """
        found: dict[Period, int] = dict.fromkeys(get_args(Period), 0)
        self._follow_clock()
        for key, rules in self._own.items():
            balance = self._balances.get(key)
            for rule in rules if balance is not None else ():
                cap = rule.cap_picodollars  # 0 is no budget but a ban
                if balance is not None and cap and 5 * (balance.spent[rule.period] + balance.held) >= 4 * cap:
                    found[rule.period] += 1
        return found

    async def _raise_hold(self, hold: Hold, total_picodollars: int) -> None:
        while True:  # while the ledger is summed up, the hold may end or be raised
            if not hold.is_open:
                raise InternalError("The hold of a request was to be raised after the request had ended.")
            if total_picodollars <= hold.amount_picodollars:
                return
            missing = self._reserve(hold.keys, hold.amount_picodollars, total_picodollars)
            if missing is None:
                hold.amount_picodollars = total_picodollars
                return
            await self._load(missing)

    def _end_hold(self, hold: Hold, is_recorded: bool) -> None:
        hold.is_open = False
        if is_recorded:
            self._in_flight.remove(hold)
        else:
            self._remember(hold)
        if hold.at_ms >= self._today.ends_ms:
            self._follow_clock()
        if hold.at_ms > self._newest_ms:
            self._newest_ms = hold.at_ms
        if not self._balances:
            return
        for key in hold.keys:
            balance = self._balances.get(key)
            if balance is not None:
                balance.held -= hold.amount_picodollars
                balance.book(hold, self._today.starts_ms)

    def _rules_of(self, key: Subject) -> tuple[BudgetRule, ...]:
        return self._own.get(key) or self._every.get(key.kind, ())

    def _periods(self, key: Subject) -> set[Period]:
        """What a balance must know: the day and the month, and all time only if a rule asks, for that sum is long."""
        return {"day", "month", *(rule.period for rule in self._rules_of(key))}

    def _reserve(self, keys: Sequence[Subject], own: int, total: int) -> Subject | None:
        """Raise what a request holds from `own` to `total` for all its subjects, or raise BudgetExhausted.

        If a subject must be summed up first, returns it and changes nothing.
        """
        if not (self._balances or self._own or self._every or self._loading):
            return None
        balances = []
        for key in keys:
            balance = self._balances.get(key)
            if balance is not None:
                balances.append((key, balance))
            elif key in self._own or key.kind in self._every or key in self._loading:
                return key
        if not balances:
            return None
        if self._follow_clock():
            return self._reserve(keys, own, total)
        more = total - own
        for key, balance in balances:
            for rule in self._rules_of(key):
                if more > 0 and balance.spent[rule.period] + balance.held + more > rule.cap_picodollars:
                    raise self._refusal(key, rule, balance, own, total)
        for _, balance in balances:
            balance.held += more
            balance.is_used = True
        return None

    def _refusal(self, key: Subject, rule: BudgetRule, balance: _Balance, own: int, total: int) -> BudgetExhausted:
        held = balance.held - own
        unspent = rule.cap_picodollars - balance.spent[rule.period]
        resets_at = self._today.resets_at(rule.period)
        if held and total <= unspent:
            next_step = "Try again when those have ended"
        elif resets_at and total <= rule.cap_picodollars:
            next_step = "Wait until then, send less"
        else:
            next_step = "Send less"
        return BudgetExhausted(
            f"The request could cost {usd_text(total)} dollars; {usd_text(max(0, unspent - held))} are left of the "
            f"{rule.period} budget of this {key.kind}, {usd_text(rule.cap_picodollars)} dollars"
            + (f", with {usd_text(held)} held for requests in progress. " if held else ". ")
            + (f"It resets at {resets_at:%Y-%m-%d %H:%M} UTC. " if resets_at else "It does not reset. ")
            + f"{next_step}, or ask an administrator for a larger budget."
        )

    def _follow_clock(self) -> bool:
        """Begin the day of the clock if it is not the one that is reckoned for. Returns whether it did."""
        now = self._now()
        if self._today.begins <= now < self._today.ends:
            return False
        before, self._today = self._today, _Today.at(now)
        starts_ms = self._today.starts_ms
        begun = [period for period, start_ms in starts_ms.items() if start_ms != before.starts_ms[period]]
        if now < before.begins or self._newest_ms >= min(starts_ms[period] for period in begun):
            # The clock was set back, or returns to days that it was set back from: only the ledger knows their sums.
            self._balances.clear()
        for balance in self._balances.values():
            balance.spent.update(dict.fromkeys(begun, 0))
        return True

    def _remember(self, hold: Hold) -> None:
        """Keep the cost of a request that is not in the ledger, for the sums that will be taken."""
        self._unrecorded.append(hold)
        if len(self._unrecorded) > MAX_UNRECORDED:
            self._in_flight.remove(self._unrecorded.popleft())

    async def _balance(self, key: Subject) -> _Balance:
        self._follow_clock()
        while (balance := self._balances.get(key)) is None:
            await self._load(key)
            self._follow_clock()
        return balance

    async def _load(self, key: Subject) -> None:
        """Return once there is a balance of a subject, summed up once for all who wait.

        A task, because those who wait may leave. Raises what `Spending.spent` does, for all who wait.
        """
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.get_running_loop().create_task(self._fill(key))
            loading.add_done_callback(_see)
        try:
            await asyncio.shield(loading)
        except (InternalError, Overloaded) as error:  # one of its own for each who waits
            raise type(error)(error.message, retry_after_s=error.retry_after_s) from error

    async def _fill(self, key: Subject) -> None:
        try:
            while True:
                self._follow_clock()
                today, periods = self._today, self._periods(key)
                # All holds are searched, which is rare: an index by subject would cost every request.
                in_flight = [hold for hold in self._in_flight if key in hold.keys]
                without = [hold.request_id for hold in in_flight]
                balance = _Balance({})
                for period in periods:
                    since_ms = today.starts_ms[period]
                    balance.spent[period] = await self._spending.spent(key, since_ms, without)
                if today is self._today and self._periods(key) <= periods:
                    break
            for hold in in_flight:
                if hold.is_open:
                    balance.held += hold.amount_picodollars
                else:
                    balance.book(hold, today.starts_ms)
            self._balances[key] = balance
        finally:
            del self._loading[key]  # at once: who finds neither balance nor task begins anew
        self._drop_idle()

    def _drop_idle(self) -> None:
        """Drop what was not used since the last sweep. It is loaded again when its subject returns."""
        if len(self._balances) < self._sweep_at:
            return
        for key, balance in list(self._balances.items()):
            if not balance.is_used and not balance.held:
                del self._balances[key]
            balance.is_used = False
        self._sweep_at = max(SWEEP_FROM, 2 * len(self._balances))


def _see(loading: asyncio.Task[None]) -> None:
    """Look at the end of a load, so that a failure whose waiters have all left is not reported as lost."""
    if not loading.cancelled():
        loading.exception()
