"""Limits, budgets and prices: who is meant, and money that is exact or refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.administration import Administration
from embedgate.core.access import BudgetRule, LimitRule, PriceRule, Subject, SubjectKind
from embedgate.core.errors import (
    Conflict,
    InvalidInput,
    ModelNotAtProvider,
    UnknownEntity,
    UnknownModel,
    UnknownProvider,
)
from embedgate.core.money import to_usd, usd_text
from embedgate.govern.values import MAX_USD, picodollars_of

NOW_MS = 1_795_262_400_000
MODEL = "openai/text-embedding-3-small"


def test_users_and_projects_are_meant_by_name_or_id_and_keys_by_id_or_secret(administration: Administration) -> None:
    user = administration.users.create("ann")
    project = administration.projects.create("search")
    key = administration.keys.create("ann", "ci")
    meant: list[tuple[SubjectKind, str, str]] = [
        ("user", "ann", user.id),
        ("user", user.id, user.id),
        ("project", "search", project.id),
        ("project", project.id, project.id),
        ("key", key.record.id, key.record.id),
        ("key", key.secret, key.record.id),
        ("user", "*", "*"),
        ("key", "*", "*"),
    ]
    for kind, named, subject_id in meant:
        rule = administration.limits.set(kind, named, max_parallel=2, max_waiting=1)
        assert rule == LimitRule(Subject(kind, subject_id), max_parallel=2, max_waiting=1)
        assert rule in administration.limits.list()
        assert administration.limits.delete(kind, named) == rule
        budget = administration.budgets.set(kind, named, "month", "2.5")
        assert administration.budgets.list() == (budget,)
        assert budget == BudgetRule(Subject(kind, subject_id), "month", 2_500_000_000_000)
        assert administration.budgets.delete(kind, named, "month") == budget


def test_the_old_secret_of_a_key_means_the_key(administration: Administration) -> None:
    administration.users.create("ann")
    key = administration.keys.create("ann", "ci")
    administration.keys.rotate(key.record.id, overlap_s=60)
    assert administration.keys.get(key.secret).id != key.record.id
    assert administration.limits.set("key", key.secret, max_parallel=1).subject.id == key.record.id


def test_whoever_is_not_there_gets_no_rule(administration: Administration) -> None:
    kinds: list[SubjectKind] = ["user", "project", "key"]
    for kind in kinds:
        with pytest.raises(UnknownEntity):
            administration.limits.set(kind, "nobody", max_parallel=1)
        with pytest.raises(UnknownEntity):
            administration.budgets.delete(kind, "*", "day")
    with pytest.raises(InvalidInput, match="key, user, project"):
        administration.limits.set("planet", "*", max_parallel=1)  # type: ignore[arg-type]  # as a caller may
    with pytest.raises(InvalidInput, match="limits nothing"):
        administration.limits.set("user", "*")
    with pytest.raises(InvalidInput, match="day, month, total"):
        administration.budgets.set("user", "*", "year", "1")  # type: ignore[arg-type]  # as a caller may


@given(st.integers(0, MAX_USD * 10**12))
def test_every_amount_of_picodollars_is_read_back_exactly(picodollars: int) -> None:
    for given_usd in (usd_text(picodollars), to_usd(picodollars), str(to_usd(picodollars))):
        assert picodollars_of(given_usd, "cap", param="cap_usd") == picodollars


@pytest.mark.parametrize(
    "amount",
    [
        "", "x", "nan", "inf", "-inf", "-1", "-0.000000000001", "0.0000000000001", "1.0000000000001", "9000000.01",
        "1e7", "1e-13", "1e-999999999", "1e999999999", "0." + "3" * 50, "1." + "0" * 60 + "1", "9" * 60,
        Decimal("sNaN"),
    ],
)  # fmt: skip
def test_what_is_no_exact_amount_is_refused(amount: str | Decimal) -> None:
    with pytest.raises(InvalidInput) as raised:
        picodollars_of(amount, "cap", param="cap_usd")
    assert raised.value.param == "cap_usd"


def test_a_budget_finer_than_can_be_counted_is_refused(administration: Administration) -> None:
    with pytest.raises(InvalidInput, match=r"finer than 0\.000000000001"):
        administration.budgets.set("user", "*", "day", "1.0000000000001")
    assert administration.budgets.list() == ()


def test_a_price_is_one_per_token_of_a_model_at_a_provider(administration: Administration) -> None:
    rule = administration.prices.add("text-embedding-3-small", "openai", "0.02")
    assert rule == PriceRule(MODEL, "openai", 20_000, NOW_MS)
    with pytest.raises(Conflict):
        administration.prices.add(MODEL, "openai", Decimal("0.03"))
    later = administration.prices.add(MODEL, "openai", Decimal("0.03"), from_ms=NOW_MS + 1)
    assert administration.prices.list() == (rule, later)
    assert administration.prices.delete("text-embedding-3-small", "openai", NOW_MS) == rule
    with pytest.raises(UnknownEntity):
        administration.prices.delete("no/more", "openai", NOW_MS)


def test_a_price_of_what_is_not_in_the_catalogue_is_refused(administration: Administration) -> None:
    with pytest.raises(UnknownModel, match="mean openai/text-embedding-3-small"):
        administration.prices.add("text-embedding-3-smal", "openai", "1")
    with pytest.raises(UnknownProvider, match="There are .*openai"):
        administration.prices.add(MODEL, "nowhere", "1")
    with pytest.raises(ModelNotAtProvider, match="served by .*openai"):
        administration.prices.add(MODEL, "voyage", "1")
    for price in ("0.0000001", "-1", "x", "1e-99"):
        with pytest.raises(InvalidInput) as raised:
            administration.prices.add(MODEL, "openai", price)
        assert raised.value.param == "usd_per_million_tokens"
