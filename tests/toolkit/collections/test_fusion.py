"""Reciprocal rank fusion: sums of ranks, whatever the rankings."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from embedgate.toolkit.collections.fusion import RANK_CONSTANT, fuse

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4)


def test_what_both_rankings_have_is_before_what_one_has() -> None:
    found = fuse([["a", "b", "c"], ["d", "b"]], 10)
    assert [hit.id for hit in found] == ["b", "a", "d", "c"]
    assert found[0].score == 2 / 62


@given(RANKINGS, st.integers(1, 10))
def test_scores_are_the_sums_of_the_definition(rankings: list[list[str]], k: int) -> None:
    ids = {item_id for ranking in rankings for item_id in ranking}
    expected = {
        item_id: sum(
            Fraction(1, RANK_CONSTANT + 1 + ranking.index(item_id)) for ranking in rankings if item_id in ranking
        )
        for item_id in ids
    }
    found = fuse(rankings, k)
    assert len(found) == min(k, len(ids))
    for hit in found:
        assert abs(hit.score - float(expected[hit.id])) < 1e-15
    left_out = ids - {hit.id for hit in found}
    assert all(expected[item_id] <= expected[found[-1].id] for item_id in left_out)


@given(RANKINGS)
def test_the_order_of_rankings_changes_no_score(rankings: list[list[str]]) -> None:
    one, other = fuse(rankings, 99), fuse(rankings[::-1], 99)
    assert sorted(hit.id for hit in one) == sorted(hit.id for hit in other)
    for hit, same in zip(sorted(one), sorted(other), strict=True):
        assert abs(hit.score - same.score) < 1e-15
