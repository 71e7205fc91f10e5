"""Budgets: exact caps, one for each period, and where they stand with and without a gateway that counts."""

import dataclasses
from collections.abc import Callable
from typing import get_args

import msgspec
import pytest

from embedgate.core.access import BudgetRule, BudgetState, Subject, SubjectKind
from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.govern import budgets, keys, projects, users
from embedgate.govern.budgets import Budget, BudgetQuery, BudgetStanding, NewBudget, WhichBudget
from embedgate.govern.keys import KeyToMake
from embedgate.govern.projects import NewProject
from embedgate.govern.users import NewUser
from governing import Governing

DAY_MS = 86_400_000


def caps(call: Governing) -> dict[str, str]:
    """The caps by period."""
    return {each.period: each.cap_usd for each in call.every(budgets.list_budgets, BudgetQuery())}


def test_subjects_are_meant_as_in_limits(call: Governing) -> None:
    user = call(users.create_user, NewUser("ann"))
    project = call(projects.create_project, NewProject("search"))
    key = call(keys.create_key, KeyToMake("ann", "ci"))
    meant: list[tuple[SubjectKind, str, str]] = [
        ("user", "ann", user.id),
        ("user", user.id, user.id),
        ("project", "search", project.id),
        ("key", key.key.id, key.key.id),
        ("key", key.secret, key.key.id),
        ("user", "*", "*"),
    ]
    for kind, named, subject_id in meant:
        assert call(budgets.set_budget, NewBudget(kind, named, "month", "2.5")) == Budget(
            kind, subject_id, "month", "2.5"
        )
        with call.invocation().read() as reading:
            rule = BudgetRule(Subject(kind, subject_id), "month", 2_500_000_000_000)
            assert budgets.read_budgets(reading.connection) == (rule,)
        call(budgets.delete_budget, WhichBudget(kind, named, "month"))
        assert caps(call) == {}


def test_whoever_is_not_there_gets_no_budget(call: Governing) -> None:
    kinds: tuple[SubjectKind, ...] = get_args(SubjectKind)
    for kind in kinds:
        with pytest.raises(UnknownEntity, match=rf"no (such )?{kind}"):
            call(budgets.set_budget, NewBudget(kind, "nobody", "total", "1"))
        with pytest.raises(UnknownEntity, match="no budget of period 'day'"):
            call(budgets.delete_budget, WhichBudget(kind, "*", "day"))
    with pytest.raises(msgspec.ValidationError, match="year"):
        budgets.set_budget.make({"kind": "user", "subject": "*", "period": "year", "cap_usd": "1"})


def test_a_subject_has_one_budget_for_each_period(call: Governing) -> None:
    call(budgets.set_budget, NewBudget("user", "*", "day", "0"))
    call(budgets.set_budget, NewBudget("user", "*", "month", "9000000"))
    call(budgets.set_budget, NewBudget("user", "*", "day", "0.000000000007"))
    assert caps(call) == {"day": "0.000000000007", "month": "9000000.0"}
    call(budgets.delete_budget, WhichBudget("user", "*", "month"))
    assert caps(call) == {"day": "0.000000000007"}


@pytest.mark.parametrize("cap", ["-1", "9200000.000000000001", "1" * 30, "a lot", "1.0000000000001"])
def test_a_cap_that_is_no_exact_amount_is_refused(call: Governing, cap: str) -> None:
    with pytest.raises(InvalidInput, match="cap"):
        call(budgets.set_budget, NewBudget("user", "*", "day", cap))
    assert caps(call) == {}


def test_without_a_gateway_the_ledger_says_what_is_spent(call: Governing, spend: Callable[..., None]) -> None:
    call(users.create_user, NewUser("ann"))
    key = call(keys.create_key, KeyToMake("ann", "ci")).key
    for days, cost in ((0, 7), (1, 5), (40, 3)):
        at_ms = call.resources.now_ms() - days * DAY_MS
        spend(request_id=f"r{days}", key_id=key.id, at_ms=at_ms, cost_picodollars=cost * 10**12)
    for period in ("day", "month", "total"):
        call(budgets.set_budget, NewBudget("key", key.id, period, "100"))
    call(budgets.set_budget, NewBudget("key", "*", "day", "100"))
    standings = call.every(budgets.list_budgets, BudgetQuery())
    assert {each.period: each.spent_usd for each in standings if each.subject == key.id} == {
        "day": "7.0",
        "month": "12.0",
        "total": "15.0",
    }
    assert [each.spent_usd for each in standings if each.subject == "*"] == [None]
    assert {each.held_usd for each in standings} == {None}


def test_a_gateway_says_what_is_spent_and_held_and_who_else_is_counted(call: Governing) -> None:
    user = call(users.create_user, NewUser("ann"))
    call(budgets.set_budget, NewBudget("user", "ann", "day", "3"))
    call(budgets.set_budget, NewBudget("user", "*", "day", "2"))
    states = [
        BudgetState(Subject("user", user.id), "day", 3 * 10**12, 10**12, 5 * 10**11),
        BudgetState(Subject("user", "user_other"), "day", 2 * 10**12, 0, 0),
    ]
    gateway = dataclasses.replace(call.resources.gateway, budget_states=lambda: states)
    serving = dataclasses.replace(call, resources=dataclasses.replace(call.resources, gateway=gateway))
    assert serving.every(budgets.list_budgets, BudgetQuery(sort="subject")) == [
        BudgetStanding("user", "*", "day", "2.0", None, None, is_own=True),
        *sorted(
            [
                BudgetStanding("user", user.id, "day", "3.0", "1.0", "0.5", is_own=True),
                BudgetStanding("user", "user_other", "day", "2.0", "0.0", "0.0", is_own=False),
            ],
            key=lambda standing: standing.subject,
        ),
    ]


def test_each_change_leaves_one_event_and_touches_the_rules_alone(call: Governing) -> None:
    user = call(users.create_user, NewUser("ann"))
    before = len(call.events())
    invocation = call.invocation()
    budgets.set_budget.run(invocation, NewBudget("user", "ann", "day", "5"))
    budgets.set_budget.run(invocation, NewBudget("user", "ann", "day", "7.5"))
    budgets.delete_budget.run(invocation, WhichBudget("user", "ann", "day"))
    assert (invocation.touched.rules, invocation.touched.any_key) == (True, False)
    events = call.events()[before:]
    assert [(event.action, event.target) for event in events] == [
        ("budgets.set", user.id),
        ("budgets.set", user.id),
        ("budgets.delete", user.id),
    ]
    assert [event.detail for event in events] == [
        {"subject_kind": "user", "period": "day", "cap_usd": "5.0", "replaced_cap_usd": None},
        {"subject_kind": "user", "period": "day", "cap_usd": "7.5", "replaced_cap_usd": "5.0"},
        {"subject_kind": "user", "period": "day"},
    ]
