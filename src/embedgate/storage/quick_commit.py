"""Commits small groups of ledger entries on the event loop itself, where that takes microseconds.

In WAL mode with `synchronous = normal` a commit is a copy into the system's page cache. Handing it to a thread costs
several times as much, in switches of the interpreter lock. What could wait is kept away: another process's write lock
is not waited for (the caller then uses the writer thread), and checkpoints, which sync files, run on a thread.
"""

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from embedgate.core.types import LedgerEntry

_RESTART_WAIT_MS = 20
_CHECKPOINT_PAGES = 1_000
_PAGES_PER_COMMIT = 6
_PAGES_PER_ENTRY = 1
"""Rough: the table and each index change at least one page. A log that is folded early is written over, not grown."""


class QuickCommit:
    """A connection for the event loop's thread only."""

    def __init__(
        self, path: Path, statement: Callable[[int], str], values: Callable[[LedgerEntry], tuple[object, ...]]
    ):
        """path: the database, in WAL mode with its schema. statement: inserts that many rows. values: of one row."""
        self._path = path
        self._statement = statement
        self._values = values
        self._connection = self._connect()
        self._since_checkpoint = 0
        self._checkpoints = ThreadPoolExecutor(1, thread_name_prefix="embedgate-checkpoint")
        self._checkpoint: Future[None] | None = None

    def insert(self, sizes: Sequence[int], entries: Sequence[LedgerEntry]) -> bool:
        """Commit all the entries and return True; or none, when the database is locked or fails, and return False.

        sizes: how many rows a statement may have, falling to 1.
        """
        run = self._connection.execute
        try:
            run("BEGIN IMMEDIATE")
            done = 0
            for size in sizes:
                while len(entries) - done >= size:
                    rows = [value for entry in entries[done : done + size] for value in self._values(entry)]
                    run(self._statement(size), rows)
                    done += size
            run("COMMIT")
        except (sqlite3.Error, OverflowError):
            self._roll_back()
            return False
        self._since_checkpoint += _PAGES_PER_COMMIT + _PAGES_PER_ENTRY * len(entries)
        if self._since_checkpoint >= _CHECKPOINT_PAGES and (self._checkpoint is None or self._checkpoint.done()):
            self._since_checkpoint = 0
            self._checkpoint = self._checkpoints.submit(self._fold)
        return True

    def close(self) -> None:
        """End the thread and the connection."""
        self._checkpoints.shutdown()
        self._connection.close()

    def _roll_back(self) -> None:
        try:
            self._connection.rollback()
        except sqlite3.Error:
            self._connection.close()
            self._connection = self._connect()

    def _fold(self) -> None:
        """Fold the write-ahead log into the file, as far as readers allow; holds up writers only for the end of it."""
        connection = self._connect()
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            # What came meanwhile is little. Folded too, the log begins anew; else it would only ever grow.
            connection.execute(f"PRAGMA busy_timeout = {_RESTART_WAIT_MS}")
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        except sqlite3.Error:
            pass  # the next one folds more
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=0)
        connection.execute("PRAGMA synchronous = normal")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection
