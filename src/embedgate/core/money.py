"""Exact money: whole picodollars (1e-12 dollar). Dollars appear only on the wire and on screens.

2e-8 dollars per token is 20,000 picodollars per token, so list prices down to a millionth of a dollar per
million tokens are whole numbers, and a cost is one exact multiplication.
"""

import functools
from decimal import Decimal

from embedgate.core.errors import ConfigError

PICODOLLARS_PER_DOLLAR = 1_000_000_000_000
_PER_TOKEN_AT_ONE_DOLLAR_PER_MILLION = 1_000_000
_PER_SEARCH_AT_ONE_DOLLAR_PER_THOUSAND = 1_000_000_000


def price_from_usd_per_million(usd_per_million_tokens: Decimal) -> int:
    """Picodollars per token of a list price in dollars per million tokens.

    Raises ConfigError if the price is negative, not finite, or finer than one picodollar per token.
    """
    return _exact(usd_per_million_tokens, "million tokens", _PER_TOKEN_AT_ONE_DOLLAR_PER_MILLION)


def price_from_usd_per_thousand(usd_per_thousand_searches: Decimal) -> int:
    """Picodollars per search of a list price in dollars per thousand searches.

    Raises ConfigError if the price is negative, not finite, or finer than one picodollar per search.
    """
    return _exact(usd_per_thousand_searches, "thousand searches", _PER_SEARCH_AT_ONE_DOLLAR_PER_THOUSAND)


def _exact(usd: Decimal, unit: str, picodollars: int) -> int:
    """picodollars: the price of one token or search at a list price of one dollar."""
    if not usd.is_finite() or usd < 0:
        raise ConfigError([f"price {usd} is not a number of dollars from 0 upward"])
    exact = usd * picodollars
    if exact != exact.to_integral_value():
        raise ConfigError([f"price {usd} dollars per {unit} is finer than {1 / Decimal(picodollars):f}; round it"])
    return int(exact)


def cost_picodollars(tokens: int, price_picodollars: int) -> int:
    """Cost of `tokens` input tokens at a price in picodollars per token. Exact."""
    return tokens * price_picodollars


def to_usd(amount_picodollars: int) -> Decimal:
    """The exact amount in dollars."""
    return Decimal(amount_picodollars).scaleb(-12)


@functools.lru_cache(maxsize=4096)  # most requests cost what another one did
def usd_text(amount_picodollars: int) -> str:
    """The exact amount in dollars as plain decimal digits, never in exponent form: `0.00000002`."""
    whole, fraction = divmod(abs(amount_picodollars), PICODOLLARS_PER_DOLLAR)
    sign = "-" if amount_picodollars < 0 else ""
    return f"{sign}{whole}.{f'{fraction:012d}'.rstrip('0') or '0'}"
