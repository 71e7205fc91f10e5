"""Store in LanceDB: a folder of columns for each collection, exact search, words by its full-text index.

A collection is a folder with `facts.json` and a table `items_N` for each generation. Whoever writes holds a lock on the
file `lock`. Every change is one commit of LanceDB. It does not sync its files to the disk: what was put survives the
death of the process, but perhaps not that of the machine.
"""

import errno
import fcntl
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from embedgate.core.errors import Conflict, UnsupportedOption
from embedgate.core.vectors import Vectors
from embedgate.toolkit.collections import filters
from embedgate.toolkit.collections.exact import Block, Rows, best_scores, nearest_rows
from embedgate.toolkit.collections.filters import Filter
from embedgate.toolkit.collections.store import Entry, Facts, Generation, Hit, Item, Shelf, Store, metadata_json
from embedgate.toolkit.collections.words import folded_words
from embedgate.toolkit.embedding import Progress
from embedgate.toolkit.libraries import library

_FACTS, _LOCK = "facts.json", "lock"
_ENDING = ".lancedb"
_LOCKED_S = 60.0
_POLL_S = 0.02
_PLACE_IN_SOURCE = re.compile(r", \S+\.rs:\d+:\d+$")
"""With which errors of LanceDB end."""
_BLOCK_ROWS = 8_192
_PARAMETERS = 1_000
_MAX_COMMITS = 50
"""Commits of this process, after which small files are joined: every one of them slows each search a little."""
_KEPT_VERSIONS = timedelta(hours=1)
"""Of the table as it was before, for processes that still read it."""


class LanceFolder(Shelf):
    """The collections of one folder."""

    def __init__(self, folder: Path) -> None:
        """folder: made with the first collection. Raises DependencyMissing."""
        library("lancedb")
        self._folder = folder

    def create(self, facts: Facts) -> "LanceStore":
        """Make a folder beside its place, then move it there, which fails if the place is taken."""
        if facts.is_approximate:
            raise UnsupportedOption(
                "Collections in LanceDB are searched exactly here; files of SQLite, PostgreSQL and Qdrant have an "
                "approximate index.",
                param="approximate",
            )
        path = self._path(facts.name)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with _faults(path):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                _make_table(_connect(draft), 1, facts.generation().dim)
                (draft / _LOCK).touch()
                _write_facts(draft, facts)
                try:
                    draft.rename(path)
                except OSError as error:
                    if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                        raise
                    raise Conflict(f"There is a collection {facts.name!r} already.") from error
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return LanceStore(path)

    def find(self, name: str) -> "LanceStore | None":
        """Open a folder."""
        path = self._path(name)
        return LanceStore(path) if (path / _FACTS).is_file() else None

    def names(self) -> list[str]:
        """Of all folders with that ending."""
        return sorted(
            path.name.removesuffix(_ENDING)
            for path in self._folder.glob(f"[!.]*{_ENDING}")
            if (path / _FACTS).is_file()
        )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_ENDING}"


