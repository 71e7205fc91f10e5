"""Store in PostgreSQL with pgvector: exact search by default, HNSW on demand, words by its full-text search.

All is in the schema `embedgate`: the table `collections`, and `items_C_N` for generation N of collection C. Whoever
writes locks the row of its collection, so that writers of one collection wait for each other.
"""

import errno
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from embedgate.core.errors import ConfigError, Conflict, InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.collections.filters import Filter
from embedgate.toolkit.collections.postgresql_filters import condition_of
from embedgate.toolkit.collections.store import Entry, Facts, Generation, Hit, Item, Shelf, Store, metadata_json
from embedgate.toolkit.collections.words import folded_words
from embedgate.toolkit.embedding import Progress
from embedgate.toolkit.libraries import library

if TYPE_CHECKING:
    import psycopg

_LOCKED_S = 60
_CONNECT_S = 10
_PAGE = 10_000
_MAX_WORD_CHARS = 200_000
"""Of one text: a tsvector has at most a million bytes."""
_MAX_FULL_DIM, _MAX_HALF_DIM = 2_000, 4_000
"""Of HNSW in pgvector, for numbers of four and of two bytes."""
_LEAST_CANDIDATES, _MOST_CANDIDATES = 200, 1_000
"""Of a search by HNSW (hnsw.ef_search)."""
_MAX_DIM = 16_000

_SCHEMA = """
create schema if not exists embedgate;
create extension if not exists vector;
create table if not exists embedgate.collections (
    number bigint generated always as identity primary key, name text collate "C" not null unique, facts text not null);
"""
_TABLE = """
create table {table} (
    row bigint generated always as identity primary key, id text collate "C" not null unique,
    digest text collate "C" not null, details text not null, source text not null, text text not null,
    metadata json not null, words tsvector not null, vector vector({dim}) not null);
create index on {table} (digest);
create index on {table} using gin (words);
"""
_INSERT = """
insert into {table} (id, digest, details, source, text, metadata, words, vector)
values (%s, %s, %s, %s, %s, %s, to_tsvector('simple', %s), %b)
"""
_QUERY_OF_WORDS = """
(select coalesce(string_agg(one::text, ' | '), '')::tsquery
from (select plainto_tsquery('simple', word) as one from unnest(%s::text[]) as word) as each where numnode(one) > 0)
"""


class Database(Shelf):
    """The collections of one database."""

    def __init__(self, address: str) -> None:
        """address: of libpq, `postgresql://user@host/database`; what it leaves out is in PGPASSWORD and the like.

        Raises DependencyMissing.
        """
        library("psycopg")
        library("pgvector.psycopg")
        self._address = address

    def create(self, facts: Facts) -> "PostgresStore":
        """Make the schema if there is none, and the tables of the collection, in one transaction."""
        dim = facts.generation().dim
        _check_dim(dim, is_approximate=facts.is_approximate)
        server = _Server(self._address)
        try:
            with server.writing() as db:
                db.execute("select pg_advisory_xact_lock(7306349)")  # `if not exists` fails if two do it at once
                db.execute(_SCHEMA)
                row = db.execute(
                    "insert into embedgate.collections (name, facts) values (%s, %s) on conflict do nothing "
                    "returning number",
                    [facts.name, facts.to_json()],
                ).fetchone()
                if row is None:
                    raise Conflict(f"There is a collection {facts.name!r} already.")
                _make_tables(db, _table(row[0], 1), dim, is_approximate=facts.is_approximate)
        except BaseException:
            server.close()
            raise
        return PostgresStore(server, row[0])

    def find(self, name: str) -> "PostgresStore | None":
        """Looked up in the table of collections."""
        server = _Server(self._address)
        row = None
        try:
            with server.reading() as db:
                if _has_schema(db):
                    row = db.execute("select number from embedgate.collections where name = %s", [name]).fetchone()
        finally:
            if row is None:
                server.close()
        return PostgresStore(server, row[0]) if row else None

    def names(self) -> list[str]:
        """From the table of collections."""
        server = _Server(self._address)
        try:
            with server.reading() as db:
                if not _has_schema(db):
                    return []
                return [name for (name,) in db.execute("select name from embedgate.collections order by name")]
        finally:
            server.close()


