"""Store in one SQLite file: exact search over float32 vectors, keywords by FTS5, every change one transaction.

Tables of a generation carry its number: `items_1`, `contents_1`, `vectors_1`, `words_1`. Vectors have a table without
anything else, so that reading them all is reading the file from one place on.
"""

import errno
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import orjson

from embedgate.core.errors import Conflict, InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.collections.exact import MAX_HELD_BYTES, Block, Held, Rows, best_scores, nearest_rows
from embedgate.toolkit.collections.filters import Compare, Filter, kind_of, sql_of
from embedgate.toolkit.collections.store import Entry, Facts, Generation, Hit, Item, Store, metadata_json
from embedgate.toolkit.embedding import Progress

_FORMAT = 1
_LOCKED_S = 60.0
"""Wait for another process that writes; a batch takes it some milliseconds."""
_PAGE_BYTES = 16_384
"""Vectors of 384 numbers fill such a page to 94 %; the usual 4,096 bytes, to 75 %."""
_BLOCK_BYTES = 16_000_000
_PARAMETERS = 500
_APPLICATION_ID = 0x65676331

_TABLES = """
create table items_{n} (
    row integer primary key autoincrement, id text not null unique, digest text not null, details text not null,
    source text not null);
create index digests_{n} on items_{n} (digest);
create table contents_{n} (row integer primary key, text text not null, metadata text not null);
create table vectors_{n} (row integer primary key, vector blob not null);
create virtual table words_{n} using fts5 (
    text, content='contents_{n}', content_rowid='row', tokenize='unicode61 remove_diacritics 2');
create trigger added_{n} after insert on contents_{n} begin
    insert into words_{n} (rowid, text) values (new.row, new.text); end;
create trigger removed_{n} after delete on contents_{n} begin
    insert into words_{n} (words_{n}, rowid, text) values ('delete', old.row, old.text); end;
"""


