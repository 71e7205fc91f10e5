"""Candidate for the disk tier of the vector cache: one SQLite file per generation. Only `bench.cache_tier` uses it.

Complete where the figures depend on it: checksum of each row, eviction of whole generations, bound in bytes, several
processes on one folder, full disk, clear. Not done: a damaged file is not set aside, and a row that fails its checksum
is a miss until its key is put again.

The youngest generation is in WAL mode, and the process that holds the lock of the folder writes it. Older ones never
change and are attached as immutable, so that reading them takes no file lock. One statement looks a single key up in
all generations, because each step of a statement releases the GIL.
"""

import contextlib
import re
import shutil
import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from embedgate.core.types import CachedVector
from embedgate.storage.cache.disk import DiskTier
from embedgate.storage.cache.files import Damaged
from embedgate.storage.cache.generation import Rejected
from embedgate.storage.cache.record import HEADER_BYTES, Entry, checksum, encode, record_bytes
from embedgate.storage.cache.store import GENERATIONS, Found, State, StateFile, Store, create_state
from embedgate.storage.folder import locked

_STATE = "state"
_GENERATION = re.compile(r"generation-(\d{10})\.sqlite")
_PAGE_BYTES = 32_768
_ROWS_PER_INSERT = 64
_KEYS_PER_SELECT = 64
_PREFIX = struct.Struct("<IQ")  # checksum, number of the generation
_HEADER = struct.Struct("=BBxxIqq")
_INSERT_ROW = "(?, ?)"
_SELECT = "(SELECT record FROM {name}.vectors WHERE half = ? ORDER BY id DESC LIMIT 1)"
_SELECT_NUMBERED = _SELECT.replace("?", "?{number}")


class SqliteTier(DiskTier):
    """The disk tier with SQLite files. A look-up of many keys reads a row for each: least CPU."""

    _is_wide = False

    def _open_store(self) -> Store:
        return cast("Store", SqliteStore(self._folder, self._max_bytes, is_wide=self._is_wide))


class SqliteWideTier(SqliteTier):
    """The same. A look-up of many keys reads rows of 64 columns, a key in each: fewest GIL switches."""

    _is_wide = True


