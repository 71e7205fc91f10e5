"""Watch over the ledger's file: whether it can be written, and whether it is still the file of its name.

A commit that has just succeeded answers the first question; only a quiet ledger is written on trial. The second one is
asked several times a second, because SQLite goes on in a file that was deleted, or that somebody has written into, and
everything is lost with its end.
"""

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from embedgate.observe import events, metrics
from embedgate.storage.database import connect_existing

_LOOK_S = 0.25
_APART_S = 0.05
"""Between two trials, so that whoever asks for readiness in a loop writes no more than that."""
_LOCK_WAIT_S = 0.5
"""How long a trial waits for another writer's lock: most changes of administration hold it for milliseconds."""
_CHANGE_S = 5.0
"""How long a change of this process may hold it: one weighs the whole catalogue, which takes long on a busy machine."""
_TRIAL = (
    "BEGIN IMMEDIATE",
    "INSERT INTO rules_revision (id, revision) VALUES (-1, 0)",
    "DELETE FROM rules_revision WHERE id = -1",
    "COMMIT",
)
"""Changes nothing, and writes a page all the same."""

_MAGIC = b"SQLite format 3\0"
_COUNTER = slice(24, 28)
"""Where the header of a database counts the changes of its first page: https://www.sqlite.org/fileformat.html."""
_HEADER_BYTES = 100

_Identity = tuple[int, int]


class _Content:
    """What the file of the name holds: whether it is still what SQLite wrote.

    SQLite alone writes to it, at checkpoints, and shortens it only to the size that it has itself. A copy that is
    put into it in place, such as a backup, keeps the file's identity; the counter in its header goes back.
    """

    def __init__(self, path: Path) -> None:
        """path: of the database. Raises OSError."""
        # Open as long as the database is: to close any descriptor of it drops all locks that this process has on it.
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size_bytes = 0
        self._counter = 0

    def fault(self, pages_bytes: Callable[[], int | None]) -> str | None:
        """What somebody else has done to it; None if nothing is seen. pages_bytes: what SQLite takes its size for."""
        size_bytes = os.fstat(self._file).st_size
        if size_bytes < self._size_bytes:
            expected = pages_bytes()
            if expected is None or size_bytes < expected:
                return "was cut"
        if not size_bytes:
            return None  # nothing was written to it yet
        header = os.pread(self._file, _HEADER_BYTES, 0)
        if not header.startswith(_MAGIC):
            return "was overwritten"
        counter = int.from_bytes(header[_COUNTER], "big")
        if counter < self._counter:
            return "was overwritten by an older or another database"
        self._size_bytes, self._counter = size_bytes, counter
        return None

    def close(self) -> None:
        """Let go of it, once the database is closed."""
        os.close(self._file)


