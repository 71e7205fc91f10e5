"""Quick commit: small groups of ledger entries and audit events, committed on the event loop in microseconds.

In WAL mode with `synchronous = normal` a commit is a copy into the page cache. Handing it to a thread costs
several times as much, in GIL switches. Nothing here blocks: another process's write lock
is not waited for (the caller then uses the writer thread), and checkpoints, which sync files, run on a thread.
"""

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from embedgate.storage.appender import Appender, Item

_RESTART_WAIT_MS = 20
_CHECKPOINT_PAGES = 1_000
_PAGES_PER_COMMIT = 6
_PAGES_PER_ITEM = 1
"""Rough: the table and each index change at least one page. A WAL that is checkpointed early is reused, not grown."""


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
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            connection.execute("PRAGMA synchronous = normal")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        except sqlite3.Error:
            connection.close()
            raise
        return connection
