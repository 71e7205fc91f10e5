"""Ledger entries of requests: who asked for what, at which route. What was used and spent comes from the caller."""

from typing import Any

from embedgate.core.types import Call, Candidate, LedgerEntry


def entry_of(
    call: Call[Any],
    candidate: Candidate,
    at_ms: int,
    outcome: str,
    *,
    tokens: int,
    cost_picodollars: int,
    output_tokens: int,
    estimated_tokens: int,
    estimated_picodollars: int,
    tokens_estimated: bool,
    reused_tokens: int = 0,
    total_ms: float = 0.0,
    upstream_ms: float = 0.0,
    authenticate_ms: float = 0.0,
    admit_ms: float = 0.0,
) -> LedgerEntry:
    """The entry of a request that a candidate has served, or may serve."""
    model, route = candidate.model, candidate.route
    price, caller, request = route.price, call.caller, call.request
    return LedgerEntry(
        request_id=call.request_id,
        at_ms=at_ms,
        dialect=call.dialect,
        user_id=caller.user_id,
        key_id=caller.key_id,
        end_user=request.user,
        model=model.id,
        space=model.space or model.id,
        provider=route.provider,
        upstream_model=route.upstream_model,
        items=request.n_items,
        tokens=tokens,
        reused_tokens=reused_tokens,
        tokens_estimated=tokens_estimated,
        price_picodollars=price.picodollars_per_token if price else 0,
        price_as_of=price.as_of if price else None,
        cost_picodollars=cost_picodollars,
        outcome=outcome,
        total_ms=total_ms,
        upstream_ms=upstream_ms,
        project_id=caller.project_id,
        authenticate_ms=authenticate_ms,
        admit_ms=admit_ms,
        action=request.action.policy_name,
        output_tokens=output_tokens,
        estimated_tokens=estimated_tokens,
        estimated_picodollars=estimated_picodollars,
    )
