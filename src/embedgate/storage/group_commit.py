"""Group commit: one thread writes ledger entries and audit events of many requests per transaction, with retries.

No artificial delay: the thread writes as soon as there is an item, and whatever arrives meanwhile is
the next group. The appender runs the statements.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from embedgate.core.access import AuditEvent
from embedgate.core.errors import InternalError
from embedgate.core.types import LedgerEntry
from embedgate.observe import events
from embedgate.storage.appender import Item

_MAX_GROUP = 500
_FIRST_DELAY_S = 0.01
_MAX_DELAY_S = 1.0
# Errors that one item can cause (a number over 64 bits, a lone surrogate); any other is the database's.
_REFUSALS = (IntegrityError, DataError, ProgrammingError, OverflowError, ValueError)


class Pending(Struct, frozen=True):
    """A queued item, and the future that is resolved when it is committed; None for an audit event."""

    item: Item
    waiter: asyncio.Future[None] | None = None


@dataclass(slots=True)
class _Outage:
    """A period of failing writes. `is_reported` once the waiters have failed; closing leaves one more attempt."""

    since_s: float
    delay_s: float = _FIRST_DELAY_S
    is_reported: bool = False
    is_last_attempt: bool = False


class GroupWriter:
    """Group-commit writer: writes items in order of arrival. Its thread starts here and ends with `close`."""

    def __init__(self, append: Callable[[Sequence[Item]], None], max_pending: int, patience_s: float) -> None:
        """append: commits all the items given or none; called on the thread only. max_pending: bound of the entries
        kept in memory, and separately of the events, so that refused requests, which have events
        only, cannot crowd out entries. patience_s: how long callers wait for a database that fails.
        """
        self._append = append
        self._max_pending = max_pending
        self._patience_s = patience_s
        self._door = threading.Lock()
        self._closing = threading.Event()
        self._arrivals: queue.SimpleQueue[Sequence[Pending]] = queue.SimpleQueue()
        self._backlog: list[Pending] = []
        self._kept: dict[type[Item], int] = {LedgerEntry: 0, AuditEvent: 0}
        self._n_kept = 0
        """Of both kinds: read for every request, so it is not added up."""
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="embedgate-ledger", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether the queue is empty, and writing is possible."""
        return not self._n_kept and not self._is_closing

    @property
    def n_entries(self) -> int:
        """Ledger entries that are kept in memory."""
        return self._kept[LedgerEntry]

    def offer(self, *group: Pending) -> None:
        """Queue items, which the thread takes together. Called on the loop's thread.

        The future of an item is resolved once it is committed. It gets InternalError if that takes over `patience_s`;
        the item is then kept and retried. It gets InternalError at once, and the item is logged, if too many are kept
        already or the writer is closed.
        """
        taken, refused = [], []
        with self._door:
            is_closed = self._closing.is_set()
            for pending in group:
                kind = type(pending.item)
                if is_closed or self._kept[kind] >= self._max_pending:
                    refused.append(pending)
                    continue
                self._kept[kind] += 1
                self._n_kept += 1
                taken.append(pending)
            if taken:  # nothing at all ends the thread
                self._arrivals.put(taken)
        for pending in refused:
            _log_lost(pending.item, "the ledger is closed" if is_closed else f"{self._max_pending} wait already")
            if pending.waiter is not None:
                pending.waiter.set_exception(InternalError("the ledger cannot be written"))

    def close(self) -> None:
        """Flush and end the thread. Blocks, at most for `patience_s` if the database fails."""
        with self._door:
            self._is_closing = True
            self._closing.set()
            self._arrivals.put(())  # so that the thread looks
        self._thread.join()

    def _run(self) -> None:
        outage: _Outage | None = None
        suspects = 0  # one item of a group was refused: write one by one, so that only the refused one fails
        while self._gather():
            group = self._backlog[: 1 if suspects else _MAX_GROUP]
            failure = None
            try:
                self._append([pending.item for pending in group])
            except _REFUSALS as error:
                if len(group) > 1:
                    suspects = len(group)
                    continue
                _log_lost(group[0].item, type(error).__name__)
                failure = "the ledger refuses the entry"
            except SQLAlchemyError as error:
                outage = outage or _Outage(time.monotonic())
                if self._back_off(outage, error):
                    continue
                return
            suspects = max(0, suspects - 1)
            self._complete_group(group, failure)
            if outage is not None and outage.is_reported:
                events.LEDGER_RECOVERED.emit(after_s=round(time.monotonic() - outage.since_s, 3))
            outage = None

    def _gather(self) -> bool:
        """Move arrivals to the backlog; wait only if there is nothing to write. False once closed and empty."""
        if not self._backlog and not self._closing.is_set():
            self._backlog += self._arrivals.get()
        for _ in range(self._arrivals.qsize()):
            self._backlog += self._arrivals.get_nowait()
        return bool(self._backlog)

    def _complete_group(self, group: Sequence[Pending], failure: str | None) -> None:
        """Drop the group at the head of the backlog, and resolve its futures."""
        del self._backlog[: len(group)]
        with self._door:
            for pending in group:
                self._kept[type(pending.item)] -= 1
                self._n_kept -= 1
        _resolve(group, failure)

    def _back_off(self, outage: _Outage, error: SQLAlchemyError) -> bool:
        """Back off before the next attempt; after `patience_s`, fail the waiters. False to give up, when closing."""
        if time.monotonic() - outage.since_s < self._patience_s:
            time.sleep(outage.delay_s)
        else:
            if not outage.is_reported:
                outage.is_reported = True
                events.LEDGER_STUCK.emit(error=_reason(error), waiting=len(self._backlog))
            self._gather()
            _resolve(self._backlog, "the ledger cannot be written")
            if outage.is_last_attempt:
                for pending in self._backlog:
                    _log_lost(pending.item, "the ledger was closed before it could be written")
                return False
            outage.is_last_attempt = self._closing.wait(outage.delay_s)
        outage.delay_s = min(2 * outage.delay_s, _MAX_DELAY_S)
        return True


