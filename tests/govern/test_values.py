"""Amounts of money as administrators give them: exact or refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.errors import InvalidInput
from embedgate.core.money import to_usd, usd_text
from embedgate.govern.values import MAX_USD, picodollars_of


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
