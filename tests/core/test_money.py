"""Money is exact, at every size."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.errors import ConfigError
from embedgate.core.money import (
    cost_picodollars,
    price_from_usd_per_million,
    price_from_usd_per_thousand,
    to_usd,
    usd_text,
)


def test_two_hundred_millionths_of_a_cent_per_token_does_not_round() -> None:
    price = price_from_usd_per_million(Decimal("0.02"))
    assert price == 20_000
    assert usd_text(cost_picodollars(1, price)) == "0.00000002"


@given(tokens=st.integers(0, 10**12), millionths=st.integers(0, 10**9))
def test_cost_equals_exact_decimal_arithmetic(tokens: int, millionths: int) -> None:
    usd_per_million = Decimal(millionths) / 10**6
    cost = cost_picodollars(tokens, price_from_usd_per_million(usd_per_million))
    assert to_usd(cost) == Decimal(tokens) * Decimal(millionths) / Decimal(10**12)


@given(st.integers(0, 10**24))
def test_displayed_dollars_read_back_exactly_and_never_use_an_exponent(amount: int) -> None:
    text = usd_text(amount)
    assert set(text) <= set("0123456789.")
    assert Decimal(text) * 10**12 == amount


@pytest.mark.parametrize("bad", ["-1", "NaN", "Infinity", "0.0000001"])
def test_prices_that_cannot_be_exact_are_refused(bad: str) -> None:
    with pytest.raises(ConfigError):
        price_from_usd_per_million(Decimal(bad))


def test_the_price_of_a_search_is_exact_and_refused_where_it_cannot_be() -> None:
    assert price_from_usd_per_thousand(Decimal("2.5")) == 2_500_000_000
    assert usd_text(price_from_usd_per_thousand(Decimal("0.000000001"))) == "0.000000000001"
    for bad in ("-1", "NaN", "0.0000000001"):
        with pytest.raises(ConfigError):
            price_from_usd_per_thousand(Decimal(bad))
