"""Values on the wire of administration: times as ISO 8601, money as dollars in text."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta

from embedgate.core.money import usd_text

Moment = Annotated[datetime, Meta(tz=True)]
"""A time with a zone, such as `2026-11-21T09:30:00Z`."""
Usd = Annotated[str, Meta(description="Dollars, exactly.", pattern=r"^-?\d+\.\d+$")]
"""An amount in an answer."""
UsdGiven = Annotated[str, Meta(description="Dollars, as a text so that nothing is rounded: `0.02`.")]
"""An amount in a request."""

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
