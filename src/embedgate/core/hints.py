"""What a provider says, with each of its answers, of how much more it will take. No I/O."""

from collections.abc import Callable

from msgspec import Struct


class Allowance(Struct, frozen=True, gc=False):
    """One limit: `remaining` of `limit` are left, and after `reset_s` seconds nothing is used up any more.

    None: not said, or nothing that can be believed.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


UNTOLD = Allowance()


class RateHints(Struct, frozen=True, gc=False):
    """The limits of requests and of tokens, as one answer tells them."""

    requests: Allowance = UNTOLD
    tokens: Allowance = UNTOLD


NO_HINTS = RateHints()
Observe = Callable[[RateHints], None]
"""Told what an answer says, good or bad, as soon as its head is here. Cheap, never raises."""


def ignore(_hints: RateHints) -> None:
    """For callers that do not care."""
