"""Intents: before a call that can cost money leaves, it is on disk who pays and how much is held for it.

What is written is the ledger entry that is booked if this process ends before the request: as outcome `interrupted`, at
the most that the request could cost, marked as estimated.
"""

from typing import Any

from embedgate.core.clock import utc_ms
from embedgate.core.types import Call, Candidate, Grant, LedgerEntry, Weighed

INTERRUPTED = "interrupted"
"""Outcome of a request whose process ended before it did."""


async def intend(call: Call[Any], grant: Grant, candidate: Candidate) -> None:
    """Return once a call to the candidate may leave. Writes nothing if what is on disk says so already.

    Raises LedgerUnavailable if the intent cannot be kept.
    """
    if grant.intents is None:
        return
    most = grant.most_at(candidate)
    cost = most.cost_picodollars + call.wasted_picodollars
    if not cost or (call.intended_for is candidate and cost <= call.intended_picodollars):
        return
    await grant.intents.write(_intent(call, most, cost))
    call.intended_for, call.intended_picodollars = candidate, cost


def _intent(call: Call[Any], most: Weighed, cost_picodollars: int) -> LedgerEntry:
    model, route = most.candidate.model, most.candidate.route
    price, caller, request = route.price, call.caller, call.request
    return LedgerEntry(
        request_id=call.request_id,
        at_ms=utc_ms(),
        dialect=call.dialect,
        user_id=caller.user_id,
        key_id=caller.key_id,
        end_user=request.user,
        model=model.id,
        space=model.space or model.id,
        provider=route.provider,
        upstream_model=route.upstream_model,
        items=request.n_items,
        tokens=most.tokens,
        reused_tokens=0,
        tokens_estimated=True,
        price_picodollars=price.picodollars_per_token if price else 0,
        price_as_of=price.as_of if price else None,
        cost_picodollars=cost_picodollars,
        outcome=INTERRUPTED,
        total_ms=0.0,
        upstream_ms=0.0,
        project_id=caller.project_id,
        action=request.action.policy_name,
        output_tokens=most.most_output_tokens,
        estimated_tokens=most.tokens,
        estimated_picodollars=cost_picodollars,
    )
