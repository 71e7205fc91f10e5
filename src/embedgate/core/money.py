"""Exact money: whole picodollars (1e-12 dollar). It becomes dollars only on the wire and on a screen.

2e-8 dollars per token is 20,000 picodollars per token, so list prices down to a millionth of a dollar per
million tokens are whole numbers, and a cost is one exact multiplication.
"""

from decimal import Decimal

from embedgate.core.errors import ConfigError

PICODOLLARS_PER_DOLLAR = 1_000_000_000_000
_PICODOLLARS_PER_TOKEN_AT_ONE_DOLLAR_PER_MILLION = 1_000_000


def price_from_usd_per_million(usd_per_million_tokens: Decimal) -> int:
    """Picodollars per token of a list price in dollars per million tokens.

    Raises ConfigError if the price is negative, not finite, or finer than one picodollar per token.
    """
    if not usd_per_million_tokens.is_finite() or usd_per_million_tokens < 0:
        raise ConfigError([f"price {usd_per_million_tokens} is not a number of dollars from 0 upward"])
    exact = usd_per_million_tokens * _PICODOLLARS_PER_TOKEN_AT_ONE_DOLLAR_PER_MILLION
    if exact != exact.to_integral_value():
        raise ConfigError(
            [f"price {usd_per_million_tokens} dollars per million tokens is finer than 0.000001; round it"]
        )
    return int(exact)


def cost_picodollars(tokens: int, price_picodollars: int) -> int:
    """Cost of `tokens` input tokens at a price in picodollars per token. Exact."""
    return tokens * price_picodollars


def to_usd(amount_picodollars: int) -> Decimal:
    """The exact amount in dollars."""
    return Decimal(amount_picodollars).scaleb(-12)


def usd_text(amount_picodollars: int) -> str:
    """The exact amount in dollars as plain decimal digits, never in exponent form: `0.00000002`."""
    text = f"{to_usd(amount_picodollars):.12f}".rstrip("0")
    return text + "0" if text.endswith(".") else text
