"""Charging: what provider calls cost the request they were made for. Covered before, charged after.

The one way to charge for embeddings, chat and rerank alike; what tokens, searches and output cost is for their rooms.
"""

import time
from typing import Any

from embedgate.core.errors import (
    NOT_SENT,
    AccessError,
    GatewayError,
    InvalidInput,
    UpstreamGarbled,
    UpstreamLimited,
)
from embedgate.core.models import LOCAL
from embedgate.core.types import Call, Candidate, Spend
from embedgate.engine.ledger.account import intend
from embedgate.observe import metrics


async def cover(call: Call[Any], candidate: Candidate | None = None) -> None:
    """Hold as much as the request can still cost: what was billed in vain comes on top of what was held at first.

    candidate: who is called next, at once; its intent is on disk when this returns. None: nobody.
    Raises BudgetExhausted, InternalError if the ledger cannot be read, LedgerUnavailable if the intent cannot be kept.
    """
    grant = call.grant
    if grant is None:
        return
    if call.wasted_picodollars:
        await grant.hold.cover(grant.held_picodollars + call.wasted_picodollars)
    if candidate is not None:
        await intend(call, grant, candidate)


def charge(
    call: Call[Any],
    candidate: Candidate,
    tokens: int,
    cost_picodollars: int,
    *,
    is_estimated: bool,
    output_tokens: int = 0,
) -> None:
    """Add what a provider call used and costs to the request, the moment it is known. tokens: of its input.

    is_estimated: nobody has confirmed it.
    """
    spend = next((spend for spend in call.spends if spend.candidate is candidate), None) if call.spends else None
    if spend is None:
        spend = Spend(candidate)
        call.spends.append(spend)
    spend.tokens += tokens
    spend.tokens_estimated |= is_estimated
    spend.cost_picodollars += cost_picodollars
    spend.output_tokens += output_tokens
    if is_estimated:
        spend.estimated_tokens += tokens
        spend.estimated_picodollars += cost_picodollars
        metrics.estimated(candidate.route.provider, cost_picodollars)


def may_be_billed(error: BaseException, candidate: Candidate) -> bool:
    """Whether a provider call that ended with this error may be billed, though no answer said so.

    The one rule for all kinds of calls: it was sent, and what became of it is not known (`GatewayError.may_be_billed`);
    so too if it was cancelled or broke off by a fault of ours, unless it had not been sent. What runs in this process
    bills nothing.
    """
    if candidate.route.provider == LOCAL:
        return False
    if isinstance(error, GatewayError):
        return error.may_be_billed
    return error.args != (NOT_SENT,)


def write_off(call: Call[Any]) -> None:
    """Count all that was billed so far as wasted: the next attempt costs the whole request again."""
    call.wasted_picodollars = sum(spend.cost_picodollars for spend in call.spends)


def outcome_of(error: GatewayError) -> str | None:
    """How metrics name the outcome of a provider call that failed; None if it was not made."""
    if isinstance(error, (UpstreamLimited, InvalidInput, AccessError)):
        return None
    return "bad_answer" if isinstance(error, UpstreamGarbled) else error.code


def count_call(call: Call[Any], candidate: Candidate, n_items: int, outcome: str | None, started_s: float) -> None:
    """Add the time of a provider call to the request, and the call to the metrics. outcome: None if it was not made."""
    spent_s = time.monotonic() - started_s
    call.upstream_s += spent_s
    if outcome is not None:
        metrics.provider_call(candidate.route.provider, outcome, n_items, spent_s)
