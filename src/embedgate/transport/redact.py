"""Cleans a provider's words for an error message: no keys, no inputs, no vectors, no control characters."""

import re
from collections.abc import Iterable

MAX_QUOTE_CHARS = 300
_MAX_READ_CHARS = 2_000
"""More than a quote holds, so that a secret that begins within the quote is seen whole."""
_HEAD_CHARS = 16
_MIN_SECRET_CHARS = 4
"""Shorter inputs are ordinary words or less; they would blank out half of every message."""
_HIDDEN = "[...]"

_INVISIBLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069]+")
_CREDENTIAL = re.compile(
    r"(?i:\bbearer)\s+\S+"
    r"|\b(?:sk|pk|rk|pa|al|hf|fw|gsk|xai|pplx|nvapi|jina|dop_v1|doo_v1)[-_][\w*.-]{6,}"
    r"|\b(?:AIza|ya29|AKIA|dapi|eyJ)[\w*.-]{8,}"
)
_NUMBERS = re.compile(r"\[?\s*-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?){3,}\s*\]?")
"""Four or more numbers in a row: part of a vector, or token ids."""


def quote(text: str, secrets: Iterable[str]) -> str:
    """Up to 300 characters of `text` on one line, without anything that looks like a credential or a vector.

    secrets: what must not appear; where a longer one begins, the quote ends.
    """
    shown = _visible(text)
    for secret in secrets:
        shown = _without(shown, _visible(secret))
    shown = _NUMBERS.sub(_HIDDEN, _CREDENTIAL.sub(_HIDDEN, shown))
    return shown if len(shown) <= MAX_QUOTE_CHARS else shown[: MAX_QUOTE_CHARS - 3] + "..."


def _visible(text: str) -> str:
    return _INVISIBLE.sub(" ", text[:_MAX_READ_CHARS]).strip()


def _without(text: str, secret: str) -> str:
    if len(secret) < _MIN_SECRET_CHARS:
        return text
    if len(secret) <= _HEAD_CHARS:
        if secret not in text:
            return text
        return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _HIDDEN, text)
    # A provider may repeat a long input cut, escaped or in part. Its end is not to be found, so nothing is
    # shown from its beginning on.
    before, found, _ = text.partition(secret[:_HEAD_CHARS])
    return before + _HIDDEN if found else text
