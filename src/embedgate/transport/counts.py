"""Counts of tokens and searches in replies, however a host writes them. Pure.

Bookkeeping never spoils a good answer: what cannot be read counts as not told, and is then estimated.
"""

import math
from typing import Any

import msgspec

NOTHING_TOLD = msgspec.Raw(b"null")
"""The default of a field for usage."""
_MOST_COUNTED = 10**9
"""Largest count that is believed: a larger one is wrong, and its cost might not fit the ledger."""
_ANYTHING = msgspec.json.Decoder()
_MAX_DIGITS = 20


def read_count(told: object) -> int | None:
    """Tokens or searches that a provider reports, rounded up; None if it cannot be a count.

    told: a value, or the JSON of one. A number may be written as a text.
    """
    if type(told) is int:  # as of most hosts
        return told if 0 <= told <= _MOST_COUNTED else None
    if isinstance(told, msgspec.Raw):
        told = _decoded(told)
    if isinstance(told, str):
        told = _number(told)
    if isinstance(told, bool) or not isinstance(told, (int, float)):
        return None
    return math.ceil(told) if 0 <= told <= _MOST_COUNTED else None


def read_usage(raw: msgspec.Raw, *names: str) -> int | None:
    """The first of these fields of an object that is a count; None if none is, or it is no object."""
    usage = read_object(raw)
    for name in names:
        if (count := read_count(usage.get(name))) is not None:
            return count
    return None


def read_object(raw: msgspec.Raw) -> dict[str, Any]:
    """An object of a reply; an empty one in place of anything else."""
    found = _decoded(raw)
    return found if isinstance(found, dict) else {}


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return _ANYTHING.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # such as a number out of range
        return None


def _number(text: str) -> float | None:
    try:
        return float(text) if len(text) <= _MAX_DIGITS else None
    except ValueError:
        return None
