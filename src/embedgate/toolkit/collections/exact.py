"""Exact search over vectors in blocks: held in memory while they fit into a bound, else read for every search."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedgate.core.vectors import Vectors

Rows = npt.NDArray[np.int64]
MAX_HELD_BYTES = 2_000_000_000
"""Vectors that are held in memory: 1.3 million of 384 numbers. Beyond it, every search reads them from disk."""

_ROWS_AT_ONCE = 4_096
"""Vectors of one matrix product, whose result stays small."""


class Block(NamedTuple):
    """rows: (n,) numbers of rows, ascending. vectors: (n, dim) float32."""

    rows: Rows
    vectors: Vectors


class Held:
    """Vectors that grow at the end, with room to spare, so that adding a few does not copy all."""

    def __init__(self, dim: int) -> None:
        """Holds nothing yet."""
        self._rows: Rows = np.empty(0, dtype=np.int64)
        self._vectors: Vectors = np.empty((0, dim), dtype=np.float32)
        self.n = 0

    @property
    def last_row(self) -> int:
        """The highest number of a row; 0 if there is none."""
        return int(self._rows[self.n - 1]) if self.n else 0

    def append(self, block: Block, n_more: int) -> None:
        """Add vectors whose rows follow. n_more: how many are still to come, this block included."""
        end = self.n + len(block.rows)
        if end > len(self._rows):
            room = max(self.n + n_more, end, self.n + self.n // 8)
            rows, vectors = self._rows, self._vectors
            self._rows = np.empty(room, dtype=np.int64)
            self._vectors = np.empty((room, vectors.shape[1]), dtype=np.float32)
            self._rows[: self.n], self._vectors[: self.n] = rows[: self.n], vectors[: self.n]
        self._rows[self.n : end], self._vectors[self.n : end] = block
        self.n = end

    def blocks(self) -> Iterator[Block]:
        """All that is held, in one block."""
        yield Block(self._rows[: self.n], self._vectors[: self.n])


def nearest_rows(
    blocks: Iterable[Block], query: Vectors, k: int, allowed: Rows | None = None
) -> list[tuple[int, float]]:
    """Rows and dot products of the k vectors that are nearest to `query`, (dim,), best first; ties by row.

    allowed: ascending numbers of the rows that count; None for all.
    """
    best_rows, best_scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    for rows, vectors in blocks:
        positions = None if allowed is None else np.flatnonzero(np.isin(rows, allowed, assume_unique=True))
        if positions is not None and len(positions) < len(rows) // 4:
            rows, vectors, positions = rows[positions], vectors[positions], None  # noqa: PLW2901 - the part that counts
        scores = vectors @ query
        if positions is not None:
            rows, scores = rows[positions], scores[positions]  # noqa: PLW2901 - the part that counts
        if len(scores) > k:
            top = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
            rows, scores = rows[top], scores[top]  # noqa: PLW2901 - the part that counts
        best_rows, best_scores = np.concatenate([best_rows, rows]), np.concatenate([best_scores, scores])
        order = np.lexsort((best_rows, -best_scores))[:k]
        best_rows, best_scores = best_rows[order], best_scores[order]
    return [(int(row), float(score)) for row, score in zip(best_rows, best_scores, strict=True)]


def best_scores(blocks: Iterable[Block], queries: Vectors) -> list[float]:
    """The largest dot product of each of the queries, (n, dim), in one pass over the vectors; -inf without vectors."""
    asked = np.ascontiguousarray(queries, dtype=np.float32).T
    best = np.full(asked.shape[1], -np.inf, dtype=np.float32)
    for _, vectors in blocks:
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            np.maximum(best, (vectors[start : start + _ROWS_AT_ONCE] @ asked).max(axis=0), out=best)
    return [float(score) for score in best]
