"""Rate limits in the headers of an answer. Pure: raises nothing, and ignores what it cannot read.

Who says what, and how: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` (OpenAI, and most that follow it) with
durations such as `6m0s`; `anthropic-ratelimit-*` with dates; `x-ratelimit-*` and `ratelimit-*` without a unit, which
count requests, with seconds or an epoch in seconds or milliseconds. `retry-after` is read in `faults`, with the body
that may say the same.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from embedgate.core.clock import utc_now
from embedgate.core.hints import NO_HINTS, UNTOLD, Allowance, RateHints

_MAX_CHARS = 64
_MAX_COUNT = 10**12
_MAX_RESET_S = 366 * 86_400.0
_EPOCH_S, _EPOCH_MS = 1e9, 1e12
"""From 2001 on, seconds since 1970 have ten digits and milliseconds thirteen; no reset is thirty years away."""

_Names = tuple[str, str, str]
"""The headers of a limit, of what remains of it, and of its reset."""

_REQUESTS: tuple[_Names, ...] = (
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    (
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ),
    ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
)
_TOKENS: tuple[_Names, ...] = (
    ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
)

_REMAINING = frozenset(remaining for _, remaining, _ in (*_REQUESTS, *_TOKENS))
"""Without one of them nothing is known."""

_NUMBER = re.compile(r"\d{1,18}(?:\.\d{1,18})?", re.ASCII)
_SECONDS_OF = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_SPAN = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)(ms|us|µs|ns|d|h|m|s)", re.ASCII)
_SPANS = re.compile(rf"(?:{_SPAN.pattern})+", re.ASCII)


def read_hints(headers: Mapping[str, str]) -> RateHints:
    """The rate limits that an answer reports. headers: names in lower case. Never raises."""
    if _REMAINING.isdisjoint(headers):
        return NO_HINTS
    requests, tokens = _allowance(headers, _REQUESTS), _allowance(headers, _TOKENS)
    return NO_HINTS if requests is tokens is UNTOLD else RateHints(requests, tokens)


def _allowance(headers: Mapping[str, str], families: tuple[_Names, ...]) -> Allowance:
    """What the first family says that says anything of what remains."""
    for limit, remaining, reset in families:
        left = headers.get(remaining)
        if left is not None:
            # No limit is none at all: Azure and others send 0 or -1 where they have nothing to say.
            return Allowance(_count(headers.get(limit)) or None, _count(left), _reset_s(headers.get(reset), headers))
    return UNTOLD


def _count(text: str | None) -> int | None:
    """A whole number from 0 on. Of a list, as in `100, 100;w=60`, the first item is the one that is nearest."""
    number = _number(re.split("[,;]", text, maxsplit=1)[0]) if text and len(text) <= _MAX_CHARS else None
    return int(number) if number is not None and number <= _MAX_COUNT else None


def _reset_s(text: str | None, headers: Mapping[str, str]) -> float | None:
    """Seconds from now: out of a duration, a number of seconds, an epoch or a date."""
    if not text or len(text) > _MAX_CHARS:
        return None
    text = text.strip()
    number = _number(text)
    if number is None:
        spans = _SPAN.findall(text) if _SPANS.fullmatch(text) else None
        reset_s = sum(float(n) * _SECONDS_OF[unit] for n, unit in spans) if spans else _until_s(_date(text), headers)
    elif number < _EPOCH_S:
        reset_s = number
    else:
        reset_s = _until_s(number / 1000 if number >= _EPOCH_MS else number, headers)
    return reset_s if reset_s is not None and reset_s <= _MAX_RESET_S else None


def _until_s(epoch_s: float | None, headers: Mapping[str, str]) -> float | None:
    """From now on, by the provider's clock if it tells the time; what has passed is now."""
    if epoch_s is None:
        return None
    now_s = _date(headers.get("date", ""))
    return max(0.0, epoch_s - (utc_now().timestamp() if now_s is None else now_s))


def _date(text: str) -> float | None:
    """Seconds since 1970 of a date as in RFC 3339 or in HTTP."""
    if not text or len(text) > _MAX_CHARS:
        return None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            continue
    return None


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None
