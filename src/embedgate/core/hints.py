"""Rate-limit state that a provider reports with its answers. No I/O."""

from collections.abc import Callable

from msgspec import Struct


class Allowance(Struct, frozen=True, gc=False):
    """One limit: `remaining` of `limit` are left, and all of it is free again after `reset_s` seconds.

    None: not reported, or not credible.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


UNTOLD = Allowance()


class RateHints(Struct, frozen=True, gc=False):
    """The limits of requests and of tokens, as one answer reports them."""

    requests: Allowance = UNTOLD
    tokens: Allowance = UNTOLD


NO_HINTS = RateHints()
Observe = Callable[[RateHints], None]
"""Called with the hints of an answer, good or bad, as soon as its head has arrived. Cheap, never raises."""


def ignore(_hints: RateHints) -> None:
    """Ignore the hints."""