def _resolve(group: Sequence[Pending], failure: str | None) -> None:
    """Resolve the futures of a group, with one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for pending in group:
        if pending.waiter is not None and not pending.waiter.done():
            by_loop.setdefault(pending.waiter.get_loop(), []).append(pending.waiter)
    for loop, waiters in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop has closed, so no waiter is left
            loop.call_soon_threadsafe(_wake, waiters, failure)


def _wake(waiters: Sequence[asyncio.Future[None]], failure: str | None) -> None:
    for waiter in waiters:
        if waiter.done():  # its request was cancelled, or has failed before
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(InternalError(failure))


def _log_lost(item: Item, reason: str) -> None:
    """Log an item that cannot be stored, as the last record of it."""
    if isinstance(item, AuditEvent):
        events.AUDIT_LOST.emit(
            reason=reason,
            request_id=item.request_id,
            at_ms=str(item.at_ms),
            kind=item.kind,
            actor=ascii(item.actor),  # the refused value may be a text that a log line cannot hold
            action=item.action,
            target=ascii(item.target),
            outcome=item.outcome,
            policies=ascii(item.policies),
            detail=ascii(dict(item.detail)),
        )
        return
    events.LEDGER_LOST.emit(
        reason=reason,
        request_id=item.request_id,
        at_ms=item.at_ms,
        user_id=item.user_id,
        key_id=item.key_id,
        model=item.model,
        provider=item.provider,
        tokens=str(item.tokens),  # the refused value may be a number that a log line cannot hold
        cost_picodollars=str(item.cost_picodollars),
    )


def _reason(error: SQLAlchemyError) -> str:
    """The database's own message, without the statement."""
    return str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
