"""What a request used and cost, written to the ledger once, whatever happened to it."""

import time
from datetime import UTC, datetime

from embedgate import metrics, telemetry
from embedgate.core.ports import Ledger
from embedgate.core.types import Call, LedgerEntry, Served


class Accountant:
    """Writes one entry per request that was answered, or that failed after a provider was paid."""

    def __init__(self, ledger: Ledger) -> None:
        """ledger: where entries are committed."""
        self._ledger = ledger

    async def __call__(self, call: Call, served: Served | None) -> LedgerEntry | None:
        """Return once the entry is on disk; None if there was nothing to write.

        Raises InternalError if it cannot be written: then the caller gets no vectors, and the entry is kept.
        """
        entry = self._entry(call, served) if served or call.spends else None
        if entry is not None:
            await self._ledger.record(entry)
        self._count(call, entry)
        self._log(call, entry)
        return entry

    @staticmethod
    def _entry(call: Call, served: Served | None) -> LedgerEntry:
        candidate = served.candidate if served else call.spends[-1].candidate
        model, route = candidate.model, candidate.route
        return LedgerEntry(
            request_id=call.request_id,
            at_ms=int(datetime.now(UTC).timestamp() * 1000),
            dialect=call.dialect,
            user_id=call.caller.user_id,
            key_id=call.caller.key_id,
            end_user=call.request.user,
            model=model.id,
            space=model.space or model.id,
            provider=route.provider,
            upstream_model=route.upstream_model,
            items=len(call.request.inputs),
            tokens=sum(spend.tokens for spend in call.spends),
            reused_tokens=served.usage.reused_tokens if served else 0,
            tokens_estimated=any(spend.tokens_estimated for spend in call.spends),
            price_picodollars=route.price.picodollars_per_token if route.price else 0,
            price_as_of=route.price.as_of if route.price else None,
            cost_picodollars=sum(spend.cost_picodollars for spend in call.spends),
            outcome=call.error.code if call.error else "ok",
            total_ms=(time.monotonic() - call.started_s) * 1000,
            upstream_ms=call.upstream_s * 1000,
        )

    @staticmethod
    def _count(call: Call, entry: LedgerEntry | None) -> None:
        metrics.request_ended(call.dialect, call.error.code if call.error else "ok", time.monotonic() - call.started_s)
        if entry is not None and call.error is None:
            metrics.answered(entry.model, entry.items, entry.tokens, entry.reused_tokens)
            metrics.stage("authenticate", call.authenticate_s)
            metrics.stage("upstream", call.upstream_s)

    @staticmethod
    def _log(call: Call, entry: LedgerEntry | None) -> None:
        event = telemetry.REQUEST_FAILED if call.error else telemetry.REQUEST
        if not event.is_written:
            return
        event.emit(
            request_id=call.request_id,
            key_id=call.caller.key_id,
            model=entry.model if entry else None,
            provider=entry.provider if entry else None,
            items=len(call.request.inputs),
            tokens=entry.tokens if entry else 0,
            outcome=call.error.code if call.error else "ok",
            total_ms=round((time.monotonic() - call.started_s) * 1000, 3),
        )
