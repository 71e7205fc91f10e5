"""Rules: read as of one revision, which every change counts up and no other operation does."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.core.access import Rules
from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.govern import budgets, limits, policies, prices
from embedgate.govern.budgets import NewBudget, WhichBudget
from embedgate.govern.limits import NewLimit, WhichLimit
from embedgate.govern.policies import NewPolicy, PolicyChange, WhichPolicy
from embedgate.govern.prices import NewPrice, WhichPrice
from embedgate.govern.revision import read_revision
from embedgate.govern.rules import read_rules
from embedgate.govern.values import moment
from embedgate.storage.database import Database, open_database
from governing import Governing

POLICY = '@id("p")\nforbid (principal, action, resource);\n'
MODEL = "openai/text-embedding-3-small"
FIRST_POLICY_ID = "permit-everything"
PRICE = WhichPrice(MODEL, "openai", moment(1_000))


@pytest.fixture
def read(database: Database) -> Callable[[], Rules]:
    """The rules that are stored."""

    def rules() -> Rules:
        with database.read() as connection:
            found = read_rules(connection)
            assert found.revision == read_revision(connection)
            return found

    return rules


def test_a_new_database_permits_everything_and_limits_nothing(read: Callable[[], Rules]) -> None:
    rules = read()
    assert [policy.id for policy in rules.policies] == [FIRST_POLICY_ID]
    assert replace(rules, policies=()) == Rules(revision=rules.revision)


def test_every_change_counts_the_revision_up_by_one(call: Governing, read: Callable[[], Rules]) -> None:
    changes: list[Callable[[], object]] = [
        lambda: call(policies.create_policy, NewPolicy(POLICY)),
        lambda: call(policies.change_policy, PolicyChange("p", is_enabled=False)),
        lambda: call(policies.delete_policy, WhichPolicy("p")),
        lambda: call(limits.set_limit, NewLimit("user", "*", max_parallel=1)),
        lambda: call(limits.delete_limit, WhichLimit("user", "*")),
        lambda: call(budgets.set_budget, NewBudget("user", "*", "day", "1")),
        lambda: call(budgets.delete_budget, WhichBudget("user", "*", "day")),
        lambda: call(prices.add_price, NewPrice(MODEL, "openai", "0.02", PRICE.since)),
        lambda: call(prices.delete_price, PRICE),
    ]
    revision = read().revision
    for change in changes:
        change()
        revision += 1
        assert read().revision == revision


def test_what_is_refused_changes_no_revision(call: Governing, read: Callable[[], Rules]) -> None:
    before = read()
    first = POLICY.replace('"p"', f'"{FIRST_POLICY_ID}"')
    refused: list[tuple[type[Exception], Callable[[], object]]] = [
        (Conflict, lambda: call(policies.create_policy, NewPolicy(first))),
        (InvalidInput, lambda: call(policies.change_policy, PolicyChange(FIRST_POLICY_ID, description="a\0"))),
        (UnknownEntity, lambda: call(policies.show_policy, WhichPolicy("x"))),
        (UnknownEntity, lambda: call(policies.change_policy, PolicyChange("x", POLICY))),
        (UnknownEntity, lambda: call(policies.delete_policy, WhichPolicy("x"))),
        (UnknownEntity, lambda: call(limits.delete_limit, WhichLimit("user", "*"))),
        (UnknownEntity, lambda: call(budgets.delete_budget, WhichBudget("user", "*", "day"))),
        (UnknownEntity, lambda: call(prices.delete_price, PRICE)),
    ]
    for error, change in refused:
        with pytest.raises(error):
            change()
    assert read() == before


def test_changes_of_several_processes_are_all_counted(
    call: Governing, read: Callable[[], Rules], tmp_path: Path
) -> None:
    elsewhere = open_database(tmp_path)
    both = (call, Governing(elsewhere, call.resources))
    revision = read().revision
    texts = [POLICY.replace('"p"', f'"p{number}"') for number in range(12)]
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda i: both[i % 2](policies.create_policy, NewPolicy(texts[i])), range(12)))
    elsewhere.close()
    assert read().revision == revision + 12
    assert len(read().policies) == 13
