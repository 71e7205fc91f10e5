"""What every analysis does first: vectors as rows of unit length in float64, checked; and how many threads it takes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.libraries import library

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]
"""Positions of texts, or numbers of clusters and labels."""

_SMALL = 4_000_000
"""Numbers in an array for which one thread is as fast as all, and 20 times faster than all on a busy machine."""


def unit_rows(vectors: Vectors, task: str, *, least: int = 2) -> Floats:
    """The rows at unit length, (n, d) float64, so that distances follow the cosine. Raises what `check_rows` raises."""
    check_rows(vectors, task, least=least)
    rows: Floats = np.array(vectors, dtype=np.float64, order="C")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def check_rows(vectors: Vectors, task: str, *, least: int = 2) -> None:
    """Refuse rows that no analysis can use. task: such as "clustering", for messages.

    Raises InvalidInput if there are fewer than `least` rows, or one is zero or has a number that is not finite.
    """
    if vectors.ndim != 2:
        raise InvalidInput(
            f"{task.capitalize()} takes vectors as an array (n, d); this one has the shape {vectors.shape}."
        )
    n = len(vectors)
    if n < least:
        raise InvalidInput(f"{task.capitalize()} takes at least {least} texts; there {'is' if n == 1 else 'are'} {n}.")
    lengths = np.linalg.norm(vectors, axis=1)
    faulty = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(faulty):
        raise InvalidInput(f"{task.capitalize()}: the vector of text {faulty[0] + 1} is zero or not finite.")


def n_distinct(rows: Floats) -> int:
    """How many of the rows differ."""
    return len({row.tobytes() for row in rows})


def check_texts(texts: Sequence[str], n: int, task: str) -> None:
    """Raises InvalidInput unless there is one text per vector."""
    if len(texts) != n:
        raise InvalidInput(f"{task.capitalize()}: there are {len(texts)} texts for {n} vectors.")


def threads_for(rows: Floats) -> AbstractContextManager[object]:
    """Limits the libraries to one thread where more would not help: k-means on 300 texts took 27 s instead of 1.4."""
    limits = library("threadpoolctl").threadpool_limits
    found: AbstractContextManager[object] = limits(1 if rows.size <= _SMALL else None)
    return found
