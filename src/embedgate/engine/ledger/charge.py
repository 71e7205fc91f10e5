"""What provider calls cost the request that they were made for: added when they end, covered before they begin."""

import time
from typing import Any

from embedgate.core.errors import GatewayError, InvalidInput, UpstreamGarbled, UpstreamLimited
from embedgate.core.money import cost_picodollars
from embedgate.core.types import Call, Candidate, Spend
from embedgate.observe import metrics


async def cover(call: Call[Any]) -> None:
    """Have as much held as the request can still come to cost: what was billed in vain comes on top.

    Raises BudgetExhausted, or InternalError if the ledger cannot be read.
    """
    if call.wasted_picodollars and call.hold is not None:
        await call.hold.cover(call.held_picodollars + call.wasted_picodollars)


def charge(
    call: Call[Any],
    candidate: Candidate,
    tokens: int,
    cost_picodollars: int,
    *,
    is_estimated: bool,
    output_tokens: int = 0,
) -> None:
    """Add what a provider call used and costs to the call, the moment it is known. tokens: of its input."""
    spend = next((spend for spend in call.spends if spend.candidate is candidate), None)
    if spend is None:
        spend = Spend(candidate)
        call.spends.append(spend)
    spend.tokens += tokens
    spend.tokens_estimated |= is_estimated
    spend.cost_picodollars += cost_picodollars
    spend.output_tokens += output_tokens


def write_off(call: Call[Any]) -> None:
    """Nothing that was billed so far will be used: to answer the call costs all of it anew."""
    call.wasted_picodollars = sum(spend.cost_picodollars for spend in call.spends)


def ended_as(error: GatewayError) -> str | None:
    """How metrics name what ended the one call that serves a request; None if it was not made."""
    if isinstance(error, (UpstreamLimited, InvalidInput)):
        return None
    return "bad_answer" if isinstance(error, UpstreamGarbled) else error.code


def count_call(call: Call[Any], candidate: Candidate, n_items: int, outcome: str | None, started_s: float) -> None:
    """Add the time of a provider call to the request, and the call to the metrics. outcome: None if it was not made."""
    spent_s = time.monotonic() - started_s
    call.upstream_s += spent_s
    if outcome is not None:
        metrics.provider_call(candidate.route.provider, outcome, n_items, spent_s)


def cost_at(candidate: Candidate, tokens: int) -> int:
    """Picodollars for tokens at a candidate; 0 where no price is known."""
    price = candidate.route.price
    return cost_picodollars(tokens, price.picodollars_per_token) if price else 0
