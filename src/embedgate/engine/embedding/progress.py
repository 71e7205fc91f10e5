"""Progress of one request: the vectors it has so far, their tokens, and where they came from, row by row."""

from collections.abc import Sequence

import numpy as np

from embedgate.core.types import Candidate, Served, Usage
from embedgate.core.vectors import Vectors, shorten


class Progress:
    """The rows of one request, all of one vector space at any time: a move to another space discards them.

    `candidate` is the one of the moment, `keys` are the cache keys of the inputs there, made with its `identity`.
    `n_missing` inputs have no vector yet.
    """

    def __init__(self, n: int, dim: int | None) -> None:
        """n: inputs of the request. dim: the size asked for, None for the model's own."""
        self._n = n
        self._dim = dim
        self._space: tuple[str | None, int] = (None, 0)
        self.candidate: Candidate | None = None
        self._clear()

    def _clear(self) -> None:
        self.n_missing = self._n
        self._rows: list[Vectors | None] = [None] * self._n
        self._block: Vectors | None = None
        self._tokens = [0] * self._n
        self._reused_tokens = 0
        self._truncated: set[int] = set()
        self._is_estimated = False
        self.keys: tuple[bytes, ...] | None = None
        self.identity: tuple[str, ...] = ()

    def move(self, candidate: Candidate, width: int) -> bool:
        """Continue with a candidate of vectors of `width` numbers. True if its space differs: all rows are discarded.

        The first move of a request moves no rows.
        """
        self.candidate = candidate
        space = (candidate.model.space, width)
        if space == self._space:
            return False
        is_first = self._space == (None, 0)
        self._space = space
        if not is_first:
            self._clear()
        return True

    def missing(self) -> list[int]:
        """Positions without a vector yet, in order."""
        if self.n_missing == self._n:
            return list(range(self._n))
        return [position for position, row in enumerate(self._rows) if row is None]

    def fill(
        self, rows: Sequence[int], vectors: Vectors, tokens: Sequence[int], truncated: Sequence[int], is_estimated: bool
    ) -> None:
        """Put the vectors of one call in place, (len(rows), d). truncated: positions among `rows`."""
        if truncated:
            self._truncated.update(rows[position] for position in truncated)
        self._is_estimated |= is_estimated
        self.n_missing -= len(rows)
        if len(rows) == self._n:
            self._block = vectors
            self._tokens = list(tokens)
            self._reused_tokens = 0
            return
        for row, vector, n_tokens in zip(rows, vectors, tokens, strict=True):
            self._rows[row] = vector
            self._tokens[row] = n_tokens

    def reuse(self, row: int, vector: Vectors, tokens: int, is_truncated: bool) -> None:
        """Put a vector in place that cost this request nothing: from the cache, or from another request's call."""
        self.n_missing -= 1
        self._rows[row] = vector
        self._tokens[row] = tokens
        self._reused_tokens += tokens
        if is_truncated:
            self._truncated.add(row)

    def served(self, candidate: Candidate) -> Served:
        """The finished answer, shortened to the size asked for."""
        vectors = self._block
        if vectors is None:
            rows = [row for row in self._rows if row is not None]
            vectors = rows[0][np.newaxis] if self._n == 1 else np.stack(rows)
        if self._dim is not None and vectors.shape[1] != self._dim:
            vectors = shorten(vectors, self._dim)
        return Served(
            candidate=candidate,
            vectors=vectors,
            usage=Usage(sum(self._tokens), self._is_estimated, self._reused_tokens),
            truncated=tuple(sorted(self._truncated)) if self._truncated else (),
        )
