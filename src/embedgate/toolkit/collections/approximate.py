"""Approximate search of a SQLite store: an HNSW index of usearch proposes rows, whose true vectors are compared.

So scores are exact, what was deleted falls out, and what was added since the index was made is compared as well. Only
what the index overlooks is missing.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import orjson

from embedgate.core.vectors import Vectors
from embedgate.toolkit.collections.exact import Block, Rows, nearest_rows
from embedgate.toolkit.collections.filters import Filter
from embedgate.toolkit.collections.index_files import Indexed, IndexFiles
from embedgate.toolkit.collections.sqlite import SqliteStore
from embedgate.toolkit.collections.store import Hit, Store
from embedgate.toolkit.embedding import Progress

_CANDIDATES_PER_RESULT, _LEAST_CANDIDATES = 4, 64
_FEW_ROWS = 2_000
"""So few rows that pass a filter are compared one by one, without the index."""
_MOST_STALE_SHARE = 0.25
"""Of deleted rows in an index, beyond which it is built anew."""
_SAMPLE = 16
_LEAST_LIKENESS = 0.9
"""Cosine of a vector and its copy of one byte per number, which is 0.99 at least."""
_SAVED_EVERY = 200_000
"""Rows after which an index is saved while it is built: whoever is interrupted goes on from there."""


class ApproximateStore(SqliteStore):
    """Store in one file, searched by an approximate index once `optimize` has made one; until then, exactly."""

    is_exact = False

    def __init__(self, path: Path) -> None:
        """Open a file that `create` made. Raises as `SqliteStore`, and DependencyMissing."""
        super().__init__(path)
        try:
            self._files = IndexFiles(path, self.facts().created_at)
        except BaseException:
            super().close()
            raise
        self._trusted: dict[int, object] = {}
        self._counted: tuple[tuple[int, int, int], int] | None = None

    def nearest(self, number: int, query: Vectors, k: int, where: Filter | None = None) -> list[Hit]:
        """All vectors are compared if there is no index, or if it proposes too few that pass the filter."""
        vector = np.ascontiguousarray(query, dtype=np.float32)
        with self._reading():
            allowed = None if where is None else self._allowed(number, where)
            if allowed is not None and len(allowed) <= _FEW_ROWS:
                return self._hits(number, nearest_rows(self._rows(number, allowed), vector, k))
            n_all = self._n_rows(number)
            n = n_all if allowed is None else len(allowed)
            blocks = self._proposed(number, vector, k, n_all / max(n, 1))
            found = None if blocks is None else nearest_rows(blocks, vector, k, allowed)
            if found is None or len(found) < min(k, n):
                found = nearest_rows(self._blocks(number), vector, k, allowed)
            return self._hits(number, found)

    def best_scores(self, number: int, queries: Vectors) -> list[float]:
        """By the index, one after the other; one pass over all vectors if there is none."""
        with self._reading():
            has_index = self._files.open(number) is not None
        return Store.best_scores(self, number, queries) if has_index else super().best_scores(number, queries)

    def optimize(self, number: int, on_progress: Progress | None = None) -> None:
        """Add to the index what it does not have; build it anew if much of what it has was deleted.

        Takes a third of a millisecond to one of a core for a vector of 384 numbers, the more there are, and the memory
        of the index: a byte for each number and some 280 for each vector.
        """
        with self._reading():
            dim = self._facts().generation(number).dim
            opened = self._files.open(number, for_changes=True)
            n_known = 0 if opened is None else self._n_rows(number, opened.last_row)
            n = self._n_rows(number)
            is_foreign = opened is not None and self._is_foreign(number, opened)
        n_stale = 0 if opened is None else len(opened.index) - n_known
        if opened is None or is_foreign or n_stale > _MOST_STALE_SHARE * len(opened.index):
            self._files.forget(number)
            opened, n_known = self._files.new(dim), 0
        n_unsaved = 0
        while block := self._page(number, dim, opened.last_row):
            opened.index.add(block.rows.astype(np.uint64), block.vectors)
            opened = Indexed(opened.index, int(block.rows[-1]))
            n_known, n_unsaved = n_known + len(block.rows), n_unsaved + len(block.rows)
            if on_progress is not None:
                on_progress(min(n_known, n), n)
            if n_unsaved >= _SAVED_EVERY:
                self._files.save(number, opened)
                n_unsaved = 0
        if n_unsaved:
            self._files.save(number, opened)

    def unindexed(self, number: int) -> int:
        """Rows after the last one that is indexed."""
        with self._reading():
            opened = self._files.open(number)
            return self._n_rows(number) - (0 if opened is None else self._n_rows(number, opened.last_row))

    def discard(self, number: int) -> None:
        """The index, too."""
        super().discard(number)
        self._files.forget(number)

    def size_bytes(self) -> int:
        """The indexes, too."""
        return super().size_bytes() + self._files.size_bytes()

    def close(self) -> None:
        """Let go of the index, too."""
        self._files.close()
        super().close()

    def destroy(self) -> None:
        """Delete the indexes, then the file."""
        self._files.forget()
        super().destroy()

    def _proposed(self, number: int, vector: Vectors, k: int, more: float) -> Iterator[Block] | None:
        """Rows that the index proposes, and those that it has not seen; None if all might as well be compared.

        more: by what factor the k rows must be outnumbered, because a filter drops some.
        """
        opened = self._files.open(number)
        if opened is None:
            return None
        if opened.index is not self._trusted.get(number):
            if self._is_foreign(number, opened):
                return None
            self._trusted[number] = opened.index
        n_indexed = len(opened.index)
        more *= n_indexed / max(self._n_rows(number), 1)  # what was deleted is proposed, too
        n = max(_LEAST_CANDIDATES, int(_CANDIDATES_PER_RESULT * k * max(more, 1)))
        if n >= n_indexed // 2:
            return None
        rows = np.sort(opened.index.search(vector, n).keys.astype(np.int64))
        dim = len(vector)
        return chain(self._rows(number, rows), self._read(number, dim, opened.last_row))

    def _rows(self, number: int, rows: Rows) -> Iterator[Block]:
        """The vectors of some rows, of those that there are."""
        sql = f"select row, vector from vectors_{number:d} where row in (select value from json_each(?)) order by row"
        found = self._db.execute(sql, [orjson.dumps(rows.tolist()).decode()]).fetchall()
        if found:
            raw = b"".join(vector for _, vector in found)
            vectors: Vectors = np.frombuffer(raw, dtype="<f4").astype(np.float32, copy=False).reshape(len(found), -1)
            yield Block(np.fromiter((row for row, _ in found), dtype=np.int64, count=len(found)), vectors)

    def _page(self, number: int, dim: int, after: int) -> Block | None:
        """The next vectors; nothing stays locked between two pages."""
        with self._reading():
            return next(self._read(number, dim, after), None)

    def _n_rows(self, number: int, until: int | None = None) -> int:
        """Rows of a generation, up to one of them, or all; these are counted once for each state of the file."""
        if until is not None:
            sql = f"select count(*) from items_{number:d} where row <= ?"
            return int(self._db.execute(sql, [until]).fetchone()[0])
        state = (number, self._db.execute("pragma data_version").fetchone()[0], self._db.total_changes)
        if self._counted is None or self._counted[0] != state:
            self._counted = (state, self._count(number))
        return self._counted[1]

    def _is_foreign(self, number: int, opened: Indexed) -> bool:
        """Whether rows have other vectors than in the index: an older copy of the file was put back, and added to."""
        made = self._db.execute("select seq from sqlite_sequence where name = ?", [f"items_{number:d}"]).fetchone()
        if made is None or made[0] < opened.last_row:
            return True
        sql = f"select row from vectors_{number:d} where row <= ? order by row desc limit {_SAMPLE}"
        rows = np.array([row for (row,) in self._db.execute(sql, [opened.last_row])], dtype=np.int64)
        for block in self._rows(number, np.sort(rows)):
            for row, vector in zip(block.rows, block.vectors, strict=True):
                known = opened.index.get(int(row))
                if known is None:
                    return True
                size = float(np.linalg.norm(known) * np.linalg.norm(vector))
                if size and float(np.asarray(known, dtype=np.float32) @ vector) < _LEAST_LIKENESS * size:
                    return True
        return False
