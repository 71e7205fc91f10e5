"""Policies, limits, budgets and prices: what may be stored, and the revision that tells a change."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from embedgate.core.access import BudgetRule, LimitRule, PriceRule, Rules, Subject
from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.storage.database import Database, open_database
from embedgate.storage.key_management import SqlKeys
from embedgate.storage.limits import SqlLimits
from embedgate.storage.policies import MAX_POLICY_CHARACTERS, SqlPolicies
from embedgate.storage.prices import SqlPrices
from embedgate.storage.projects import SqlProjects
from embedgate.storage.rules import SqlRules
from embedgate.storage.users import SqlUsers

POLICY = '@id("p")\nforbid (principal, action, resource);\n'
EACH_USER = Subject("user", "*")
PRICE = PriceRule("openai/text-embedding-3-small", "openai", 20_000, 1_000)
FIRST_POLICY_ID = "permit-everything"


@dataclass
class Stored:
    """The rules of one database."""

    rules: SqlRules
    policies: SqlPolicies
    limits: SqlLimits
    prices: SqlPrices


@pytest.fixture
def stored(database: Database) -> Stored:
    return Stored(
        SqlRules(database),
        SqlPolicies(database),
        SqlLimits(database),
        SqlPrices(database),
    )


def test_a_new_database_permits_everything_and_limits_nothing(stored: Stored) -> None:
    rules = stored.rules.load()
    assert [policy.id for policy in rules.policies] == [FIRST_POLICY_ID]
    assert replace(rules, policies=()) == Rules(revision=stored.rules.revision())


def test_every_change_counts_the_revision_up_by_one(stored: Stored) -> None:
    changes: list[Callable[[], object]] = [
        lambda: stored.policies.create("p", POLICY),
        lambda: stored.policies.update("p", is_enabled=False),
        lambda: stored.policies.delete("p"),
        lambda: stored.limits.set_limit(LimitRule(EACH_USER, max_parallel=1)),
        lambda: stored.limits.delete_limit(EACH_USER),
        lambda: stored.limits.set_budget(BudgetRule(EACH_USER, "day", 1)),
        lambda: stored.limits.delete_budget(EACH_USER, "day"),
        lambda: stored.prices.add(PRICE),
        lambda: stored.prices.delete(PRICE.model, PRICE.provider, PRICE.from_ms),
    ]
    revision = stored.rules.revision()
    for change in changes:
        change()
        revision += 1
        assert stored.rules.revision() == stored.rules.load().revision == revision


def test_what_is_refused_changes_no_revision(stored: Stored) -> None:
    before = stored.rules.load()
    refused: list[tuple[type[Exception], Callable[[], object]]] = [
        (Conflict, lambda: stored.policies.create(FIRST_POLICY_ID, POLICY)),
        (InvalidInput, lambda: stored.policies.update(FIRST_POLICY_ID, text="a\0")),
        (UnknownEntity, lambda: stored.policies.get("x")),
        (UnknownEntity, lambda: stored.policies.update("x", text=POLICY)),
        (UnknownEntity, lambda: stored.policies.delete("x")),
        (UnknownEntity, lambda: stored.limits.delete_limit(EACH_USER)),
        (UnknownEntity, lambda: stored.limits.delete_budget(EACH_USER, "day")),
        (UnknownEntity, lambda: stored.prices.delete(PRICE.model, PRICE.provider, PRICE.from_ms)),
    ]
    for error, change in refused:
        with pytest.raises(error):
            change()
    assert stored.rules.load() == before


def test_changes_of_several_processes_are_all_counted(stored: Stored, tmp_path: Path) -> None:
    elsewhere = open_database(tmp_path)
    both = (stored.policies, SqlPolicies(elsewhere))
    revision = stored.rules.revision()
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda i: both[i % 2].create(f"p{i}", POLICY), range(12)))
    elsewhere.close()
    assert stored.rules.revision() == revision + 12
    assert len(stored.rules.load().policies) == 13


def test_a_policy_is_kept_as_it_was_given(stored: Stored) -> None:
    policy = stored.policies.create("p", POLICY, description="nobody", is_enabled=False)
    assert policy.updated_at_ms > 0
    assert stored.policies.get("p") == policy
    changed = stored.policies.update("p", text=POLICY + "// é\n", is_enabled=True)
    assert (changed.text, changed.description, changed.is_enabled) == (POLICY + "// é\n", "nobody", True)
    assert [found.id for found in stored.rules.load().policies] == ["p", FIRST_POLICY_ID]
    assert stored.policies.delete("p") == changed
    for policy_id in ("", "x" * 129, "a\nb"):
        with pytest.raises(InvalidInput, match="policy id"):
            stored.policies.create(policy_id, POLICY)
    with pytest.raises(InvalidInput, match="at most 65536"):
        stored.policies.create("p", "x" * (MAX_POLICY_CHARACTERS + 1))


def test_a_limit_replaces_the_one_before(stored: Stored) -> None:
    first = LimitRule(EACH_USER, requests_per_minute=60)
    second = LimitRule(EACH_USER, tokens_per_minute=1_000, max_parallel=2, max_waiting=3)
    assert stored.limits.set_limit(first) is None
    assert stored.limits.set_limit(second) == first
    assert stored.rules.load().limits == (second,)
    assert stored.limits.delete_limit(EACH_USER) == second


@pytest.mark.parametrize(
    ("rule", "param"),
    [
        (LimitRule(EACH_USER), "requests_per_minute"),
        (LimitRule(EACH_USER, max_waiting=5), "requests_per_minute"),
        (LimitRule(EACH_USER, requests_per_minute=0), "requests_per_minute"),
        (LimitRule(EACH_USER, tokens_per_minute=-1), "tokens_per_minute"),
        (LimitRule(EACH_USER, tokens_per_minute=2**63), "tokens_per_minute"),
        (LimitRule(EACH_USER, max_parallel=0), "max_parallel"),
        (LimitRule(EACH_USER, max_parallel=1, max_waiting=-1), "max_waiting"),
        (LimitRule(Subject("robot", "*"), max_parallel=1), "subject"),  # type: ignore[arg-type] # from the wire
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(stored: Stored, rule: LimitRule, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        stored.limits.set_limit(rule)
    assert caught.value.param == param


def test_a_subject_has_one_budget_for_each_period(stored: Stored) -> None:
    day, month = BudgetRule(EACH_USER, "day", 0), BudgetRule(EACH_USER, "month", 9_200_000_000_000_000_000)
    assert stored.limits.set_budget(day) is None
    assert stored.limits.set_budget(month) is None
    assert stored.limits.set_budget(replace(day, cap_picodollars=7)) == day
    assert stored.rules.load().budgets == (replace(day, cap_picodollars=7), month)
    assert stored.limits.delete_budget(EACH_USER, "month") == month
    for cap in (-1, 9_200_000_000_000_000_001, 2**80):
        with pytest.raises(InvalidInput, match="cap"):
            stored.limits.set_budget(BudgetRule(EACH_USER, "day", cap))
    with pytest.raises(InvalidInput, match="period is 'week'; it must be one of day, month, total"):
        stored.limits.set_budget(BudgetRule(EACH_USER, "week", 1))  # type: ignore[arg-type] # from the wire


def test_a_rule_is_for_somebody_who_exists(stored: Stored, database: Database) -> None:
    user, project = SqlUsers(database).create("ann"), SqlProjects(database).create("search")
    keys = SqlKeys(database, "eg")
    key, old = keys.create("ann", "k")
    keys.rotate(key.id, overlap_s=60)
    subjects = [Subject("user", user.id), Subject("project", project.id), Subject("key", key.id)]
    for subject in subjects:
        stored.limits.set_limit(LimitRule(subject, max_parallel=1))
        stored.limits.set_budget(BudgetRule(subject, "total", 1))
    assert {rule.subject for rule in stored.rules.load().budgets} == set(subjects)
    missing = [
        Subject("user", "ann"),  # a name, which may change
        Subject("user", key.id),
        Subject("project", "\udcff"),
        Subject("key", keys.get(old).id),  # an old secret: its limits are the key's
    ]
    for subject in missing:
        with pytest.raises(UnknownEntity, match=f"There is no {subject.kind}"):
            stored.limits.set_limit(LimitRule(subject, max_parallel=1))
        with pytest.raises(UnknownEntity):
            stored.limits.set_budget(BudgetRule(subject, "total", 1))


def test_prices_of_all_times_are_kept(stored: Stored) -> None:
    far = replace(PRICE, from_ms=253_402_300_799_999, picodollars_per_token=0)
    for price in (far, PRICE):
        assert stored.prices.add(price) == price
    with pytest.raises(Conflict, match="from 1000 ms"):
        stored.prices.add(replace(PRICE, picodollars_per_token=1))
    assert stored.rules.load().prices == (PRICE, far)
    assert stored.prices.delete(far.model, far.provider, far.from_ms) == far
    assert stored.rules.load().prices == (PRICE,)


@pytest.mark.parametrize(
    ("price", "param"),
    [
        (replace(PRICE, model=""), "model"),
        (replace(PRICE, provider="x" * 65), "provider"),
        (replace(PRICE, picodollars_per_token=-1), "picodollars_per_token"),
        (replace(PRICE, picodollars_per_token=10**12 + 1), "picodollars_per_token"),
        (replace(PRICE, from_ms=-1), "from_ms"),
    ],
)
def test_a_price_that_makes_no_sense_is_refused(stored: Stored, price: PriceRule, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        stored.prices.add(price)
    assert caught.value.param == param
