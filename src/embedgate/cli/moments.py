"""Times as people type them: `30d`, `12h`, `2026-11-21`, `2026-11-21T08:15Z`. Without an offset they are UTC.

Each function is a parser of typer: it raises BadParameter, which shows what was typed and what can be.
"""

import re
from datetime import UTC, date, datetime, timedelta

import typer

from embedgate.core.clock import utc_ms

_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_DURATIONS = "30d, 12h or 90m"
_TIMES = "2026-11-21 or 2026-11-21T08:15Z"


def duration_s(text: str) -> int:
    """`90m` as seconds: s, m, h, d and w are seconds, minutes, hours, days and weeks."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration such as {_DURATIONS}")
    return int(match[1]) * _SECONDS[match[2]]


def days(text: str) -> int:
    """`90` or `90d` as a number of days."""
    match = re.fullmatch(r"([0-9]{1,9})d?", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a number of days such as 90")
    return int(match[1])


def day(text: str) -> date:
    """`2026-11-21`."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no day such as 2026-11-21") from error


def moment_ms(text: str) -> int:
    """A time, or the beginning of a day, as milliseconds since 1970."""
    return _read(text, _TIMES)


def past_ms(text: str) -> int:
    """As `moment_ms`; a duration is so long ago."""
    if _DURATION.fullmatch(text):
        return max(0, utc_ms() - duration_s(text) * 1000)
    return _read(text, f"{_TIMES}, or {_DURATIONS} ago")


def future_ms(text: str) -> int:
    """As `moment_ms`; a duration is so long from now, `now` is now."""
    if text == "now":
        return utc_ms()
    if _DURATION.fullmatch(text):
        return utc_ms() + duration_s(text) * 1000
    return _read(text, f"{_TIMES}, or {_DURATIONS} from now")


def exact(at_ms: int) -> str:
    """Milliseconds since 1970 so that `moment_ms` reads the same: `2026-11-20T08:15:00Z`, with milliseconds if any."""
    moment = _EPOCH + timedelta(milliseconds=at_ms)
    return moment.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds").replace("+00:00", "Z")


def utc_datetime(at_ms: int) -> datetime:
    """Milliseconds since 1970 as a time aware of its zone."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def _read(text: str, allowed: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        at_ms = (aware - _EPOCH) // _MS
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no time such as {allowed}") from error
    if at_ms < 0:
        raise typer.BadParameter(f"{text!r} is before 1970; give a time such as {allowed}")
    return at_ms
