"""Kept answers: what requests with an idempotency key were answered, in a file of their own, for a day.

The file is beside the database, so that answers, which may be large, swell neither it nor its backups. Keys of callers
are kept as digests. Bounded in number and bytes, for each API key and together: the oldest answers go first.
"""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from embedgate.core.clock import utc_ms
from embedgate.core.errors import ConfigError, InternalError
from embedgate.observe import events
from embedgate.settings import IdempotencySettings
from embedgate.storage.folder import create_empty

_FILE = "answers.db"
_DAMAGED = ".damaged"
_BUSY_S = 2.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, owner TEXT NOT NULL, digest BLOB NOT NULL, status INTEGER NOT NULL, headers BLOB NOT NULL,
    body BLOB, size_bytes INTEGER NOT NULL, at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_of_owner ON answers (owner, at_ms, size_bytes);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (at_ms, size_bytes);
"""
_OVERHEAD_BYTES = 512
"""What a row takes beside the answer, so that many small ones count, too."""
_EVICTED_AT_ONCE = 64

T = TypeVar("T")


class KeptAnswer(NamedTuple):
    """An answer. `digest` is of the request. `body` is None where only the fact is kept that it was answered."""

    digest: bytes
    status: int
    headers: bytes
    body: bytes | None


class AnswerStore:
    """Kept answers on disk, for the event loop. The file is made when the first request comes with a key."""

    def __init__(self, folder: Path, bounds: IdempotencySettings, now_ms: Callable[[], int] = utc_ms) -> None:
        """folder: the data folder. now_ms: UTC milliseconds."""
        self._path = folder / _FILE
        self._bounds = bounds
        self._now_ms = now_ms
        self._connection: sqlite3.Connection | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="embedgate-answers")

    async def find(self, owner: str, key: bytes) -> KeptAnswer | None:
        """The answer that was kept for a key of an owner; None if there is none. Raises InternalError."""
        return await self._aside(lambda: self._find(owner, key))

    async def keep(self, owner: str, key: bytes, answer: KeptAnswer) -> None:
        """Keep an answer; return once it is on disk. Raises InternalError."""
        await self._aside(lambda: self._keep(owner, key, answer))

    async def forget(self, owner: str, key: bytes) -> None:
        """Free a key of an owner. Raises InternalError."""
        await self._aside(lambda: self._forget(owner, key))

    def close(self) -> None:
        """Write what is pending, and close the file."""
        self._worker.submit(self._close).result()
        self._worker.shutdown()

    async def _aside(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._mended, work)
        except (sqlite3.Error, OSError, ConfigError) as error:
            raise InternalError(f"the answers to idempotency keys cannot be kept: {error}") from error

    def _mended(self, work: Callable[[], T]) -> T:
        """What `work` returns. A file that is damaged is set aside, as one may delete it, and a new one begun."""
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # locked, full: its classes beneath are of a sound file
                raise
            self._close()
            self._path.replace(self._path.with_suffix(_DAMAGED))
            for log in ("-wal", "-shm"):
                self._path.with_name(_FILE + log).unlink(missing_ok=True)
            events.ANSWERS_SET_ASIDE.emit(reason=str(error))
            return work()

    def _find(self, owner: str, key: bytes) -> KeptAnswer | None:
        row = (
            self._open()
            .execute(
                "SELECT digest, status, headers, body FROM answers WHERE key = ? AND at_ms > ?",
                (_digest(owner, key), self._oldest_ms()),
            )
            .fetchone()
        )
        return KeptAnswer._make(row) if row else None

    def _keep(self, owner: str, key: bytes, answer: KeptAnswer) -> None:
        connection, bounds = self._open(), self._bounds
        size_bytes = len(answer.body or b"") + len(answer.headers) + _OVERHEAD_BYTES
        with connection:
            connection.execute("DELETE FROM answers WHERE at_ms <= ?", (self._oldest_ms(),))
            connection.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (_digest(owner, key), owner, *answer, size_bytes, self._now_ms()),
            )
            self._evict("owner = ?", (owner,), bounds.max_answers_per_key, bounds.max_bytes_per_key)
            self._evict("1", (), bounds.max_answers, bounds.max_bytes)

    def _forget(self, owner: str, key: bytes) -> None:
        with (connection := self._open()):
            connection.execute("DELETE FROM answers WHERE key = ?", (_digest(owner, key),))

    def _evict(self, which: str, values: tuple[str, ...], max_answers: int, max_bytes: int) -> None:
        """Delete the oldest answers among some until they are within the bounds."""
        run = self._open().execute
        while True:
            # A covering index: the bodies are not read.
            n, size = run(f"SELECT count(*), total(size_bytes) FROM answers WHERE {which}", values).fetchone()  # noqa: S608 - constants of ours
            if n <= max_answers and size <= max_bytes:
                return
            few = max(1, min(_EVICTED_AT_ONCE, n - max_answers))
            run(
                f"DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE {which} ORDER BY at_ms LIMIT {few})",  # noqa: S608 - as above
                values,
            )

    def _oldest_ms(self) -> int:
        return self._now_ms() - int(self._bounds.keep_s * 1000)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            create_empty(self._path)
            # The worker is the only thread that uses it, but for `close`.
            self._connection = sqlite3.connect(self._path, timeout=_BUSY_S)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = normal")
            self._connection.executescript(_SCHEMA)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _digest(owner: str, key: bytes) -> bytes:
    return hashlib.sha256(b"%s\0%s" % (owner.encode(), key)).digest()