class LanceStore(Store):
    """Store in a folder of LanceDB. Thread-safe; several processes may read while one writes."""

    has_keywords = True
    is_exact = True

    def __init__(self, path: Path) -> None:
        """Open a folder that `LanceFolder.create` made."""
        self._path = path
        self._lock = threading.RLock()
        self._n_commits = 0
        with _faults(path):
            self._db = _connect(path)

    def facts(self) -> Facts:
        """From a file, which is replaced as a whole."""
        try:
            return Facts.from_json((self._path / _FACTS).read_bytes())
        except FileNotFoundError as error:
            raise Conflict("The collection was dropped meanwhile.") from error

    def begin(self, model: str, space: str, dim: int, wanted_dim: int | None) -> Generation:
        """Make the table of a new generation, then let the facts know it."""
        with self._writing():
            facts = self.facts()
            generation = Generation(facts.n_made + 1, model, space, dim, wanted_dim)
            _make_table(self._db, generation.number, dim)
            _write_facts(self._path, facts.with_generation(generation))
        return generation

    def discard(self, number: int) -> None:
        """Let the facts forget a generation, then drop its table."""
        with self._writing():
            _write_facts(self._path, self.facts().without_generation(number))
            self._db.drop_table(_table(number))

    def switch(self, number: int) -> bool:
        """Compared and switched while no other process writes."""
        with self._writing():
            facts = self.facts()
            one, other = ({each[:3] for each in self.entries(each)} for each in (facts.serving, number))
            if one != other:
                return False
            _write_facts(self._path, facts.with_switch(number))
        return True

    def entries(self, number: int) -> Iterator[Entry]:
        """Read as columns, then put in order."""
        with _faults(self._path):
            found = self._columns(number, ["row", "id", "digest", "details", "source"])
        rows = found["row"].to_numpy()
        columns = [found[name].to_pylist() for name in found.column_names[1:]]
        for place in np.argsort(rows, kind="stable"):
            yield Entry(*(column[place] for column in columns))

    def get(self, number: int, ids: Sequence[str]) -> list[Item]:
        """All that have one of the ids."""
        found = {}
        with _faults(self._path):
            for part in _parts(ids):
                for row in self._columns(number, ["id", "text", "source", "metadata"], f"id in ({part})").to_pylist():
                    found[row["id"]] = Item(row["id"], row["text"], row["source"], orjson.loads(row["metadata"]))
        return [found[item_id] for item_id in ids if item_id in found]

    def vectors_of(self, number: int, digests: Sequence[str]) -> dict[str, Vectors]:
        """All that have one of the digests."""
        found: dict[str, Vectors] = {}
        with _faults(self._path):
            for part in _parts(digests):
                columns = self._columns(number, ["digest", "vector"], f"digest in ({part})")
                found.update(zip(columns["digest"].to_pylist(), _matrix(columns["vector"]), strict=True))
        return found

    def put(self, number: int, items: Sequence[Item], vectors: Vectors) -> None:
        """One commit: items with the same ids are replaced."""
        import pyarrow as pa

        if not items:
            return
        metadata = [metadata_json(item).decode() for item in items]
        with self._writing():
            table = self._open(number)
            rows = self._columns(number, ["row"])["row"].to_numpy()
            first = int(rows.max(initial=0)) + 1
            flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
            values = [
                pa.array(np.arange(first, first + len(items))),
                *(pa.array([getattr(item, name) for item in items]) for name in _ITEM_COLUMNS),
                pa.array(metadata),
                pa.array([" ".join(folded_words(item.text)) for item in items]),
                pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            ]
            batch = pa.table(values, schema=table.schema)
            table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(batch)
            self._n_commits += 1
            if self._n_commits >= _MAX_COMMITS:
                self._join_files(number)

    def remove(self, number: int, ids: Sequence[str]) -> int:
        """One commit for each thousand."""
        with self._writing():
            table = self._open(number)
            n_before = table.count_rows()
            for part in _parts(ids):
                table.delete(f"id in ({part})")
            self._n_commits += 1
            return int(n_before - table.count_rows())

    def count(self, number: int) -> int:
        """From the table's own numbers."""
        with _faults(self._path):
            return int(self._open(number).count_rows())

    def nearest(self, number: int, query: Vectors, k: int, where: Filter | None = None) -> list[Hit]:
        """Every vector is compared. Ties are in the order in which they were put."""
        vector = np.ascontiguousarray(query, dtype=np.float32)
        with _faults(self._path):
            table = self._open(number)
            if where is None:
                wanted = ["id", "row", "_distance"]
                found = table.search(vector, vector_column_name="vector").distance_type("dot").select(wanted).limit(k)
                return _ranked((1 - each["_distance"], each["row"], each["id"]) for each in found.to_list())
            best = nearest_rows(_blocks(table), vector, k, self._allowed(number, where))
            ids = self._ids(number, [row for row, _ in best])
            return [Hit(ids[row], score) for row, score in best]

    def best_scores(self, number: int, queries: Vectors) -> list[float]:
        """One pass over all vectors, whatever the number of queries."""
        with _faults(self._path):
            return best_scores(_blocks(self._open(number)), queries)

    def with_words(self, number: int, words: Sequence[str], k: int, where: Filter | None = None) -> list[Hit]:
        """By BM25 of LanceDB; a text needs one of the words."""
        folded = [each for word in words for each in folded_words(word)]
        if not folded:
            return []
        query = library("lancedb.query").MatchQuery(" ".join(folded), column="words")
        with _faults(self._path):
            table = self._open(number)
            n = k if where is None else table.count_rows()  # those that pass the filter are chosen afterwards
            found = table.search(query, query_type="fts").select(["id", "row", "_score"]).limit(max(n, 1)).to_list()
            allowed = None if where is None else {*self._allowed(number, where).tolist()}
        kept = [each for each in found if allowed is None or each["row"] in allowed]
        return _ranked((each["_score"], each["row"], each["id"]) for each in kept)[:k]

    def optimize(self, number: int, on_progress: Progress | None = None) -> None:  # noqa: ARG002 - nothing is counted
        """Join small files, bring the index of words up to date, delete old versions."""
        with self._writing():
            self._join_files(number)

    def unindexed(self, number: int) -> int:  # noqa: ARG002 - of the port
        """There is no index."""
        return 0

    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.stat().st_size for file in self._path.rglob("*") if file.is_file())

    def close(self) -> None:
        """Nothing is kept open."""

    def destroy(self) -> None:
        """Delete the facts first, then the rest of the folder. Nothing is done the second time."""
        with self._writing():
            (self._path / _FACTS).unlink(missing_ok=True)
            shutil.rmtree(self._path)

    def _open(self, number: int) -> Any:
        return self._db.open_table(_table(number))

    def _columns(self, number: int, names: list[str], condition: str | None = None) -> Any:
        query = self._open(number).search()
        if condition is not None:
            query = query.where(condition)
        return query.select(names).limit(None).to_arrow()

    def _allowed(self, number: int, where: Filter) -> Rows:
        """Rows that pass a filter, in their order. LanceDB has no functions of JSON that mean the same."""
        found = self._columns(number, ["row", "metadata"])
        rows: Rows = found["row"].to_numpy()
        passes = (filters.matches(where, orjson.loads(each.as_py())) for each in found["metadata"])
        return np.sort(rows[np.fromiter(passes, dtype=bool, count=len(rows))])

    def _ids(self, number: int, rows: Sequence[int]) -> dict[int, str]:
        if not rows:
            return {}
        found = self._columns(number, ["row", "id"], f"row in ({', '.join(map(str, rows))})")
        return dict(zip(found["row"].to_pylist(), found["id"].to_pylist(), strict=True))

    def _join_files(self, number: int) -> None:
        self._open(number).optimize(cleanup_older_than=_KEPT_VERSIONS)
        self._n_commits = 0

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """No other thread or process writes meanwhile."""
        with self._lock, _faults(self._path), (self._path / _LOCK).open("rb") as lock:
            deadline_s = time.monotonic() + _LOCKED_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline_s:
                        said = f"{self._path} has been locked by another process for {_LOCKED_S:.0f} s."
                        raise Conflict(said) from error
                    time.sleep(_POLL_S)
            yield