class PostgresStore(Store):
    """Store in tables of PostgreSQL. Thread-safe; any number of processes may use it."""

    has_keywords = True

    def __init__(self, server: "_Server", number: int) -> None:
        """number: of the collection. The connection is closed with the store."""
        self._server = server
        self._number = number

    @property
    def is_exact(self) -> bool:
        """Without an index, all vectors are compared."""
        return not self.facts().is_approximate

    def facts(self) -> Facts:
        """From the row of the collection."""
        with self._server.reading() as db:
            return self._facts(db)

    def begin(self, model: str, space: str, dim: int, wanted_dim: int | None) -> Generation:
        """Make the table of a new generation."""
        with self._server.writing() as db:
            facts = self._locked_facts(db)
            _check_dim(dim, is_approximate=facts.is_approximate)
            generation = Generation(facts.n_made + 1, model, space, dim, wanted_dim)
            _make_tables(db, self._table(generation.number), dim, is_approximate=facts.is_approximate)
            self._save(db, facts.with_generation(generation))
        return generation

    def discard(self, number: int) -> None:
        """Drop the table of a generation."""
        with self._server.writing() as db:
            facts = self._locked_facts(db).without_generation(number)
            db.execute(f"drop table {self._table(number)}")
            self._save(db, facts)

    def switch(self, number: int) -> bool:
        """One transaction: compared and switched."""
        with self._server.writing() as db:
            facts = self._locked_facts(db)
            one, other = (f"select id, digest, details from {self._table(each)}" for each in (facts.serving, number))
            for sql in (f"{one} except {other}", f"{other} except {one}"):
                if db.execute(f"{sql} limit 1").fetchone() is not None:
                    return False
            self._save(db, facts.with_switch(number))
        return True

    def entries(self, number: int) -> Iterator[Entry]:
        """Read in pages, so that no transaction stays open between them."""
        last = 0
        columns = "row, id, digest, details, source"
        sql = f"select {columns} from {self._table(number)} where row > %s order by row limit {_PAGE}"
        while True:
            with self._server.reading() as db:
                found = db.execute(sql, [last]).fetchall()
            if not found:
                return
            yield from (Entry(*rest) for _, *rest in found)
            last = found[-1][0]

    def get(self, number: int, ids: Sequence[str]) -> list[Item]:
        """By id, which has an index."""
        sql = f"select id, text, source, metadata::text from {self._table(number)} where id = any(%s)"
        with self._server.reading() as db:
            found = {
                item_id: Item(item_id, text, source, orjson.loads(metadata))
                for item_id, text, source, metadata in db.execute(sql, [list(ids)])
            }
        return [found[item_id] for item_id in ids if item_id in found]

    def vectors_of(self, number: int, digests: Sequence[str]) -> dict[str, Vectors]:
        """By digest, which has an index."""
        sql = f"select distinct on (digest) digest, vector from {self._table(number)} where digest = any(%s)"
        with self._server.reading() as db:
            found = db.execute(sql, [list(digests)], binary=True).fetchall()
        return {digest: np.asarray(vector.to_numpy(), dtype=np.float32) for digest, vector in found}

    def put(self, number: int, items: Sequence[Item], vectors: Vectors) -> None:
        """One transaction: what has the same ids is deleted first."""
        for item in items:
            _check_metadata(item)
        rows = [
            (
                *(item.id, item.digest, item.details, item.source, item.text, metadata_json(item).decode()),
                " ".join(folded_words(item.text[:_MAX_WORD_CHARS])),
                vector,
            )
            for item, vector in zip(items, np.ascontiguousarray(vectors, dtype=np.float32), strict=True)
        ]
        with self._server.writing() as db:
            self._locked_facts(db)
            db.execute(f"delete from {self._table(number)} where id = any(%s)", [[item.id for item in items]])
            with db.cursor() as cursor:
                cursor.executemany(_INSERT.format(table=self._table(number)), rows)

    def remove(self, number: int, ids: Sequence[str]) -> int:
        """One transaction."""
        with self._server.writing() as db:
            self._locked_facts(db)
            return db.execute(f"delete from {self._table(number)} where id = any(%s)", [list(ids)]).rowcount

    def count(self, number: int) -> int:
        """Counted, not estimated."""
        with self._server.reading() as db:
            row = db.execute(f"select count(*) from {self._table(number)}").fetchone()
        return int(row[0]) if row else 0

    def nearest(self, number: int, query: Vectors, k: int, where: Filter | None = None) -> list[Hit]:
        """Every vector is compared, or those that HNSW proposes. Ties are in the order in which they were put."""
        condition, values = condition_of(where)
        vector = np.ascontiguousarray(query, dtype=np.float32)
        with self._server.reading() as db:
            facts = self._facts(db)
            if not facts.is_approximate:
                sql = (
                    f"select id, -(vector <#> %b) as score from {self._table(number)} where {condition} "
                    "order by score desc, row limit %s"
                )
                return [Hit(*found) for found in db.execute(sql, [vector, *values, k])]
            candidates = min(max(4 * k, _LEAST_CANDIDATES), _MOST_CANDIDATES)
            # With a filter, the index is read on until there are enough, however few pass it.
            db.execute(f"set local hnsw.ef_search = {candidates}; set local hnsw.iterative_scan = strict_order")
            indexed, asked = _indexed("vector", vector_dim := len(vector)), _indexed("%b", vector_dim, is_value=True)
            sql = (
                "with found as materialized (select id, row, vector from "
                f"{self._table(number)} where {condition} order by {indexed} <#> {asked} limit %s) "
                "select id, -(vector <#> %b) as score from found order by score desc, row limit %s"
            )
            return [Hit(*found) for found in db.execute(sql, [*values, vector, max(2 * k, k + 20), vector, k])]

    def best_scores(self, number: int, queries: Vectors) -> list[float]:
        """One pass over all vectors, whatever the number of queries; by HNSW, one search for each."""
        if not self.is_exact:
            return Store.best_scores(self, number, queries)
        asked = list(np.ascontiguousarray(queries, dtype=np.float32))
        columns = ", ".join(["max(-(vector <#> %b))"] * len(asked))
        with self._server.reading() as db:
            found = db.execute(f"select {columns} from {self._table(number)}", asked).fetchone()
        return [-math.inf if score is None else float(score) for score in found or ()]

    def with_words(self, number: int, words: Sequence[str], k: int, where: Filter | None = None) -> list[Hit]:
        """By ts_rank of PostgreSQL, long texts put back by the logarithm of their length; a text needs one word."""
        folded = [each for word in words for each in folded_words(word)]
        if not folded:
            return []
        condition, values = condition_of(where)
        # ts_rank is a mean over the words of the question: a sum does not fall with words that no text has.
        score = "ts_rank(words, query, 1) * (numnode(query) + 1) / 2"
        sql = (
            f"select id, {score} as score from {self._table(number)}, "
            f"{_QUERY_OF_WORDS} as asked(query) where words @@ query and {condition} order by score desc, row limit %s"
        )
        with self._server.reading() as db:
            return [Hit(*found) for found in db.execute(sql, [folded, *values, k])]

    def optimize(self, number: int, on_progress: Progress | None = None) -> None:  # noqa: ARG002 - nothing is counted
        """Give the planner true numbers. PostgreSQL keeps its indexes up to date by itself."""
        with self._server.reading() as db:
            db.execute(f"analyze {self._table(number)}")

    def unindexed(self, number: int) -> int:  # noqa: ARG002 - of the port
        """None: PostgreSQL keeps its index up to date."""
        return 0

    def size_bytes(self) -> int:
        """Of all tables, with their indexes."""
        with self._server.reading() as db:
            tables = [self._table(each.number) for each in self._facts(db).generations]
            sql = "select sum(pg_total_relation_size(name::regclass)) from unnest(%s::text[]) as name"
            row = db.execute(sql, [tables]).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def destroy(self) -> None:
        """Drop all tables, and close the connection. Nothing is done the second time."""
        with self._server.writing() as db:
            facts = self._locked_facts(db)
            for each in facts.generations:
                db.execute(f"drop table {self._table(each.number)}")
            db.execute("delete from embedgate.collections where number = %s", [self._number])
        self.close()

    def _table(self, number: int) -> str:
        return _table(self._number, number)

    def _facts(self, db: "psycopg.Connection[Any]", locking: str = "") -> Facts:
        sql = f"select facts from embedgate.collections where number = %s {locking}"
        row = db.execute(sql, [self._number]).fetchone()
        if row is None:
            raise Conflict("The collection was dropped meanwhile.")
        return Facts.from_json(row[0])

    def _locked_facts(self, db: "psycopg.Connection[Any]") -> Facts:
        return self._facts(db, "for update")

    def _save(self, db: "psycopg.Connection[Any]", facts: Facts) -> None:
        db.execute("update embedgate.collections set facts = %s where number = %s", [facts.to_json(), self._number])