class SqliteStore(Store):
    """Store in one file. Thread-safe; several processes may read while one writes."""

    has_keywords = True
    is_exact = True

    def __init__(self, path: Path, *, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        """Open a file that `create` made. max_held_bytes: vectors that are kept in memory for the next search.

        Raises OSError, or InvalidInput if the file is something else.
        """
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "there is no such collection", str(path))
        self._path = path
        self._max_held_bytes = max_held_bytes
        self._lock = threading.RLock()
        self._held: dict[int, Held] = {}
        self._seen_version = -1
        self._is_changed = True
        with self._faults():
            self._db = _connect(path)
            self._check()

    @classmethod
    def create(cls, path: Path, facts: Facts) -> "SqliteStore":
        """Make the file of an empty collection. Raises Conflict if there is one, OSError."""
        draft = path.with_name(f".{path.name}.new")
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in _files(draft):
            leftover.unlink(missing_ok=True)
        with _Faults(path):
            db = sqlite3.connect(draft, isolation_level=None)
            db.executescript(
                f"pragma page_size = {_PAGE_BYTES}; pragma auto_vacuum = incremental; pragma journal_mode = wal;"
                f"pragma application_id = {_APPLICATION_ID}; pragma user_version = {_FORMAT};"
                "create table facts (content text not null);" + _TABLES.format(n=1)
            )
            db.execute("insert into facts values (?)", [facts.to_json()])
            db.close()
            try:
                path.hardlink_to(draft)  # fails if the name is taken, which a rename does not
            except FileExistsError as error:
                raise Conflict(f"There is a collection {facts.name!r} already.") from error
            finally:
                draft.unlink()
        return cls(path)

    def facts(self) -> Facts:
        """What the collection is now."""
        with self._reading():
            return self._facts()

    def begin(self, model: str, space: str, dim: int, wanted_dim: int | None) -> Generation:
        """Make the tables of a new generation."""
        with self._writing():
            facts = self._facts()
            generation = Generation(facts.n_made + 1, model, space, dim, wanted_dim)
            for statement in _statements(_TABLES.format(n=generation.number)):
                self._db.execute(statement)
            self._save(facts.with_generation(generation))
        return generation

    def discard(self, number: int) -> None:
        """Drop the tables of a generation, and give their pages back to the disk."""
        with self._writing():
            facts = self._facts().without_generation(number)
            for table in ("words", "contents", "vectors", "items"):
                self._db.execute(f"drop table {table}_{number:d}")
            self._save(facts)
            self._held.pop(number, None)
        with self._faults():
            self._db.execute("pragma incremental_vacuum").fetchall()
            self._db.execute("pragma wal_checkpoint(truncate)").fetchall()

    def switch(self, number: int) -> bool:
        """One transaction: compared and switched."""
        with self._writing():
            facts = self._facts()
            columns = "id, digest, details"
            one, other = f"select {columns} from items_{facts.serving:d}", f"select {columns} from items_{number:d}"
            for sql in (f"{one} except {other}", f"{other} except {one}"):
                if self._db.execute(f"{sql} limit 1").fetchone() is not None:
                    return False
            self._save(facts.with_switch(number))
        return True

    def entries(self, number: int) -> Iterator[Entry]:
        """Read in pages, so that nothing is locked between them."""
        last = 0
        sql = f"select row, id, digest, details, source from items_{number:d} where row > ? order by row limit 10000"
        while True:
            with self._reading():
                found = self._db.execute(sql, [last]).fetchall()
            if not found:
                return
            yield from (Entry(*rest) for _, *rest in found)
            last = found[-1][0]

    def get(self, number: int, ids: Sequence[str]) -> list[Item]:
        """By id, from the tables of items and contents."""
        sql = (
            f"select id, text, source, metadata from items_{number:d} join contents_{number:d} using (row) "
            "where id in (select value from json_each(?))"
        )
        found = {}
        with self._reading():
            for part in _parts(ids):
                for item_id, text, source, metadata in self._db.execute(sql, [orjson.dumps(part).decode()]):
                    found[item_id] = Item(item_id, text, source, orjson.loads(metadata))
        return [found[item_id] for item_id in ids if item_id in found]

    def vectors_of(self, number: int, digests: Sequence[str]) -> dict[str, Vectors]:
        """By digest, which has an index."""
        sql = (
            f"select digest, vector from items_{number:d} join vectors_{number:d} using (row) "
            "where digest in (select value from json_each(?)) group by digest"
        )
        found = {}
        with self._reading():
            for part in _parts(digests):
                for digest, vector in self._db.execute(sql, [orjson.dumps(part).decode()]):
                    found[digest] = np.frombuffer(vector, dtype="<f4").astype(np.float32)
        return found

    def put(self, number: int, items: Sequence[Item], vectors: Vectors) -> None:
        """One transaction: what has the same ids is deleted first."""
        raw = np.ascontiguousarray(vectors, dtype="<f4")
        metadata = [metadata_json(item).decode() for item in items]
        with self._writing():
            self._remove(number, [item.id for item in items])
            made = self._db.execute("select seq from sqlite_sequence where name = ?", [f"items_{number:d}"]).fetchone()
            first = (made[0] if made else 0) + 1
            self._db.executemany(
                f"insert into items_{number:d} values (?, ?, ?, ?, ?)",
                [(row, item.id, item.digest, item.details, item.source) for row, item in enumerate(items, first)],
            )
            self._db.executemany(
                f"insert into contents_{number:d} values (?, ?, ?)",
                [(row, item.text, meta) for row, (item, meta) in enumerate(zip(items, metadata, strict=True), first)],
            )
            self._db.executemany(
                f"insert into vectors_{number:d} values (?, ?)",
                [(row, vector.tobytes()) for row, vector in enumerate(raw, first)],
            )

    def remove(self, number: int, ids: Sequence[str]) -> int:
        """One transaction."""
        with self._writing():
            return self._remove(number, ids)

    def count(self, number: int) -> int:
        """By an index."""
        with self._reading():
            return self._count(number)

    def nearest(self, number: int, query: Vectors, k: int, where: Filter | None = None) -> list[Hit]:
        """Exact: every vector is compared. Ties are in the order in which they were put."""
        with self._reading():
            allowed = None if where is None else self._allowed(number, where)
            found = nearest_rows(self._blocks(number), np.asarray(query, dtype=np.float32), k, allowed)
            return self._hits(number, found)

    def best_scores(self, number: int, queries: Vectors) -> list[float]:
        """One pass over all vectors, whatever the number of queries."""
        with self._reading():
            return best_scores(self._blocks(number), queries)

    def with_words(self, number: int, words: Sequence[str], k: int, where: Filter | None = None) -> list[Hit]:
        """By BM25 of FTS5; a text needs one of the words."""
        if not words:
            return []
        question = " OR ".join('"' + word.replace('"', '""') + '"' for word in words)
        condition, values = ("true", []) if where is None else sql_of(where, _comparison)
        table = f"words_{number:d}"
        sql = (
            f"select {table}.rowid, -bm25({table}) from {table} join contents_{number:d} on row = {table}.rowid "
            f"where {table} match ? and {condition} order by 2 desc, 1 limit ?"
        )
        with self._reading():
            return self._hits(number, self._db.execute(sql, [question, *values, k]).fetchall())

    def optimize(self, number: int, on_progress: Progress | None = None) -> None:
        """Nothing to do."""

    def unindexed(self, number: int) -> int:  # noqa: ARG002 - of the port
        """There is no index."""
        return 0

    def size_bytes(self) -> int:
        """The file, and what of the write-ahead log is not in it yet."""
        return sum(file.stat().st_size for file in _files(self._path) if file.exists())

    def close(self) -> None:
        """Close the file, and forget the vectors that are held."""
        with self._lock:
            self._held.clear()
            self._db.close()

    def destroy(self) -> None:
        """Delete the file."""
        self.close()
        for file in _files(self._path):
            file.unlink(missing_ok=True)

    def _check(self) -> None:
        application = self._db.execute("pragma application_id").fetchone()[0]
        version = self._db.execute("pragma user_version").fetchone()[0]
        if application != _APPLICATION_ID:
            raise InvalidInput(f"{self._path} is not a collection.", param="name")
        if version > _FORMAT:
            raise InvalidInput(f"{self._path} was written by a newer embedgate. Install that.", param="name")

    def _facts(self) -> Facts:
        return Facts.from_json(self._db.execute("select content from facts").fetchone()[0])

    def _save(self, facts: Facts) -> None:
        self._db.execute("update facts set content = ?", [facts.to_json()])

    def _count(self, number: int) -> int:
        return int(self._db.execute(f"select count(*) from items_{number:d}").fetchone()[0])

    def _remove(self, number: int, ids: Sequence[str]) -> int:
        rows: list[int] = []
        sql = f"select row from items_{number:d} where id in (select value from json_each(?))"
        for part in _parts(ids):
            rows += [row for (row,) in self._db.execute(sql, [orjson.dumps(part).decode()])]
        for table in ("contents", "vectors", "items"):
            self._db.executemany(f"delete from {table}_{number:d} where row = ?", [(row,) for row in rows])
        return len(rows)

    def _allowed(self, number: int, where: Filter) -> Rows:
        sql, values = sql_of(where, _comparison)
        found = self._db.execute(f"select row from contents_{number:d} where {sql} order by row", values)
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def _hits(self, number: int, found: Iterable[tuple[int, float]]) -> list[Hit]:
        sql = f"select id from items_{number:d} where row = ?"
        return [Hit(self._db.execute(sql, [row]).fetchone()[0], float(score)) for row, score in found]

    def _blocks(self, number: int) -> Iterator[Block]:
        """All vectors: those held, brought up to date, or from the file if they are too many."""
        dim = self._facts().generation(number).dim
        version = self._db.execute("pragma data_version").fetchone()[0]
        if self._is_changed or version != self._seen_version:
            for each in list(self._held):
                self._refresh(each)
            self._is_changed, self._seen_version = False, version
        if number in self._held:
            return self._held[number].blocks()
        n = self._count(number)
        if n * dim * 4 > self._max_held_bytes:
            return self._read(number, dim)
        held = self._held[number] = Held(dim)
        for block in self._read(number, dim):
            held.append(block, n - held.n)
        return held.blocks()

    def _refresh(self, number: int) -> None:
        """Add what is new to the held vectors; forget them if something was deleted, or they are too many."""
        held = self._held.pop(number)
        try:
            generation = self._facts().generation(number)
        except KeyError:
            return
        n = self._count(number)
        if n < held.n or n * generation.dim * 4 > self._max_held_bytes:
            return
        for block in self._read(number, generation.dim, held.last_row):
            held.append(block, n - held.n)
        if held.n == n:
            self._held[number] = held

    def _read(self, number: int, dim: int, after: int = 0) -> Iterator[Block]:
        found = self._db.execute(f"select row, vector from vectors_{number:d} where row > ? order by row", [after])
        n_block = max(1, _BLOCK_BYTES // (dim * 4))
        while rows := found.fetchmany(n_block):
            raw = b"".join(vector for _, vector in rows)
            vectors: Vectors = np.frombuffer(raw, dtype="<f4").astype(np.float32, copy=False).reshape(-1, dim)
            yield Block(np.fromiter((row for row, _ in rows), dtype=np.int64, count=len(rows)), vectors)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the file for all statements inside."""
        with self._lock, self._faults():
            if self._db.in_transaction:
                yield
                return
            self._db.execute("begin")
            try:
                yield
            finally:
                self._db.execute("rollback")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction; it is undone if anything inside fails."""
        with self._lock, self._faults():
            self._db.execute("begin immediate")
            self._is_changed = True
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk may have undone it already
                    self._db.execute("rollback")
                raise

    def _faults(self) -> "_Faults":
        return _Faults(self._path)


class _Faults:
    """Turns errors of SQLite into ours, with the file's name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        said = str(error)
        if "locked" in said:
            raise Conflict(f"{self._path} has been locked by another process for {_LOCKED_S:.0f} s.") from error
        if "not a database" in said or "malformed" in said:
            raise InvalidInput(
                f"{self._path} is not a collection, or is damaged: {said}. Put a copy of it back, or delete the file.",
                param="name",
            ) from error
        if _is_denied(error):
            raise OSError(errno.EACCES, f"Permission denied ({said})", str(self._path)) from error
        number = errno.ENOSPC if "full" in said else errno.EIO
        raise OSError(number, said, str(self._path)) from error


def _is_denied(error: sqlite3.Error) -> bool:
    """Whether this user may not read the file, or not write it or its folder."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM"))


