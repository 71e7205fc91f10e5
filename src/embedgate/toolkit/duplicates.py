"""Near duplicates: groups of texts that say the same, and which one of each is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit.prepared import Numbers, check_rows, check_texts

Keep = Literal["first", "last", "longest", "shortest"]

SIMILARITY = 0.95
TOLERANCE = 1e-6
"""How far a cosine of float32 numbers may be off: a text is as similar as asked for if it lacks no more than this."""

_TASK = "the search for duplicates"
_N_NEAR_MISSES = 3
_BLOCK = 1_024
_KEPT_BLOCK = 8_192
"""Rows of one matrix product, and those that they are compared with: 32 MiB of cosines, however many texts."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A text that is dropped. similarity: its cosine to the text that is kept. is_equal: all but case and spaces."""

    position: int
    similarity: float
    is_equal: bool


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """A text that is kept, and those that are dropped for it, the most similar first."""

    kept: int
    dropped: Sequence[Duplicate]


@dataclass(frozen=True, slots=True)
class NearMiss:
    """Two texts that are both kept, and how similar they are."""

    position: int
    other: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Result of a search for near duplicates. Every dropped text is as similar to the kept one of its group as asked.

    No two kept texts are. groups: those of more than one text, the largest first. kept: positions, in order.
    near_misses: the most similar pairs that are kept, to judge the threshold by.
    """

    similarity: float
    keep: Keep
    groups: Sequence[DuplicateGroup]
    kept: Sequence[int]
    near_misses: Sequence[NearMiss]

    @property
    def n_dropped(self) -> int:
        """Texts that are dropped."""
        return sum(len(group.dropped) for group in self.groups)


def find_duplicates(
    vectors: Vectors, texts: Sequence[str], *, similarity: float = SIMILARITY, keep: Keep = "first"
) -> Duplicates:
    """Group texts whose vectors, (n, d), have a cosine of at least `similarity`, and choose the one that is kept.

    Texts are looked at in the order in which they are preferred; each joins the most similar kept one, or is kept.
    There are no chains: what is dropped is similar to what is kept, not to something that is dropped, too. Memory is
    bounded: the cosines are computed in blocks.
    Raises InvalidInput for a similarity that is not above 0 and at most 1.
    """
    if not 0 < similarity <= 1:
        raise InvalidInput(f"similarity is {similarity:g}; it is a cosine above 0 and at most 1.")
    check_texts(texts, len(vectors), _TASK)
    check_rows(vectors, _TASK, least=1)
    order = _preferred(texts, keep)
    rows = normalise(np.ascontiguousarray(vectors[order], dtype=np.float32))
    best, nearest = _nearest_kept(rows, similarity - TOLERANCE)
    groups: dict[int, list[Duplicate]] = {}
    kept, misses = [], []
    for at, position in enumerate(order.tolist()):
        cosine, other = min(1.0, float(best[at])), int(order[nearest[at]])
        if best[at] >= similarity - TOLERANCE:
            is_equal = _folded(texts[position]) == _folded(texts[other])
            groups.setdefault(other, []).append(Duplicate(position, cosine, is_equal))
            continue
        kept.append(position)
        if nearest[at] >= 0:
            misses.append(NearMiss(min(position, other), max(position, other), cosine))
    found = [
        DuplicateGroup(one, sorted(dropped, key=lambda each: (-each.similarity, each.position)))
        for one, dropped in groups.items()
    ]
    found.sort(key=lambda group: (-len(group.dropped), group.kept))
    misses.sort(key=lambda miss: (-miss.similarity, miss.position))
    return Duplicates(similarity, keep, found, sorted(kept), misses[:_N_NEAR_MISSES])


def _preferred(texts: Sequence[str], keep: Keep) -> Numbers:
    """Positions, that of the text that is kept rather than others first; of equal ones, the first in the file."""
    positions = np.arange(len(texts), dtype=np.intp)
    if keep == "last":
        return positions[::-1]
    if keep == "first":
        return positions
    lengths = np.array([len(text) for text in texts])
    return np.argsort(-lengths if keep == "longest" else lengths, kind="stable")


def _nearest_kept(rows: Vectors, least: float) -> tuple[Vectors, Numbers]:
    """Of each row, the highest cosine with a row that is kept before it, and which that is: -2 and -1 if there is none.

    A row is kept if that cosine is below `least`. rows: (n, d), unit length.
    """
    n = len(rows)
    best: Vectors = np.full(n, -2, dtype=np.float32)
    nearest: Numbers = np.full(n, -1, dtype=np.intp)
    kept: list[int] = []
    for start in range(0, n, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, n))
        for first in range(0, len(kept), _KEPT_BLOCK):
            others = np.array(kept[first : first + _KEPT_BLOCK])
            cosines = rows[block] @ rows[others].T
            _improve(best, nearest, block, cosines.max(axis=1), others[cosines.argmax(axis=1)])
        among = rows[block] @ rows[block].T
        for at, row in enumerate(block.tolist()):
            if best[row] < least:
                kept.append(row)
                _improve(best, nearest, block[at + 1 :], among[at, at + 1 :], np.full(len(block) - at - 1, row))
    return best, nearest


def _improve(best: Vectors, nearest: Numbers, rows: Numbers, cosines: Vectors, others: Numbers) -> None:
    """Note the cosines that are higher than those so far."""
    better = cosines > best[rows]
    best[rows[better]] = cosines[better]
    nearest[rows[better]] = others[better]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
