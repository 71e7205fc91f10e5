"""What a request used and cost, written to the ledger once, whatever happened to it; then its grant ends."""

import time
from collections.abc import Callable
from typing import Any

from embedgate.core.clock import utc_ms
from embedgate.core.errors import GatewayError
from embedgate.core.ports import Ledger
from embedgate.core.types import Answered, Call, LedgerEntry
from embedgate.engine.admission.grant import Grant
from embedgate.observe import events, metrics


class Accountant:
    """Writes one entry per request that was answered, or that failed after a provider was paid."""

    def __init__(self, ledger: Ledger, *, charges_reuse: bool = False, now_ms: Callable[[], int] = utc_ms) -> None:
        """ledger: where entries are committed. charges_reuse: whether texts that were not sent again cost the same.

        now_ms: UTC milliseconds, of the clock that budgets are reckoned by.
        """
        self._ledger = ledger
        self._charges_reuse = charges_reuse
        self._now_ms = now_ms

    async def __call__(self, call: Call[Any], grant: Grant | None, served: Answered | None) -> LedgerEntry | None:
        """Return once the entry is on disk and the grant has ended; None if there was nothing to write.

        Raises InternalError if it cannot be written: then the caller gets no vectors, and the entry is kept.
        """
        entry = self._entry(call, served) if served or call.spends else None
        is_recorded = False
        try:
            if entry is not None:
                await self._ledger.record(entry)
            is_recorded = True
        except GatewayError as error:
            call.error = error
            raise
        finally:
            if grant is not None:
                _end(grant, entry, served, is_recorded=is_recorded)
            self._count(call, entry)
            self._log(call, entry)
        return entry

    def _entry(self, call: Call[Any], served: Answered | None) -> LedgerEntry:
        candidate = served.candidate if served else call.spends[-1].candidate
        model, route = candidate.model, candidate.route
        price = route.price.picodollars_per_token if route.price else 0
        reused_tokens = served.usage.reused_tokens if served else 0
        return LedgerEntry(
            request_id=call.request_id,
            at_ms=self._now_ms(),
            dialect=call.dialect,
            user_id=call.caller.user_id,
            key_id=call.caller.key_id,
            end_user=call.request.user,
            model=model.id,
            space=model.space or model.id,
            provider=route.provider,
            upstream_model=route.upstream_model,
            items=call.request.n_items,
            tokens=sum(spend.tokens for spend in call.spends),
            reused_tokens=reused_tokens,
            tokens_estimated=any(spend.tokens_estimated for spend in call.spends),
            price_picodollars=price,
            price_as_of=route.price.as_of if route.price else None,
            cost_picodollars=sum(spend.cost_picodollars for spend in call.spends)
            + (reused_tokens * price if self._charges_reuse else 0),
            outcome=call.error.code if call.error else "ok",
            total_ms=(time.monotonic() - call.started_s) * 1000,
            upstream_ms=call.upstream_s * 1000,
            project_id=call.caller.project_id,
            authenticate_ms=call.authenticate_s * 1000,
            admit_ms=call.admit_s * 1000,
            action=call.request.action,
            output_tokens=sum(spend.output_tokens for spend in call.spends),
        )

    @staticmethod
    def _count(call: Call[Any], entry: LedgerEntry | None) -> None:
        metrics.request_ended(call.dialect, call.error.code if call.error else "ok", time.monotonic() - call.started_s)
        if entry is not None and call.error is None:
            metrics.answered(entry.model, entry.items, entry.tokens, entry.reused_tokens, entry.output_tokens)
            metrics.stage("authenticate", call.authenticate_s)
            metrics.stage("admit", call.admit_s)
            metrics.stage("upstream", call.upstream_s)

    @staticmethod
    def _log(call: Call[Any], entry: LedgerEntry | None) -> None:
        event = events.REQUEST_FAILED if call.error else events.REQUEST
        if not event.is_written:
            return
        event.emit(
            request_id=call.request_id,
            key_id=call.caller.key_id,
            model=entry.model if entry else None,
            provider=entry.provider if entry else None,
            items=call.request.n_items,
            tokens=entry.tokens if entry else 0,
            outcome=call.error.code if call.error else "ok",
            total_ms=round((time.monotonic() - call.started_s) * 1000, 3),
        )


def _end(grant: Grant, entry: LedgerEntry | None, served: Answered | None, *, is_recorded: bool) -> None:
    """Settle the hold to what was spent, count the true tokens, give the place to the next."""
    if entry is None:
        grant.hold.release()
    else:
        grant.hold.settle(entry.cost_picodollars, entry.at_ms, is_recorded=is_recorded)
    grant.place.correct(_true_tokens(entry, served))
    grant.place.leave()


def _true_tokens(entry: LedgerEntry | None, served: Answered | None) -> int:
    """What limits count of a request that has ended."""
    if served is not None:
        return served.usage.tokens + served.usage.output_tokens
    return entry.tokens + entry.output_tokens if entry else 0