class SqliteStore:
    """An open folder of SQLite generations. All methods raise OSError or Damaged.

    `state`, `find` and `usage` may be called from any thread; all else by one thread at a time.
    """

    def __init__(self, folder: Path, max_bytes: int, *, is_wide: bool) -> None:
        """Open the folder, making it if it is missing. max_bytes: of all files together."""
        self.evictions = 0
        self._is_wide = is_wide
        self._folder = folder
        # The write-ahead log holds a commit of a group and what waits for the checkpoint.
        log_bytes = min(16_000_000, max_bytes // 16)
        self._max_bytes = max_bytes - 262_144 - log_bytes
        self._capacity_bytes = self._max_bytes // GENERATIONS // _PAGE_BYTES * _PAGE_BYTES
        self._max_log_bytes = log_bytes // 4
        self._opened: tuple[sqlite3.Connection | None, int] = None, 0  # replaced as one, for readers on other threads
        self._writer: sqlite3.Connection | None = None
        self._numbers: list[int] = []
        self._reading = threading.Lock()  # a connection of Python takes one statement at a time
        self._statements: dict[tuple[int, int], str] = {}
        with _errors(), locked(folder):
            self._state_file = self._open_state()
            self._state = State()
            self._make_room(0)
            self._adopt()

    def state(self) -> State:
        """Which generations live, as last decided by any process."""
        return self._state_file.read()

    def is_in_place(self) -> bool:
        """Whether the folder is still the one that was opened."""
        return self._state_file.is_in_place()

    def find(self, keys: Sequence[bytes], state: State) -> Found:
        """The newest entry of each key in the generations that live by `state`."""
        found = Found({}, [])
        reader, n_generations = self._opened
        if reader is None or state.clears != self._state.clears:
            return found
        try:
            with self._reading:
                if self._is_wide or len(keys) == 1:
                    self._find_wide(reader, n_generations, keys, found)
                else:
                    self._find_rows(reader, n_generations, keys, found)
        except sqlite3.DatabaseError as error:
            raise _as_own(error) from error
        return found

    def _find_wide(self, reader: sqlite3.Connection, n_generations: int, keys: Sequence[bytes], found: Found) -> None:
        width = 1 if len(keys) == 1 else _KEYS_PER_SELECT
        statement = self._select(n_generations, width)
        for first in range(0, len(keys), width):
            group = keys[first : first + width]
            halves: list[int | None] = [_half(key) for key in group]
            halves += [None] * (width - len(group))
            [row] = reader.execute(statement, halves)
            for key, record in zip(group, row, strict=False):
                if record is not None:
                    _take(key, record, found)

    def _find_rows(self, reader: sqlite3.Connection, n_generations: int, keys: Sequence[bytes], found: Found) -> None:
        missing = {_half(key): key for key in keys}
        for position in range(n_generations):
            marks = ", ".join("?" * len(missing))
            select = f"SELECT half, record FROM {_schema(position)}.vectors WHERE half IN ({marks}) ORDER BY id"
            newest = dict(reader.execute(select, list(missing)))
            for half, record in newest.items():
                _take(missing.pop(half), record, found)
            if not missing:
                break

    def follow(self, _rejected: Sequence[object]) -> None:
        """Open and close generations as any process has decided."""
        with _errors(), locked(self._folder):
            self._adopt()

    def groups(self, items: Sequence[tuple[bytes, Entry]]) -> Iterator[list[tuple[bytes, Entry]]]:
        """The items that can be stored at all, in groups that one commit takes."""
        max_bytes = min(4_000_000, self._capacity_bytes // 64)
        group: list[tuple[bytes, Entry]] = []
        size = 0
        for key, entry in items:
            length = record_bytes(entry)
            if length > self._capacity_bytes // 2:
                continue
            if group and (len(group) == 1024 or size + length > max_bytes):
                yield group
                group, size = [], 0
            group.append((key, entry))
            size += length
        if group:
            yield group

    def append(self, group: Sequence[tuple[bytes, Entry]]) -> int:
        """Store a group, making room if it must. Returns how many entries are now on disk."""
        with _errors(), locked(self._folder):
            self._adopt()
            group = [(key, entry) for key, entry in group if entry.generation >= self._state.oldest]
            if not group:
                return 0
            if self._writer is None or not self._insert(self._writer, self._rows(group)):
                self._begin_generation()
                if self._writer is None or not self._insert(self._writer, self._rows(group)):
                    return 0
            return len(group)

    def clear(self) -> None:
        """Forget everything, for all processes."""
        with _errors(), locked(self._folder):
            old = self._state_file.read()
            self._state_file.write(State(old.clears + 1, old.youngest + 2, old.youngest + 1))
            self._make_room(0)
            self._adopt()

    def usage(self) -> tuple[int, int]:
        """Entries and bytes of all generations."""
        entries = sum(self._n_entries(position) for position in range(len(self._numbers)))
        return entries, sum(path.stat().st_blocks * 512 for path in self._folder.glob("generation-*"))

    def close(self) -> None:
        """Close all files."""
        self._disconnect()
        self._state_file.close()

    # Everything below runs under the lock of the folder.

    def _rows(self, group: Sequence[tuple[bytes, Entry]]) -> list[int | bytes]:
        rows: list[int | bytes] = []
        number = self._numbers[0]
        for key, entry in group:
            header, floats = encode(entry)
            rows += (_half(key), b"".join((_PREFIX.pack(checksum(key, header, floats), number), header, floats)))
        return rows

    def _insert(self, writer: sqlite3.Connection, rows: Sequence[int | bytes]) -> bool:
        """Insert and commit. False if the generation is full."""
        width = 2 * _ROWS_PER_INSERT
        try:
            writer.execute("BEGIN IMMEDIATE")
            for first in range(0, len(rows), width):
                part = rows[first : first + width]
                values = ", ".join([_INSERT_ROW] * (len(part) // 2))
                writer.execute(f"INSERT INTO vectors (half, record) VALUES {values}", part)
            writer.execute("COMMIT")
        except sqlite3.OperationalError as error:
            with contextlib.suppress(sqlite3.OperationalError):
                writer.execute("ROLLBACK")
            pages = writer.execute("PRAGMA page_count").fetchone()[0]
            is_bound = pages * _PAGE_BYTES > self._capacity_bytes * 0.9
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL and is_bound:
                return False
            raise
        log = self._path(self._numbers[0]).with_suffix(".sqlite-wal")
        if log.stat().st_size > self._max_log_bytes:
            with contextlib.suppress(
                sqlite3.OperationalError
            ):  # the rows are in the log, and the next commit tries again
                writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return True

    def _begin_generation(self) -> None:
        self._seal()
        state = self._make_room(self._capacity_bytes)
        number = state.youngest + 1
        path = self._path(number)
        _delete(path)
        created = sqlite3.connect(path, isolation_level=None)
        created.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        created.execute("PRAGMA journal_mode = WAL")
        created.execute("CREATE TABLE vectors (id INTEGER PRIMARY KEY, half INTEGER NOT NULL, record BLOB NOT NULL)")
        created.execute("CREATE INDEX by_half ON vectors (half)")
        created.close()
        self._state_file.write(state._replace(youngest=number))
        self._adopt()

    def _seal(self) -> None:
        """Move the write-ahead log of the youngest generation into its file, after which it never changes."""
        if self._writer is not None:
            self._writer.execute("PRAGMA busy_timeout = 2000")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _open_state(self) -> StateFile:
        path = self._folder / _STATE
        try:
            return StateFile(path)
        except FileNotFoundError:
            newest = max(self._on_disk(), default=0)
            create_state(path, State(0, newest + 1, newest))
            return StateFile(path)

    def _adopt(self) -> None:
        """Have those generations open that live."""
        state = self._state_file.read()
        if state == self._state:
            return
        self._disconnect()
        numbers = sorted((n for n in self._on_disk() if state.oldest <= n <= state.youngest), reverse=True)
        if numbers:
            self._writer = self._connect(numbers[0])
            reader = self._connect(numbers[0])
            for position, number in enumerate(numbers[1:], start=1):
                reader.execute(f"ATTACH ? AS g{position}", (f"file:{self._path(number)}?immutable=1",))
                reader.execute(f"PRAGMA g{position}.mmap_size = {2 * self._capacity_bytes}")
            self._opened = reader, len(numbers)
        self._numbers = numbers
        self._state = state

    def _connect(self, number: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{self._path(number)}", uri=True, isolation_level=None, check_same_thread=False, timeout=0.5
        )
        for pragma in (
            "synchronous = OFF",
            "secure_delete = OFF",
            "wal_autocheckpoint = 0",
            "cache_size = -8000",
            f"mmap_size = {2 * self._capacity_bytes}",
            f"max_page_count = {self._capacity_bytes // _PAGE_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def _disconnect(self) -> None:
        # Closed when the last user drops it: closing one that another thread reads from ends the process (SIGSEGV).
        self._opened = None, 0
        self._writer = None
        self._numbers = []
        self._state = State()

    def _make_room(self, room_bytes: int) -> State:
        """Delete generations that do not live, then the oldest until all keep the bound with `room_bytes` to spare."""
        state = self._state_file.read()
        live = sorted(number for number in self._on_disk() if state.oldest <= number <= state.youngest)
        for number in set(self._on_disk()).difference(live):
            _delete(self._path(number))
        oldest = state.oldest
        sizes = {number: self._path(number).stat().st_size for number in live}
        while sizes and room_bytes + sum(sizes.values()) > self._max_bytes:
            dropped = min(sizes)
            del sizes[dropped]
            if dropped in self._numbers:
                self.evictions += self._n_entries(self._numbers.index(dropped))
            _delete(self._path(dropped))
            oldest = dropped + 1
        if oldest != state.oldest:
            state = state._replace(oldest=oldest)
            self._state_file.write(state)
        return state

    def _n_entries(self, position: int) -> int:
        reader, n_generations = self._opened
        if reader is None or position >= n_generations:
            return 0
        with self._reading:
            return int(reader.execute(f"SELECT count(*) FROM {_schema(position)}.vectors").fetchone()[0])

    def _select(self, n_generations: int, width: int) -> str:
        """One row with a column for each of `width` keys: its record in the youngest generation that has one."""
        statement = self._statements.get((n_generations, width))
        if statement is None:
            columns = []
            for number in range(1, width + 1):
                parts = [_SELECT_NUMBERED.format(name=_schema(p), number=number) for p in range(n_generations)]
                columns.append(parts[0] if len(parts) == 1 else f"coalesce({', '.join(parts)})")
            statement = self._statements[n_generations, width] = f"SELECT {', '.join(columns)}"
        return statement

    def _on_disk(self) -> Iterator[int]:
        for path in list(self._folder.iterdir()):
            if match := _GENERATION.fullmatch(path.name):
                yield int(match.group(1))

    def _path(self, number: int) -> Path:
        return self._folder / f"generation-{number:010}.sqlite"


def _schema(position: int) -> str:
    return f"g{position}" if position else "main"


def _half(key: bytes) -> int:
    """Half of a key, as the index holds it; the checksum covers the whole."""
    return int.from_bytes(key[:8], "little", signed=True)


def _take(key: bytes, record: bytes, found: Found) -> None:
    """Add the entry of a record, or count it as rejected."""
    value, number = _PREFIX.unpack_from(record)
    view = memoryview(record)[_PREFIX.size :]
    if checksum(key, view[:HEADER_BYTES], view[HEADER_BYTES:]) != value:
        found.rejected.append(Rejected(number, key, b""))
        return
    _, flags, dim, tokens, created_ms = _HEADER.unpack_from(view)
    vector = np.ndarray((dim,), np.float32, record, _PREFIX.size + HEADER_BYTES)
    found.entries[key] = Entry(CachedVector(vector, tokens, bool(flags & 1)), created_ms, number)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _as_own(error) from error


def _as_own(error: sqlite3.DatabaseError) -> Exception:
    """A full disk, a lock or a broken device is an OSError, all else is damage."""
    if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY):
        return OSError(str(error))
    return Damaged(str(error))


def _delete(path: Path) -> None:
    for each in (path, path.with_suffix(".sqlite-wal"), path.with_suffix(".sqlite-shm")):
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)
