"""Watch over the ledger's file: whether it can be written, and whether it is still the file of its name.

A commit that has just succeeded answers the first question; only a quiet ledger is written on trial. The second one is
asked several times a second, because SQLite goes on in a file that was deleted, and everything is lost with its end.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from embedgate.observe import events, metrics

_LOOK_S = 0.25
_APART_S = 0.05
"""Between two trials, so that whoever asks for readiness in a loop writes no more than that."""
_LOCK_WAIT_S = 0.5
"""How long a trial waits for another writer's lock: administration holds it for milliseconds."""
_TRIAL = (
    "BEGIN IMMEDIATE",
    "INSERT INTO rules_revision (id, revision) VALUES (-1, 0)",
    "DELETE FROM rules_revision WHERE id = -1",
    "COMMIT",
)
"""Changes nothing, and writes a page all the same."""

_Identity = tuple[int, int]


class WriteWatch:
    """Watch over one database file. `outage` is None while it can be written; read it from any thread.

    `is_replaced` says that the file is not that of its name any more: what is written into it is lost.
    """

    def __init__(self, path: Path, check_s: float, commits: Callable[[], int]) -> None:
        """path: of an open database, in WAL mode. commits: a number that grows with every commit.

        check_s: how long a ledger may be quiet before it is written on trial.
        """
        self.outage: str | None = None
        self.is_replaced = False
        self._path = path
        self._files = (path, path.with_name(f"{path.name}-wal"))
        self._check_s = check_s
        self._commits = commits
        self._seen_commits = commits()
        self._identities: dict[Path, _Identity] = {}
        self._connection: sqlite3.Connection | None = None
        self._checking = threading.Lock()
        self._next_check_s = 0.0
        self._wake = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch, on a thread that ends with `close`."""
        self.check()
        self._thread = threading.Thread(target=self._run, name="embedgate-watch", daemon=True)
        self._thread.start()

    def suspect(self) -> None:
        """Look at once: something has failed. Does not wait."""
        self._wake.set()

    def check(self) -> str | None:
        """Look now, and return the outage. Blocks, for half a second where another process holds the lock."""
        with self._checking:
            if not self._is_closed and time.monotonic() >= self._next_check_s:
                self._set(self._replaced(), self._unwritable())
                self._next_check_s = time.monotonic() + _APART_S
            return self.outage

    def close(self) -> None:
        """End the thread and the connection."""
        self._is_closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _run(self) -> None:
        quiet_s = 0.0
        while not self._is_closed:
            is_urgent = self._wake.wait(_LOOK_S)
            self._wake.clear()
            quiet_s += _LOOK_S
            if is_urgent or self.outage or quiet_s >= self._check_s:
                quiet_s = 0.0
                commits = self._commits()
                is_written, self._seen_commits = commits != self._seen_commits, commits
                if self.outage is None and is_written and not is_urgent:
                    self._look()
                else:
                    self.check()
            else:
                self._look()

    def _look(self) -> None:
        """Compare the files alone, which costs microseconds."""
        if (replaced := self._replaced()) is not None:
            with self._checking:
                self._set(replaced, None)

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
        return None

    def _unwritable(self) -> str | None:
        """Why a trial cannot be written; None if it was."""
        try:
            # Kept open: with the last connection SQLite deletes its log, which would look like somebody else's doing.
            self._connection = self._connection or self._connect()
            for statement in _TRIAL:
                self._connection.execute(statement)
        except sqlite3.Error as error:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()
            return f"the ledger cannot be written: {error}"
        return None

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self._path.resolve().as_uri()}?mode=rw"  # a file that is gone must not be made anew
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_LOCK_WAIT_S)
