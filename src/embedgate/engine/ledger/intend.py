"""Intents: before a call that can cost money leaves, it is on disk who pays and how much is held for it.

What is written is the ledger entry that is booked if this process ends before the request: as outcome `interrupted`, at
the most that the request could cost, marked as estimated.
"""

from typing import Any

from embedgate.core.clock import utc_ms
from embedgate.core.types import Call, Candidate, Grant
from embedgate.engine.ledger.entry import entry_of

INTERRUPTED = "interrupted"
"""Outcome of a request whose process ended before it did."""


async def intend(call: Call[Any], grant: Grant, candidate: Candidate) -> None:
    """Return once a call to the candidate may leave. Writes nothing if what is on disk says so already.

    An intent replaces the one before it, but what was billed at an earlier candidate stays billed: the dearest of those
    that were called bounds the whole. Raises LedgerUnavailable if the intent cannot be kept.
    """
    if grant.intents is None:
        return
    most = grant.most_at(candidate)
    if call.intended_for is not None:
        earlier = grant.most_at(call.intended_for)
        if earlier.cost_picodollars >= most.cost_picodollars:
            candidate, most = call.intended_for, earlier
    cost = most.cost_picodollars + call.wasted_picodollars
    if not cost or (call.intended_for is candidate and cost <= call.intended_picodollars):
        return
    entry = entry_of(
        call,
        candidate,
        utc_ms(),
        INTERRUPTED,
        tokens=most.tokens,
        cost_picodollars=cost,
        output_tokens=most.most_output_tokens,
        estimated_tokens=most.tokens,
        estimated_picodollars=cost,
        tokens_estimated=True,
    )
    await grant.intents.write(entry)
    call.intended_for, call.intended_picodollars = candidate, cost
