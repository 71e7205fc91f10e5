"""Values on the wire of administration: times as ISO 8601, money as dollars in text."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated

from msgspec import Meta

from embedgate.core.errors import InvalidInput
from embedgate.core.money import PICODOLLARS_PER_DOLLAR, usd_text

Moment = Annotated[datetime, Meta(tz=True)]
"""A time with a zone, such as `2026-11-21T09:30:00Z`."""
Usd = Annotated[str, Meta(description="Dollars, exactly.", pattern=r"^-?\d+\.\d+$")]
"""An amount in an answer."""
UsdGiven = Annotated[str, Meta(description="Dollars, as a text so that nothing is rounded: `0.02`.")]
"""An amount in a request."""

MAX_USD = 9_000_000
"""Just below the most that a column holds in picodollars."""
_MAX_DIGITS = 25
"""What Python reckons with exactly, and three to spare."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(at_ms: int) -> datetime:
    """UTC milliseconds since 1970 as a time."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def moment_or_none(at_ms: int | None) -> datetime | None:
    """The same where there may be none."""
    return None if at_ms is None else moment(at_ms)


def milliseconds(at: datetime) -> int:
    """A time as UTC milliseconds since 1970."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def milliseconds_or_none(at: datetime | None) -> int | None:
    """The same where there may be none."""
    return None if at is None else milliseconds(at)


def usd_or_none(amount_picodollars: int | None) -> str | None:
    """An amount in dollars where there may be none."""
    return None if amount_picodollars is None else usd_text(amount_picodollars)


def price_text(picodollars_per_token: int) -> str:
    """A price in dollars per million tokens."""
    return usd_text(picodollars_per_token * 1_000_000)


def search_price_text(picodollars_per_search: int | None) -> str | None:
    """A price in dollars per thousand searches; None if there is none."""
    return None if picodollars_per_search is None else usd_text(picodollars_per_search * 1_000)


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
