"""The time of records: UTC. Durations are measured on the monotonic clock instead."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time, aware of its zone."""
    return datetime.now(UTC)


def utc_ms() -> int:
    """UTC milliseconds since 1970."""
    return ms_of(utc_now())


def ms_of(moment: datetime) -> int:
    """An aware time as UTC milliseconds since 1970, rounded down."""
    return int(moment.timestamp() * 1000)