class _Server:
    """One connection, made when it is first used, and again after it was lost. Turns its errors into ours."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._shown = _without_password(address)
        self._lock = threading.RLock()
        self._db: psycopg.Connection[Any] | None = None

    def close(self) -> None:
        """Close it."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    @contextmanager
    def reading(self) -> "Iterator[psycopg.Connection[Any]]":
        """One transaction that sees one state of the database."""
        with self._used(_start_reading) as db:
            yield db

    @contextmanager
    def writing(self) -> "Iterator[psycopg.Connection[Any]]":
        """One transaction; it is undone if anything inside fails."""
        with self._used(_start_writing) as db:
            yield db

    @contextmanager
    def _used(self, start: "Callable[[psycopg.Connection[Any]], None]") -> "Iterator[psycopg.Connection[Any]]":
        import psycopg

        with self._lock:
            try:
                with self._started(start) as db:
                    yield db
            except psycopg.Error as error:
                raise self._fault(error) from error

    @contextmanager
    def _started(self, start: "Callable[[psycopg.Connection[Any]], None]") -> "Iterator[psycopg.Connection[Any]]":
        import psycopg

        db = self._connected()
        try:
            db.execute("begin")
            start(db)
        except psycopg.OperationalError:
            if not db.closed:
                raise
            db = self._connected()  # the server was started anew, or ended an idle connection
            db.execute("begin")
            start(db)
        try:
            yield db
        except BaseException:
            with suppress(psycopg.Error):  # a lost connection has undone it already
                db.execute("rollback")
            raise
        db.execute("commit")

    def _connected(self) -> "psycopg.Connection[Any]":
        import psycopg
        from pgvector.psycopg import register_vector

        if self._db is None or self._db.closed:
            self._db = psycopg.connect(
                self._address, autocommit=True, connect_timeout=_CONNECT_S, application_name="embedgate"
            )
            self._has_vectors = False
        if not self._has_vectors and psycopg.types.TypeInfo.fetch(self._db, "vector") is not None:
            register_vector(self._db)
            self._has_vectors = True
        return self._db

    def _fault(self, error: "psycopg.Error") -> Exception:
        import psycopg

        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, psycopg.errors.LockNotAvailable):
            return Conflict(f"The collection has been locked by another process for {_LOCKED_S} s.")
        if isinstance(error, psycopg.errors.UndefinedTable):
            return Conflict(f"The collection, or its vectors of that model, were deleted meanwhile: {said}")
        if isinstance(error, psycopg.errors.DiskFull):
            return OSError(errno.ENOSPC, said, self._shown)
        if isinstance(error, psycopg.errors.FeatureNotSupported | psycopg.errors.UndefinedFile):
            return ConfigError([f"{self._shown} needs the extension pgvector 0.8 or later: {said}"])
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return ConfigError([f"{self._shown}: {said}; the user must be allowed to make schemas and tables"])
        return OSError(errno.EIO, said, self._shown)