_ITEM_COLUMNS = ("id", "digest", "details", "source", "text")


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Turns errors of LanceDB into ours, with the folder's name."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # it has no others of its own
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "was not found" in said:
            raise Conflict(f"{path}: the collection, or its vectors of that model, were deleted meanwhile.") from error
        said = _PLACE_IN_SOURCE.sub("", said)
        is_full = "No space left" in str(error) or "File too large" in str(error)
        raise OSError(errno.ENOSPC if is_full else errno.EIO, said, str(path)) from error


def _connect(path: Path) -> Any:
    # Every read looks for what other processes have written.
    return library("lancedb").connect(path, read_consistency_interval=timedelta(0))


def _table(number: int) -> str:
    return f"items_{number:d}"


def _make_table(db: Any, number: int, dim: int) -> None:
    import pyarrow as pa

    fields = [("row", pa.int64()), *((name, pa.string()) for name in (*_ITEM_COLUMNS, "metadata", "words"))]
    schema = pa.schema([*fields, ("vector", pa.list_(pa.float32(), dim))])
    db.drop_table(_table(number), ignore_missing=True)  # a killed process may have left one
    table = db.create_table(_table(number), schema=schema)
    how = library("lancedb.index").FTS(
        base_tokenizer="whitespace", stem=False, remove_stop_words=False, ascii_folding=False, with_position=False
    )
    table.create_index("words", config=how)


def _write_facts(path: Path, facts: Facts) -> None:
    draft = path / f"{_FACTS}.new"
    with draft.open("w", encoding="utf-8") as file:
        file.write(facts.to_json())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path / _FACTS)


def _parts(values: Sequence[str]) -> Iterator[str]:
    """Texts as literals of SQL, separated by commas."""
    for start in range(0, len(values), _PARAMETERS):
        yield ", ".join("'" + value.replace("'", "''") + "'" for value in values[start : start + _PARAMETERS])


def _blocks(table: Any) -> Iterator[Block]:
    for batch in table.search().select(["row", "vector"]).limit(None).to_batches(_BLOCK_ROWS):
        yield Block(batch["row"].to_numpy(), _matrix(batch["vector"]))


def _matrix(column: Any) -> Vectors:
    """(n, dim) float32 of a column of vectors."""
    whole = column.combine_chunks() if hasattr(column, "chunks") else column
    flat: Vectors = whole.flatten().to_numpy()
    return flat.reshape(len(column), -1) if len(column) else np.empty((0, 0), dtype=np.float32)


def _ranked(found: Iterable[tuple[float, int, str]]) -> list[Hit]:
    """Scores, rows and ids as hits, best first; ties by row."""
    return [Hit(item_id, score) for score, _, item_id in sorted(found, key=lambda each: (-each[0], each[1]))]
