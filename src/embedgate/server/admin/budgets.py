"""Routes for budgets: how much money may be spent in a period, and where each stands."""

import asyncio
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import BudgetRule, BudgetState, Period, SubjectKind
from embedgate.core.errors import Overloaded
from embedgate.core.money import usd_text
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, Usd, UsdGiven, pick, sorts


class BudgetToSet(Struct, forbid_unknown_fields=True):
    """How much money may be spent."""

    cap_usd: UsdGiven


class Budget(Struct, frozen=True):
    """How much money one subject may spend in a period, or each subject of a kind."""

    kind: SubjectKind
    subject: Annotated[str, Meta(description="Id of the key, user or project; `*` for each without one of its own.")]
    period: Period
    cap_usd: Usd


class BudgetStanding(Struct, frozen=True):
    """A budget, and where it stands. One for `*` stands nowhere itself: those in use under it are listed beside it."""

    kind: SubjectKind
    subject: Annotated[str, Meta(description="Id of the key, user or project; `*` for each without one of its own.")]
    period: Period
    cap_usd: Usd
    spent_usd: Annotated[Usd | None, Meta(description="In the present period.")]
    held_usd: Annotated[Usd | None, Meta(description="For requests in flight.")]
    is_own: Annotated[bool, Meta(description="false where the budget of `*` holds for this subject.")]


class BudgetQuery(ListQuery):
    """Which budgets."""

    sort: Annotated[str, sorts("kind", "subject", "period", "cap_usd", "spent_usd", "held_usd")] = ""


_Place = tuple[SubjectKind, str, Period]


async def _list(asked: Asked) -> Listed:
    rules = await asyncio.to_thread(asked.administration.budgets.list)
    return pick(_standings(rules, await asked.gateway.budgets.state()), asked.query)


def _standings(rules: tuple[BudgetRule, ...], states: list[BudgetState]) -> Iterator[BudgetStanding]:
    stands = {(state.subject.kind, state.subject.id, state.period): state for state in states}
    own: dict[_Place, BudgetRule] = {(rule.subject.kind, rule.subject.id, rule.period): rule for rule in rules}
    for place in sorted({*own, *stands}):
        state = stands.get(place)
        rule = own.get(place)
        cap = rule.cap_picodollars if rule else stands[place].cap_picodollars
        yield BudgetStanding(
            *place,
            cap_usd=usd_text(cap),
            spent_usd=usd_text(state.spent_picodollars) if state else None,
            held_usd=usd_text(state.held_picodollars) if state else None,
            is_own=rule is not None,
        )


def _budget(rule: BudgetRule) -> Budget:
    return Budget(rule.subject.kind, rule.subject.id, rule.period, usd_text(rule.cap_picodollars))


def _set(asked: Asked) -> Budget:
    path = asked.path
    return _budget(asked.administration.budgets.set(path["kind"], path["subject"], path["period"], asked.body.cap_usd))


def _delete(asked: Asked) -> None:
    asked.administration.budgets.delete(asked.path["kind"], asked.path["subject"], asked.path["period"])


_BUDGET = "/api/budgets/{kind}/{subject}/{period}"

ROUTES = (
    Route(
        "GET",
        "/api/budgets",
        "listBudgets",
        "List the budgets, and where they stand",
        _list,
        BudgetStanding,
        query=BudgetQuery,
        is_list=True,
        raises=(Overloaded,),
    ),
    Route(
        "PUT",
        _BUDGET,
        "setBudget",
        "Set a budget",
        _set,
        Budget,
        "Instead of the one that the subject has for that period.",
        body=BudgetToSet,
        example={"cap_usd": "25.00"},
        is_change=True,
    ),
    Route("DELETE", _BUDGET, "deleteBudget", "Take a budget away", _delete, None, is_change=True),
)
