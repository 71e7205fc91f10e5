"""Near duplicates: what holds for any vectors, beside a slow and obvious search; bounded blocks; what is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit import duplicates
from embedgate.toolkit.duplicates import TOLERANCE, Duplicates, Keep, find_duplicates


def vectors_of(seed: int, n: int, n_groups: int, spread: float) -> Vectors:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((n_groups, 8))
    rows = centres[random.integers(n_groups, size=n)] + spread * random.standard_normal((n, 8))
    return rows.astype(np.float32)


def obvious(vectors: Vectors, texts: list[str], similarity: float, keep: Keep) -> dict[int, int]:
    """The kept text of each dropped one, one text after the other."""
    rows = normalise(vectors)
    order = list(range(len(texts)))
    if keep == "last":
        order.reverse()
    elif keep != "first":
        order.sort(key=lambda at: len(texts[at]) * (-1 if keep == "longest" else 1))
    kept: list[int] = []
    owner: dict[int, int] = {}
    for at in order:
        cosines = {other: float(rows[at] @ rows[other]) for other in kept}
        best = max(cosines, key=lambda other: cosines[other], default=None)
        if best is not None and cosines[best] >= similarity - TOLERANCE:
            owner[at] = best
        else:
            kept.append(at)
    return owner


def owners(found: Duplicates) -> dict[int, int]:
    return {each.position: group.kept for group in found.groups for each in group.dropped}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 8), st.sampled_from([0.0, 0.05, 0.3]),
    st.sampled_from([0.5, 0.9, 0.97, 1.0]), st.sampled_from(["first", "last", "longest", "shortest"]),
)  # fmt: skip
def test_what_is_dropped_is_similar_to_what_is_kept_and_kept_ones_are_not(
    seed: int, n: int, n_groups: int, spread: float, similarity: float, keep: Keep
) -> None:
    vectors = vectors_of(seed, n, n_groups, spread)
    texts = ["x" * (1 + (at * 7) % 5) for at in range(n)]
    found = find_duplicates(vectors, texts, similarity=similarity, keep=keep)
    rows = normalise(vectors).astype(np.float64)
    owner = owners(found)
    assert sorted([*found.kept, *owner]) == list(range(n))
    assert set(owner.values()) <= set(found.kept)
    for dropped, kept in owner.items():
        assert rows[dropped] @ rows[kept] >= similarity - 2 * TOLERANCE
    cosines = rows[found.kept] @ rows[found.kept].T
    np.fill_diagonal(cosines, -1)
    assert cosines.max() < similarity
    again = find_duplicates(vectors[found.kept], [texts[at] for at in found.kept], similarity=similarity, keep=keep)
    assert list(again.kept) == list(range(len(found.kept)))


@pytest.mark.parametrize("keep", ["first", "last", "longest", "shortest"])
def test_blocks_change_nothing(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = vectors_of(1, 300, 60, 0.2)
    texts = ["x" * (1 + (at * 13) % 11) for at in range(300)]
    whole = find_duplicates(vectors, texts, similarity=0.9, keep=keep)
    assert owners(whole) == obvious(vectors, texts, 0.9, keep)
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    monkeypatch.setattr(duplicates, "_KEPT_BLOCK", 5)
    assert owners(find_duplicates(vectors, texts, similarity=0.9, keep=keep)) == owners(whole)


def test_equal_texts_are_told_from_similar_ones_and_near_misses_are_shown() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [1, 0], [0, 1], [0.5, 1]], dtype=np.float32)
    found = find_duplicates(vectors, ["A  text", "a word", "a Text", "other", "another"], similarity=0.95)
    (group,) = found.groups
    assert group.kept == 0
    assert [(each.position, each.is_equal) for each in group.dropped] == [(2, True), (1, False)]
    assert (list(found.kept), found.n_dropped) == ([0, 3, 4], 2)
    (first, second) = found.near_misses
    assert (first.position, first.other, second.position) == (3, 4, 0)
    assert first.similarity == pytest.approx(1 / np.sqrt(1.25), abs=1e-6)


def test_the_longest_text_is_kept() -> None:
    found = find_duplicates(np.ones((3, 2), dtype=np.float32), ["a", "abc", "ab"], keep="longest")
    assert (found.groups[0].kept, list(found.kept)) == (1, [1])


@pytest.mark.parametrize(
    ("n", "similarity", "said"),
    [(0, 0.9, "at least 1"), (2, 0.0, "above 0"), (2, 1.1, "at most 1"), (2, np.nan, "cosine")],
)
def test_what_cannot_be_searched_is_refused(n: int, similarity: float, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        find_duplicates(np.ones((n, 2), dtype=np.float32), ["a"] * n, similarity=similarity)
    with pytest.raises(InvalidInput, match="texts for"):
        find_duplicates(np.ones((3, 2), dtype=np.float32), ["a"])
