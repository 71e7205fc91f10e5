"""Amounts of money as administrators give them: dollars, read exactly or refused."""

from decimal import Decimal, InvalidOperation

from embedgate.core.errors import InvalidInput
from embedgate.core.money import PICODOLLARS_PER_DOLLAR

MAX_USD = 9_000_000
"""Just below the most that a column holds in picodollars."""
_MAX_DIGITS = 25
"""What Python reckons with exactly, and three to spare."""


def read_usd(given: Decimal | str, what: str, *, param: str) -> Decimal:
    """An amount from 0 to `MAX_USD` dollars, of few enough digits to be reckoned with exactly.

    what: for messages. Raises InvalidInput for anything else.
    """
    try:
        amount = Decimal(given)
    except InvalidOperation as error:
        raise _unfit(given, what, param) from error
    if not amount.is_finite() or not 0 <= amount <= MAX_USD or not _is_short(amount):
        raise _unfit(given, what, param)
    return amount


def picodollars_of(given: Decimal | str, what: str, *, param: str) -> int:
    """The same in whole picodollars. Raises InvalidInput also if it is finer than that."""
    amount = read_usd(given, what, param=param) * PICODOLLARS_PER_DOLLAR
    if amount != int(amount):
        raise InvalidInput(
            f"The {what} of {str(given)[:40]} dollars is finer than 0.000000000001, the least that can be counted. "
            "Round it.",
            param=param,
        )
    return int(amount)


def _is_short(amount: Decimal) -> bool:
    _, digits, exponent = amount.as_tuple()
    return len(digits) <= _MAX_DIGITS and isinstance(exponent, int) and exponent >= -_MAX_DIGITS


def _unfit(given: Decimal | str, what: str, param: str) -> InvalidInput:
    return InvalidInput(
        f"The {what} is {str(given)[:40]!r}; it must be a number of dollars from 0 to {MAX_USD}, with at most "
        f"{_MAX_DIGITS} digits, such as 12.50.",
        param=param,
    )
