"""Prices: one per token of a model at a provider from a time on; those of all times are kept."""

from datetime import UTC, datetime, timedelta

import pytest

from embedgate.core.access import PriceRule
from embedgate.core.errors import (
    Conflict,
    InvalidInput,
    ModelNotAtProvider,
    UnknownEntity,
    UnknownModel,
    UnknownProvider,
)
from embedgate.govern import prices
from embedgate.govern.prices import NewPrice, Price, PriceQuery, WhichPrice
from embedgate.govern.values import moment
from governing import Governing

NOW_MS = 1_795_262_400_000
NOW = moment(NOW_MS)
MODEL = "openai/text-embedding-3-small"


def test_a_price_is_one_per_token_of_a_model_at_a_provider(call: Governing) -> None:
    price = call(prices.add_price, NewPrice("text-embedding-3-small", "openai", "0.02"))
    assert price == Price(MODEL, "openai", "0.02", NOW)
    with pytest.raises(Conflict, match=f"from {NOW_MS} ms"):
        call(prices.add_price, NewPrice(MODEL, "openai", "0.03"))
    later = call(prices.add_price, NewPrice(MODEL, "openai", "0.03", NOW + timedelta(milliseconds=1)))
    assert call.every(prices.list_prices, PriceQuery()) == [price, later]
    with call.invocation().read() as reading:
        assert prices.read_prices(reading.connection) == (
            PriceRule(MODEL, "openai", 20_000, NOW_MS),
            PriceRule(MODEL, "openai", 30_000, NOW_MS + 1),
        )
    call(prices.delete_price, WhichPrice("text-embedding-3-small", "openai", NOW))
    assert call.every(prices.list_prices, PriceQuery()) == [later]
    for model in (MODEL, "no/more"):
        with pytest.raises(UnknownEntity, match=f"no price of {model}"):
            call(prices.delete_price, WhichPrice(model, "openai", NOW))


def test_prices_of_all_times_are_kept(call: Governing) -> None:
    far = call(prices.add_price, NewPrice(MODEL, "openai", "0", datetime(9999, 12, 31, tzinfo=UTC)))
    early = call(prices.add_price, NewPrice(MODEL, "openai", "0.02", moment(1_000)))
    assert call.every(prices.list_prices, PriceQuery()) == [early, far]


def test_a_price_of_what_is_not_in_the_catalogue_is_refused(call: Governing) -> None:
    with pytest.raises(UnknownModel, match="mean openai/text-embedding-3-small"):
        call(prices.add_price, NewPrice("text-embedding-3-smal", "openai", "1"))
    with pytest.raises(UnknownModel):
        call(prices.add_price, NewPrice("", "openai", "1"))
    for provider in ("nowhere", "x" * 65):
        with pytest.raises(UnknownProvider, match=r"There are .*openai"):
            call(prices.add_price, NewPrice(MODEL, provider, "1"))
    with pytest.raises(ModelNotAtProvider, match=r"served by .*openai"):
        call(prices.add_price, NewPrice(MODEL, "voyage", "1"))
    assert call.every(prices.list_prices, PriceQuery()) == []


@pytest.mark.parametrize(
    ("price", "since", "param"),
    [
        *((price, None, "usd_per_million_tokens") for price in ("0.0000001", "-1", "x", "1e-99")),
        ("1000000.000001", None, "picodollars_per_token"),
        ("1", moment(0) - timedelta(milliseconds=1), "from_ms"),
    ],
)
def test_a_price_that_makes_no_sense_is_refused(
    call: Governing, price: str, since: datetime | None, param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        call(prices.add_price, NewPrice(MODEL, "openai", price, since))
    assert caught.value.param == param


def test_each_change_leaves_one_event_and_touches_the_rules_alone(call: Governing) -> None:
    before = len(call.events())
    invocation = call.invocation()
    prices.add_price.run(invocation, NewPrice("text-embedding-3-small", "openai", "0.03", moment(9)))
    prices.delete_price.run(invocation, WhichPrice("text-embedding-3-small", "openai", moment(9)))
    assert (invocation.touched.rules, invocation.touched.any_key) == (True, False)
    detail = {"provider": "openai", "usd_per_million_tokens": "0.03", "from_ms": 9}
    assert [(event.action, event.target, event.detail) for event in call.events()[before:]] == [
        ("prices.add", MODEL, detail),
        ("prices.delete", MODEL, detail),
    ]
