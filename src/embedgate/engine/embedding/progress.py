"""What of one request is answered: vectors, their tokens, and where they came from, row by row."""

from collections.abc import Sequence

import numpy as np

from embedgate.core.types import Candidate, Served, Usage
from embedgate.core.vectors import Vectors, shorten


class Progress:
    """The rows of one request, all of one space at any time: entering another space throws them away."""

    def __init__(self, n: int, dim: int | None) -> None:
        """n: inputs of the request. dim: the size asked for, None for the model's own.

        `keys` are those that the inputs have at the candidate of the moment, made with its `identity`.
        """
        self._n = n
        self._dim = dim
        self._place: tuple[str | None, int] = (None, 0)
        self._clear()

    def _clear(self) -> None:
        self._rows: list[Vectors | None] = [None] * self._n
        self._block: Vectors | None = None
        self._tokens = [0] * self._n
        self._is_reused = [False] * self._n
        self._truncated: set[int] = set()
        self._is_estimated = False
        self.keys: tuple[bytes, ...] | None = None
        self.identity: tuple[str, ...] = ()

    def enter(self, candidate: Candidate, width: int) -> bool:
        """Go on with a candidate whose answers have `width` numbers. True if that begins anew, in another space."""
        place = (candidate.model.space, width)
        if place == self._place:
            return False
        self._place = place
        self._clear()
        return True

    def missing(self) -> list[int]:
        """Positions without a vector yet, in order."""
        if self._block is not None:
            return []
        return [position for position, row in enumerate(self._rows) if row is None]

    def lacks(self, row: int) -> bool:
        """Whether that position has no vector yet."""
        return self._block is None and self._rows[row] is None

    def fill(
        self, rows: Sequence[int], vectors: Vectors, tokens: Sequence[int], truncated: Sequence[int], is_estimated: bool
    ) -> None:
        """Put the vectors of one call in place, (len(rows), d). truncated: positions among `rows`."""
        self._truncated.update(rows[position] for position in truncated)
        self._is_estimated |= is_estimated
        if len(rows) == self._n:
            self._block = vectors
            self._tokens = list(tokens)
            return
        for row, vector, n_tokens in zip(rows, vectors, tokens, strict=True):
            self._rows[row] = vector
            self._tokens[row] = n_tokens

    def reuse(self, row: int, vector: Vectors, tokens: int, is_truncated: bool) -> None:
        """Put a vector in place that cost this request nothing: from the cache, or from another request's call."""
        self._rows[row] = vector
        self._tokens[row] = tokens
        self._is_reused[row] = True
        if is_truncated:
            self._truncated.add(row)

    def served(self, candidate: Candidate) -> Served:
        """The finished answer, shortened to the size asked for."""
        vectors = self._whole()
        if self._dim is not None and vectors.shape[1] != self._dim:
            vectors = shorten(vectors, self._dim)
        reused = sum(tokens for tokens, is_reused in zip(self._tokens, self._is_reused, strict=True) if is_reused)
        return Served(
            candidate=candidate,
            vectors=vectors,
            usage=Usage(sum(self._tokens), self._is_estimated, reused),
            truncated=tuple(sorted(self._truncated)),
        )

    def _whole(self) -> Vectors:
        if self._block is not None:
            return self._block
        rows = [row for row in self._rows if row is not None]
        return rows[0][np.newaxis] if self._n == 1 else np.stack(rows)
