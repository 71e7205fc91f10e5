"""Commits of ledger entries and audit events: quick commit on the event loop, group commit on a thread, with retries.

Quick commit, in microseconds: in WAL mode with `synchronous = normal` a commit is a copy into the page cache, and
handing it to a thread costs several times as much, in GIL switches. It blocks for nothing: another process's write lock
is not waited for (the group writer then takes the items), and checkpoints, which sync files, run on a thread.

Group commit: one thread writes what many requests have brought, in one transaction. No artificial delay: it writes as
soon as there is an item, and whatever arrives meanwhile is the next group. The appender runs the statements of both.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from embedgate.core.access import AuditEvent
from embedgate.core.errors import InternalError
from embedgate.core.types import LedgerEntry
from embedgate.observe import events, metrics
from embedgate.storage.appender import Appender, Item
from embedgate.storage.database import Database, connect_existing

_RESTART_WAIT_MS = 20
_CHECKPOINT_PAGES = 1_000
_PAGES_PER_COMMIT = 6
_PAGES_PER_ITEM = 1
"""Rough: the table and each index change at least one page. A WAL that is checkpointed early is reused, not grown."""
_MAX_GROUP = 500
_FIRST_DELAY_S = 0.01
_MAX_DELAY_S = 1.0
# Errors that one item can cause (a number over 64 bits, a lone surrogate); any other is the database's.
_REFUSALS = (IntegrityError, DataError, ProgrammingError, OverflowError, ValueError)


class QuickCommit:
    """Connection for quick commits, for the event loop's thread only."""

    def __init__(self, path: Path, append: Appender) -> None:
        """path: the database, in WAL mode with its schema."""
        self._path = path
        self._append = append
        self._connection = self._connect()
        # One cursor: the connection's own `execute` makes one each time. None until the file can be opened again.
        self._run: Callable[..., sqlite3.Cursor] | None = self._connection.cursor().execute
        self.commits = 0
        self._since_checkpoint = 0
        self._checkpoints = ThreadPoolExecutor(1, thread_name_prefix="embedgate-checkpoint")
        self._checkpoint: Future[None] | None = None

    def commit(self, items: Sequence[Item]) -> bool:
        """Commit all the items and return True; or none and return False, when the database is locked or fails, or
        refuses one of them.
        """
        try:
            run = self._run
            if run is None:
                self._connection = self._connect()
                run = self._run = self._connection.cursor().execute
            run("BEGIN IMMEDIATE")
            self._append(run, items, may_repeat=False)
            run("COMMIT")
        except (sqlite3.Error, OverflowError, ValueError):
            self._roll_back()
            return False
        self.commits += 1
        self._since_checkpoint += _PAGES_PER_COMMIT + _PAGES_PER_ITEM * len(items)
        if self._since_checkpoint >= _CHECKPOINT_PAGES and (self._checkpoint is None or self._checkpoint.done()):
            self._since_checkpoint = 0
            self._checkpoint = self._checkpoints.submit(self._run_checkpoint)
        return True

    def close(self) -> None:
        """End the thread and the connection."""
        self._checkpoints.shutdown()
        self._connection.close()

    def _roll_back(self) -> None:
        if self._run is None:
            return
        try:
            self._connection.rollback()
        except sqlite3.Error:
            self._connection.close()
            self._run = None

    def _run_checkpoint(self) -> None:
        """Checkpoint the write-ahead log, as far as readers allow; blocks writers only for the end of it."""
        try:
            connection = self._connect()
        except sqlite3.Error:  # the commits fail, too, and say so
            return
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            # Little has arrived meanwhile. Checkpointing that, too, resets the log, which would otherwise only grow.
            connection.execute(f"PRAGMA busy_timeout = {_RESTART_WAIT_MS}")
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        except sqlite3.Error:
            pass  # the next checkpoint copies more
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = connect_existing(self._path, 0)
        try:
            connection.execute("PRAGMA synchronous = normal")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


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


class DatabaseReplaced(SQLAlchemyError):
    """The open database file is no longer the one at its path."""


class WriterConnection:
    """Connection of the group writer's thread, opened on first use and again after a failure."""

    def __init__(self, database: Database, append: Appender, is_lost: Callable[[], bool]) -> None:
        """is_lost: whether what is written now is lost with the end of the process."""
        self._database = database
        self._append = append
        self._is_lost = is_lost
        self._connection: sa.Connection | None = None
        self.commits = 0

    def commit(self, items: Sequence[Item]) -> None:
        """Commit all the items or none. Raises SQLAlchemyError, or the driver's error for a bad value."""
        if self._is_lost():
            raise DatabaseReplaced
        self._connection = self._connection or self._database.connect_writer()
        try:
            with self._connection.begin():
                self._append(self._connection.exec_driver_sql, items)
        except SQLAlchemyError:
            self.close()
            raise
        self.commits += 1

    def close(self) -> None:
        """Close the connection; the next commit opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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
        metrics.record_lost("audit")
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
    metrics.record_lost("ledger")
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
