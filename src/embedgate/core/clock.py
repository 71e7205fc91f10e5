"""Wall-clock time of records, UTC. Durations are measured on the monotonic clock instead."""

import time
from datetime import UTC, datetime

_NS_PER_MS = 1_000_000


def utc_now() -> datetime:
    """The current time as a time-zone-aware datetime in UTC."""
    return datetime.now(UTC)


def utc_ms() -> int:
    """The current time in UTC milliseconds since 1970."""
    return time.time_ns() // _NS_PER_MS


def ms_of(moment: datetime) -> int:
    """An aware time as UTC milliseconds since 1970, rounded down."""
    return int(moment.timestamp() * 1000)
