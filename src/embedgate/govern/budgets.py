"""Budgets: how much money a key, a user or a project may spend in a day, a month, or ever.

What requests hold of them is counted in the engine of the gateway that serves.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.access import EVERY, BudgetRule, BudgetState, Period, Subject, SubjectKind
from embedgate.core.clock import ms_of
from embedgate.core.errors import Overloaded, UnknownEntity
from embedgate.core.money import usd_text
from embedgate.govern.change import Change, Invocation, Reading
from embedgate.govern.lists import Listed, ListQuery, pick, sorts
from embedgate.govern.operation import Facts, changes, runs
from embedgate.govern.subjects import KindOfSubject, SubjectId, SubjectRef, find_subject
from embedgate.govern.values import Usd, UsdGiven, moment, picodollars_of, usd_or_none
from embedgate.storage import schema
from embedgate.storage.spending import sum_spent

PeriodOfBudget = Annotated[Period, Meta(description="The UTC day, the UTC month, or all time.", examples=["month"])]

_TABLE = schema.budgets


class Budget(Struct, frozen=True):
    """How much money one subject may spend in a period, or each subject of a kind."""

    kind: SubjectKind
    subject: SubjectId
    period: Period
    cap_usd: Usd


class BudgetStanding(Struct, frozen=True):
    """A budget and its state. One for `*` has no state of its own: those in use under it are listed beside it."""

    kind: SubjectKind
    subject: SubjectId
    period: Period
    cap_usd: Usd
    spent_usd: Annotated[Usd | None, Meta(description="In the present period.")]
    held_usd: Annotated[Usd | None, Meta(description="For requests in flight.")]
    is_own: Annotated[bool, Meta(description="false where the budget of `*` holds for this subject.")]


class NewBudget(Struct, forbid_unknown_fields=True):
    """How much money may be spent."""

    kind: KindOfSubject
    subject: SubjectRef
    period: PeriodOfBudget
    cap_usd: UsdGiven


class BudgetQuery(ListQuery):
    """Which budgets."""

    sort: Annotated[str, sorts("kind", "subject", "period", "cap_usd", "spent_usd", "held_usd")] = ""


class WhichBudget(Struct, forbid_unknown_fields=True):
    """A budget."""

    kind: KindOfSubject
    subject: SubjectRef
    period: PeriodOfBudget


@runs("budgets.list", "GET", "/api/budgets", Facts("listBudgets", raises=(Overloaded,)))
def list_budgets(invocation: Invocation, query: BudgetQuery) -> Listed[BudgetStanding]:
    """List the budgets, with what is spent."""
    states = (
        invocation.resources.gateway.budget_states()
    )  # before the transaction: they may be summed up in one of their own
    with invocation.read() as reading:
        return pick(_standings(reading, states), query)


@changes(
    "budgets.set", "PUT", "/api/budgets/{kind}/{subject}/{period}", Facts("setBudget", example={"cap_usd": "25.00"})
)
def set_budget(change: Change, new: NewBudget) -> Budget:
    """Set a budget.

    Instead of the one that the subject has for that period.
    """
    cap_picodollars = picodollars_of(new.cap_usd, "cap", param="cap_usd")
    subject = find_subject(change, new.kind, new.subject)
    replaced = _take(change, subject, new.period)
    row = {
        "subject_kind": subject.kind,
        "subject_id": subject.id,
        "period": new.period,
        "cap_picodollars": cap_picodollars,
    }
    change.connection.execute(_TABLE.insert().values(row))
    cap_usd = usd_text(cap_picodollars)
    change.rules_changed()
    change.note(
        "budgets.set",
        subject.id,
        subject_kind=subject.kind,
        period=new.period,
        cap_usd=cap_usd,
        replaced_cap_usd=usd_or_none(replaced),
    )
    return Budget(subject.kind, subject.id, new.period, cap_usd)


@changes("budgets.delete", "DELETE", "/api/budgets/{kind}/{subject}/{period}", Facts("deleteBudget"))
def delete_budget(change: Change, which: WhichBudget) -> None:
    """Delete a budget."""
    subject = find_subject(change, which.kind, which.subject)
    if _take(change, subject, which.period) is None:
        raise UnknownEntity(
            f"There is no budget of period {which.period!r} for {subject.kind} {subject.id!r}. List the budgets."
        )
    change.rules_changed()
    change.note("budgets.delete", subject.id, subject_kind=subject.kind, period=which.period)


def read_budgets(connection: sa.Connection) -> tuple[BudgetRule, ...]:
    """Every budget, by subject and period."""
    ordered = _TABLE.select().order_by(_TABLE.c.subject_kind, _TABLE.c.subject_id, _TABLE.c.period)
    return tuple(map(_rule, connection.execute(ordered)))


def _take(change: Change, subject: Subject, period: Period) -> int | None:
    """Take away a budget, and return its cap in picodollars; None if there is none."""
    is_meant = sa.and_(
        _TABLE.c.subject_kind == subject.kind, _TABLE.c.subject_id == subject.id, _TABLE.c.period == period
    )
    taken = _TABLE.delete().where(is_meant).returning(_TABLE.c.cap_picodollars)
    return change.connection.execute(taken).scalar_one_or_none()


def _rule(row: sa.Row[Any]) -> BudgetRule:
    return BudgetRule(Subject(row.subject_kind, row.subject_id), row.period, row.cap_picodollars)


def _standings(reading: Reading, states: Sequence[BudgetState]) -> Iterator[BudgetStanding]:
    in_use = {(state.subject.kind, state.subject.id, state.period): state for state in states}
    own = {(rule.subject.kind, rule.subject.id, rule.period): rule for rule in read_budgets(reading.connection)}
    for place in sorted({*own, *in_use}):
        state, rule = in_use.get(place), own.get(place)
        cap_picodollars = rule.cap_picodollars if rule else in_use[place].cap_picodollars
        yield BudgetStanding(
            *place,
            cap_usd=usd_text(cap_picodollars),
            spent_usd=usd_or_none(state.spent_picodollars if state else _spent(reading, *place)),
            held_usd=usd_text(state.held_picodollars) if state else None,
            is_own=rule is not None,
        )


def _spent(reading: Reading, kind: SubjectKind, subject_id: str, period: Period) -> int | None:
    """What the ledger says; None where each subject has a sum of its own."""
    if subject_id == EVERY:
        return None
    return sum_spent(reading.connection, Subject(kind, subject_id), _start_ms(period, moment(reading.now_ms)))


def _start_ms(period: Period, now: datetime) -> int:
    if period == "total":
        return 0
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return ms_of(day if period == "day" else day.replace(day=1))


OPERATIONS = (list_budgets, set_budget, delete_budget)
