"""Ledger writer: usage, cost and audit events of requests, committed together in one transaction.

An audit event that was noted before an entry was recorded is on disk when the entry is. Rows are append-only.
`commits` writes groups and handles failures; reading is in `govern`.
"""

import asyncio
from collections.abc import Callable

import sqlalchemy as sa

from embedgate.core.access import AuditEvent
from embedgate.core.errors import InternalError, LedgerUnavailable
from embedgate.core.types import LedgerEntry
from embedgate.storage.appender import Appender
from embedgate.storage.commits import GroupWriter, Pending, QuickCommit, WriterConnection
from embedgate.storage.database import Database
from embedgate.storage.schema import ledger
from embedgate.storage.write_watch import WriteWatch

_MAX_QUICK_GROUP = 128
_EVENT_WAIT_S = 0.05
"""How long an audit event waits to share a commit with a ledger entry; most requests end sooner."""


class SqlLedger:
    """Ledger and audit trail in SQL (core.ports). Bound to one event loop: call `record` and `note` there."""

    def __init__(
        self,
        database: Database,
        *,
        max_pending: int = 10_000,
        patience_s: float = 5.0,
        check_s: float = 1.0,
        beside: Callable[[], str | None] = lambda: None,
    ) -> None:
        """max_pending: bound of entries in memory, about 1 KB each, and of audit events. patience_s: how long
        requests wait for a failing database before they fail too. check_s, beside: as for the watch.
        """
        self._database = database
        self._max_pending = max_pending
        append = Appender(database.dialect)
        self._connection = WriterConnection(database, append, lambda: self.is_lost)
        self._writer = GroupWriter(self._connection.commit, max_pending, patience_s)
        path = database.quick_path
        self._quick = QuickCommit(path, append) if path is not None else None
        self.watch = (
            WriteWatch(database.path, check_s, self._commits, beside, lambda: database.has_writer)
            if database.path is not None
            else None
        )
        self._arrived: list[Pending] = []
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def record(self, entry: LedgerEntry) -> None:
        """Record an entry; return once it is committed to disk. Idempotent by request id.

        While the ledger is known not to be writable, what cost nothing is kept in memory and not waited for.
        Raises InternalError if that failed; the entry is then kept and retried. When `max_pending` entries
        are kept already, it is only logged. Raises LedgerUnavailable if half as many are, and it cost nothing.
        """
        if self.watch is not None and self.watch.outage is not None and not entry.cost_picodollars:
            if self._writer.n_entries >= self._max_pending // 2:  # the other half is for what was paid
                raise LedgerUnavailable(
                    "Too many requests wait for the ledger, which cannot be written. Try again.", retry_after_s=5
                )
            self._writer.offer(Pending(entry))
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._arrived.append(Pending(entry, waiter))
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._commit_arrived)  # with all arrivals of this iteration
        await waiter

    def note(self, event: AuditEvent) -> None:
        """Queue an audit event: it is committed together with the next entry, or alone after 50 ms.

        While the database fails it is kept and retried. When `max_pending` events are kept already, or the ledger
        is closed, it is only logged. A retry after an unclear commit may repeat it.
        """
        self._arrived.append(Pending(event))
        if self._is_closed:
            self._commit_arrived()
        elif len(self._arrived) >= _MAX_QUICK_GROUP // 2:
            if not self._is_due:
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._commit_arrived)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVENT_WAIT_S, self._commit_events)

    def close(self) -> None:
        """Flush and close. Blocks, at most for `patience_s` and one more attempt if the database fails."""
        self._is_closed = True
        if self.watch is not None and self.watch.is_running:
            self.watch.look()
        arrived, self._arrived = self._arrived, []
        self._writer.offer(*arrived)
        self._writer.close()
        if self.watch is not None:
            self.watch.close()
        self._connection.close()
        if self._quick is not None:
            self._quick.close()

    @property
    def is_lost(self) -> bool:
        """Whether the open file is no longer the database at its path, so that what is written would be lost."""
        return self.watch is not None and self.watch.is_replaced

    def release(self) -> None:
        """Let go of the database's file, once the database is closed."""
        if self.watch is not None:
            self.watch.release()

    @property
    def outage(self) -> str | None:
        """Why the ledger cannot be written; None while it can."""
        return self.watch.outage if self.watch is not None else None

    def check(self) -> str | None:
        """Why the ledger cannot be written; None if it can. Blocks. Raises InternalError if it cannot be read."""
        try:
            with self._database.read() as connection:
                connection.execute(sa.select(ledger.c.id).limit(1)).first()
        except InternalError:
            if self.watch is not None:
                self.watch.look()  # a file that is gone is an outage of the ledger, whoever notices it first
            if self.watch is None or self.watch.outage is None:
                raise
        return self.watch.check() if self.watch is not None else None

    def _commits(self) -> int:
        return self._connection.commits + (self._quick.commits if self._quick is not None else 0)

    def _commit_events(self) -> None:
        self._timer = None
        self._commit_arrived()

    def _commit_arrived(self) -> None:
        """Commit on the event loop if possible; leave the rest to the writer thread."""
        self._is_due = False
        group, self._arrived = self._arrived, []
        if not group:
            return
        is_sound = self.watch is None or self.watch.outage is None
        # Only if the writer is idle: an entry must not overtake events that were noted before it.
        is_quick = self._quick is not None and is_sound and self._writer.is_idle and len(group) <= _MAX_QUICK_GROUP
        if is_quick and self._quick and self._quick.commit([pending.item for pending in group]):
            for pending in group:
                if pending.waiter is not None and not pending.waiter.done():
                    pending.waiter.set_result(None)
            return
        if is_quick and self.watch is not None:
            self.watch.suspect()
        self._writer.offer(*group)
