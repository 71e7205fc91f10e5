"""Retention: what is older than the settings say is deleted while the gateway runs, in pieces, beside the requests.

Owns when; what is deleted, and what tells of it, is in `govern`. A piece is one transaction, so that a kill in between
loses nothing, and the next start goes on.
"""

import asyncio
import contextlib
from collections.abc import Callable

from embedgate.core.clock import utc_ms
from embedgate.core.errors import InternalError
from embedgate.govern.audit import prune_piece
from embedgate.govern.change import Invocation
from embedgate.observe import events, metrics

_MS_PER_DAY = 86_400_000
_EVERY_S = 3_600.0
_PAUSE_S = 0.1
"""Between two pieces, each of which keeps other writers waiting for some ten milliseconds."""


class AuditRetention:
    """Deletes old events of the audit trail, from `start` to `aclose`."""

    def __init__(
        self, invoked: Callable[[], Invocation], keep_days: int | None, now_ms: Callable[[], int] = utc_ms
    ) -> None:
        """invoked: what the deletion runs with. keep_days: None to delete nothing."""
        self._invoked = invoked
        self._keep_days = keep_days
        self._now_ms = now_ms
        self._is_closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, unless nothing is to be deleted."""
        if self._keep_days is not None:
            self._task = asyncio.get_running_loop().create_task(self._run(self._keep_days))

    async def aclose(self) -> None:
        """Return once the piece that is being deleted is, and no other begins."""
        self._is_closing.set()
        if self._task is not None:
            await self._task

    async def _run(self, keep_days: int) -> None:
        while not self._is_closing.is_set():
            try:
                await self._prune(self._now_ms() - keep_days * _MS_PER_DAY)
            except InternalError as error:  # the ledger's own watch tells of an outage; the next hour may do
                events.AUDIT_NOT_PRUNED.emit(reason=error.message)
            await self._rest(_EVERY_S)

    async def _prune(self, before_ms: int) -> None:
        deleted = 0
        try:
            while not self._is_closing.is_set():
                n = await asyncio.to_thread(prune_piece, self._invoked(), before_ms)
                if not n:
                    return
                deleted += n
                metrics.records_retired("audit", n)
                await self._rest(_PAUSE_S)
        finally:
            if deleted:
                events.AUDIT_PRUNED.emit(events=deleted, before_ms=before_ms)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_closing.wait(), seconds)