class WriteWatch:
    """Watch over one database file. `outage` is None while it can be written; read it from any thread.

    `is_replaced` says that the file is not that of its name any more: what is written into it is lost.
    """

    def __init__(
        self,
        path: Path,
        check_s: float,
        commits: Callable[[], int],
        beside: Callable[[], str | None],
        has_writer: Callable[[], bool],
    ) -> None:
        """path: of an open database, in WAL mode. commits: a number that grows with every commit.

        check_s: how long a ledger may be quiet before it is written on trial. beside: an outage of what is written
        beside it; called as often as the files are looked at. has_writer: whether this process holds the lock.
        """
        self._beside = beside
        self._has_writer = has_writer
        self.outage: str | None = None
        self.is_replaced = False
        self._path = path
        self._files = (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"))
        self._content: _Content | None = None
        self._check_s = check_s
        self._commits = commits
        self._seen_commits = commits()
        self._identities: dict[Path, _Identity] = {}
        self._connection: sqlite3.Connection | None = None
        self._checking = threading.Lock()
        self._next_check_s = 0.0
        self._changing_since_s: float | None = None
        """Since when no trial could be written because a change of this process holds the lock."""
        self._wake = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch, on a thread that ends with `close`."""
        with contextlib.suppress(OSError):  # then the first look says that it is gone
            self._content = _Content(self._path)
        self.check()
        self._measure()
        self._thread = threading.Thread(target=self._run, name="embedgate-watch", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it was started."""
        return self._thread is not None

    def suspect(self) -> None:
        """Look at once: something has failed. Does not wait."""
        self._wake.set()

    def check(self) -> str | None:
        """Look now, and return the outage. Blocks, for half a second where another process holds the lock."""
        with self._checking:
            if not self._is_closed and time.monotonic() >= self._next_check_s:
                replaced = self._replaced()
                # In a file of others nothing is tried, and nothing made anew beside it.
                self._set(replaced, None if replaced else self._unwritable() or self._beside())
                self._next_check_s = time.monotonic() + _APART_S
            return self.outage

    def close(self) -> None:
        """End the thread and the connection. `release` follows once the database is closed."""
        self._is_closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def release(self) -> None:
        """Let go of the file."""
        if self._content is not None:
            self._content.close()
            self._content = None

    def _run(self) -> None:
        quiet_s = 0.0
        while not self._is_closed:
            is_urgent = self._wake.wait(_LOOK_S)
            self._wake.clear()
            self._measure()
            quiet_s += _LOOK_S
            if is_urgent or self.outage or quiet_s >= self._check_s:
                quiet_s = 0.0
                commits = self._commits()
                is_written, self._seen_commits = commits != self._seen_commits, commits
                if self.outage is None and is_written and not is_urgent:
                    self.look()
                else:
                    self.check()
            else:
                self.look()

    def look(self) -> None:
        """Look at the files alone, which costs microseconds."""
        with self._checking:
            replaced = self._replaced()
            beside = self._beside() if replaced is None else None
            if replaced is not None or beside is not None:
                self._set(replaced, beside)

    def _measure(self) -> None:
        """Tell the metrics how much is free on the disk, and how much the database takes."""
        with contextlib.suppress(OSError):
            size_bytes = sum(file.stat().st_size for file in self._files if file.exists())
            metrics.disk_now(shutil.disk_usage(self._path.parent).free, size_bytes)

    def _set(self, replaced: str | None, unwritable: str | None) -> None:
        before, self.outage = self.outage, replaced or unwritable
        self.is_replaced = replaced is not None
        if self.outage != before:
            metrics.ledger_writable(is_writable=self.outage is None)
            if self.outage is not None:
                events.LEDGER_UNAVAILABLE.emit(reason=self.outage)
            else:
                events.LEDGER_AVAILABLE.emit()

    def _replaced(self) -> str | None:
        """What has become of a file that was open before. The log of SQLite is there from the first write on."""
        for file in self._files:
            try:
                found = file.stat()
            except OSError:
                if file in self._identities:
                    return f"{file} was deleted under the gateway; put it back, or restart"
                continue
            identity = (found.st_dev, found.st_ino)
            if self._identities.setdefault(file, identity) != identity:
                return f"{file} was replaced by another file under the gateway; put it back, or restart"
        fault = self._content.fault(self._pages_bytes) if self._content is not None else None
        return f"{self._path} {fault} under the gateway; stop it, and restore a backup" if fault else None

    def _pages_bytes(self) -> int | None:
        """The size of the database by SQLite's own account; None if it cannot say."""
        try:
            connection = self._connection = self._connection or connect_existing(self._path, _LOCK_WAIT_S)
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (size_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        except sqlite3.Error:
            return None
        return int(pages * size_bytes)

    def _unwritable(self) -> str | None:
        """Why a trial cannot be written; None if it was."""
        try:
            # Kept open: with the last connection SQLite deletes its log, which would look like somebody else's doing.
            self._connection = self._connection or connect_existing(self._path, _LOCK_WAIT_S)
            for statement in _TRIAL:
                self._connection.execute(statement)
        except sqlite3.Error as error:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()
            if _is_locked(error) and self._has_writer():
                now_s = time.monotonic()
                self._changing_since_s = self._changing_since_s or now_s
                if now_s - self._changing_since_s < _CHANGE_S:
                    return None  # what waits for a change of our own is written after it
            return f"the ledger cannot be written: {error}"
        self._changing_since_s = None
        return None


def _is_locked(error: sqlite3.Error) -> bool:
    code: int | None = getattr(error, "sqlite_errorcode", None)  # errors of the driver itself have none
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY
