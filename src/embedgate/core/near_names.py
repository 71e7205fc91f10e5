"""Names like one that is not known, for messages."""

import difflib
from collections.abc import Iterable

MAX_COMPARED = 2_000
"""Names that are compared with one: about 20 ms of work."""
_LONGEST_NAME = 200
_MOST_NAMED = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`Did you mean ann or anna? `, with a space behind it; empty if no known name is like it in any capitals."""
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name[:_LONGEST_NAME].casefold(), folded, n=_MOST_NAMED, cutoff=0.7)
    return f"Did you mean {' or '.join(folded[each] for each in near)}? " if near else ""