def _connect(path: Path) -> sqlite3.Connection:
    """The file; one in a folder that cannot be written is read as it is, as if nobody changed it meanwhile."""
    db = sqlite3.connect(path, timeout=_LOCKED_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("pragma application_id")
    except sqlite3.OperationalError as error:
        db.close()
        log = path.with_name(path.name + "-wal")
        if not _is_denied(error) or (log.exists() and log.stat().st_size):
            raise
        # SQLite shares its log between processes by files beside this one, which cannot be made here.
        as_it_is = f"{path.absolute().as_uri()}?immutable=1"
        db = sqlite3.connect(as_it_is, uri=True, isolation_level=None, check_same_thread=False)
    # Vectors are paid for: a commit is on the disk, power cuts included.
    db.executescript("pragma synchronous = full; pragma mmap_size = 0; pragma cache_size = -65536;")
    return db


def _files(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + ending) for ending in ("-wal", "-shm"))]


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _PARAMETERS):
        yield list(values[start : start + _PARAMETERS])


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _comparison(where: Compare) -> tuple[str, list[str | float]]:
    """A comparison as an expression that is 0 or 1, never null, and its values."""
    path, value = f'$."{where.field}"', where.value
    kind = "coalesce(json_type(metadata, ?), 'null')"
    if value is None:
        return f"({kind} = 'null')", [path]
    if isinstance(value, bool):
        return f"({kind} = ?)", [path, "true" if value else "false"]
    types = "('text')" if kind_of(value) is str else "('integer', 'real')"
    # The type stands first: what is not of it is 0 whatever the comparison gives.
    compared = f"coalesce(json_extract(metadata, ?) {where.comparison} ?, 0)"
    return f"({kind} in {types} and {compared})", [path, path, value]