def _start_reading(db: "psycopg.Connection[Any]") -> None:
    db.execute("set transaction isolation level repeatable read")


def _start_writing(db: "psycopg.Connection[Any]") -> None:
    db.execute(f"set local lock_timeout = '{_LOCKED_S}s'")


def _has_schema(db: "psycopg.Connection[Any]") -> bool:
    row = db.execute("select to_regclass('embedgate.collections') is not null").fetchone()
    return bool(row and row[0])


def _table(collection: int, generation: int) -> str:
    return f"embedgate.items_{collection:d}_{generation:d}"


def _make_tables(db: "psycopg.Connection[Any]", table: str, dim: int, *, is_approximate: bool) -> None:
    db.execute(_TABLE.format(table=table, dim=dim))
    if is_approximate:
        operators = "vector_ip_ops" if dim <= _MAX_FULL_DIM else "halfvec_ip_ops"
        db.execute(f"create index on {table} using hnsw (({_indexed('vector', dim)}) {operators})")


def _indexed(vector: str, dim: int, *, is_value: bool = False) -> str:
    """What HNSW indexes of a vector: itself, or its numbers in two bytes if it is too long."""
    if dim <= _MAX_FULL_DIM:
        return vector
    return f"{vector}::vector::halfvec({dim})" if is_value else f"{vector}::halfvec({dim})"


def _check_dim(dim: int, *, is_approximate: bool) -> None:
    most = _MAX_HALF_DIM if is_approximate else _MAX_DIM
    if dim > most:
        how = "an approximate index of pgvector" if is_approximate else "pgvector"
        raise InvalidInput(f"Vectors of {dim:,} numbers are too long for {how}; {most:,} are possible.", param="dim")


def _check_metadata(item: Item) -> None:
    for name, value in item.metadata.items():
        if "\0" in name or (isinstance(value, str) and "\0" in value):
            raise InvalidInput(
                f"the metadata of {item.id!r} have a NUL character, which PostgreSQL cannot keep", param="metadata"
            )


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    user, mark, place = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{mark}{place}{parts.path}"
