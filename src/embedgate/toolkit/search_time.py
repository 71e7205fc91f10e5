"""How long an exact search takes: every vector compared with a question, in each encoding, on one core."""

import time
from collections.abc import Callable

import numpy as np

from embedgate.core.errors import InvalidInput
from embedgate.core.quantise import to_int8, to_ubinary
from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit.libraries import library

_N = 20_000
"""Vectors that are compared: more than the processor's cache holds, as a million are."""
_BLOCK = 1_000
_TIMES = 5
_MILLION = 1_000_000


def ms_per_million(vectors: Vectors, encoding: str) -> float:
    """Milliseconds that comparing a question with a million such vectors takes, from a sample: the best of five.

    vectors: (n, d) float32, at least one; repeated until there are enough. encoding: float32, int8 or binary.
    """
    rows = normalise(np.resize(np.ascontiguousarray(vectors, dtype=np.float32), (_N, vectors.shape[1])))
    compare = _COMPARISONS.get(encoding)
    if compare is None:
        raise InvalidInput(f"{encoding} is not one of {', '.join(_COMPARISONS)}.")
    search = compare(rows)
    with library("threadpoolctl").threadpool_limits(1):
        return min(_seconds(search) for _ in range(_TIMES)) * 1_000 * _MILLION / _N


def _seconds(search: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    search()
    return time.perf_counter() - start_s


def _as_numbers(rows: Vectors) -> Callable[[], object]:
    return lambda: rows @ rows[0]


def _as_bytes(rows: Vectors) -> Callable[[], object]:
    """As float32 a block at a time: NumPy multiplies whole numbers ten times as slowly."""
    stored = to_int8(rows)
    question = stored[0].astype(np.float32)
    return lambda: [stored[at : at + _BLOCK].astype(np.float32) @ question for at in range(0, _N, _BLOCK)]


def _as_bits(rows: Vectors) -> Callable[[], object]:
    stored = to_ubinary(rows)
    return lambda: np.bitwise_count(stored ^ stored[0]).sum(axis=1, dtype=np.int32)


_COMPARISONS: dict[str, Callable[[Vectors], Callable[[], object]]] = {
    "float32": _as_numbers,
    "int8": _as_bytes,
    "binary": _as_bits,
}
