"""Accounting: the one ledger entry of a request, once it has ended, and the intent that stands for it until then.

An intent is the entry that is booked if this process ends before the request: as outcome `interrupted`, at the most
that the request could cost, marked as estimated. It is on disk before a call that can cost money leaves.
"""

import time
from collections.abc import Callable
from typing import Any

from embedgate.core.clock import utc_ms
from embedgate.core.errors import GatewayError
from embedgate.core.ports import Ledger
from embedgate.core.types import Answered, Call, Candidate, Grant, LedgerEntry
from embedgate.observe import events, metrics

INTERRUPTED = "interrupted"
"""Outcome of a request whose process ended before it did."""


class Accountant:
    """Writes one ledger entry per request that was answered, or that failed after a provider was paid."""

    def __init__(self, ledger: Ledger, *, charges_reuse: bool = False, now_ms: Callable[[], int] = utc_ms) -> None:
        """ledger: where entries are committed. charges_reuse: whether texts that were not sent again cost the same.

        now_ms: UTC milliseconds, of the clock that budgets are reckoned by.
        """
        self._ledger = ledger
        self._charges_reuse = charges_reuse
        self._now_ms = now_ms

    async def account(self, call: Call[Any], answered: Answered | None) -> LedgerEntry | None:
        """Return once the entry is on disk and the grant has ended; None if there was nothing to write.

        Raises InternalError if it cannot be written: then the caller gets no vectors, and the entry is kept.
        """
        entry = self._entry(call, answered) if answered or call.spends else None
        is_recorded = False
        try:
            if entry is not None:
                await self._ledger.record(entry)
            is_recorded = True
        except GatewayError as error:
            call.error = error
            raise
        finally:
            if call.grant is not None:
                _end(call.grant, entry, answered, is_recorded=is_recorded)
                if call.intended_for is not None and call.grant.intents is not None:
                    if entry is None:
                        call.grant.intents.drop(call.request_id)
                    elif is_recorded:  # else it is all that a kill would leave
                        call.grant.intents.settle(call.request_id)
            elif call.counted is not None:
                call.counted.withdraw()  # refused after its body was read: it counts in no limit
            if call.error is not None and entry is not None:
                call.error.is_charged = entry.cost_picodollars > 0
            total_s = time.monotonic() - call.started_s
            outcome = call.error.code if call.error else "ok"
            metrics.request_ended(call.dialect, outcome, total_s)
            if entry is not None and call.error is None:
                metrics.answered(entry, call.authenticate_s, call.admit_s, call.upstream_s)
            event = events.REQUEST_FAILED if call.error else events.REQUEST
            if event.is_written:
                event.emit(
                    request_id=call.request_id,
                    key_id=call.caller.key_id,
                    model=entry.model if entry else None,
                    provider=entry.provider if entry else None,
                    items=call.request.n_items,
                    tokens=entry.tokens if entry else 0,
                    outcome=outcome,
                    total_ms=round(total_s * 1000, 3),
                )
        return entry

    def _entry(self, call: Call[Any], answered: Answered | None) -> LedgerEntry:
        candidate = answered.candidate if answered else call.spends[-1].candidate
        reused_tokens = answered.usage.reused_tokens if answered else 0
        tokens = output_tokens = estimated_tokens = estimated_cost = 0
        cost = candidate.cost_of(reused_tokens) if self._charges_reuse else 0
        is_estimated = False
        for spend in call.spends:
            tokens += spend.tokens
            output_tokens += spend.output_tokens
            cost += spend.cost_picodollars
            if spend.tokens_estimated:
                is_estimated = True
                estimated_tokens += spend.estimated_tokens
                estimated_cost += spend.estimated_picodollars
        return _entry_of(
            call,
            candidate,
            self._now_ms(),
            call.error.code if call.error else "ok",
            tokens=tokens,
            cost_picodollars=cost,
            output_tokens=output_tokens,
            estimated_tokens=estimated_tokens,
            estimated_picodollars=estimated_cost,
            tokens_estimated=is_estimated,
            reused_tokens=reused_tokens,
            total_ms=(time.monotonic() - call.started_s) * 1000,
            upstream_ms=call.upstream_s * 1000,
            authenticate_ms=call.authenticate_s * 1000,
            admit_ms=call.admit_s * 1000,
        )


def _end(grant: Grant, entry: LedgerEntry | None, answered: Answered | None, *, is_recorded: bool) -> None:
    """Settle or release the hold, count the true tokens, and let the next request in."""
    if entry is None:
        grant.hold.release()
    else:
        grant.hold.settle(entry.cost_picodollars, entry.at_ms, is_recorded=is_recorded)
    if answered is not None:
        true_tokens = answered.usage.tokens + answered.usage.output_tokens
    else:
        true_tokens = entry.tokens + entry.output_tokens if entry else 0
    grant.counted.correct(true_tokens)
    grant.counted.leave()


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
    entry = _entry_of(
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


def _entry_of(
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
