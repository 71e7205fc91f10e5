"""Reciprocal rank fusion: one ranking out of several, by places instead of scores, which cannot be compared."""

from collections.abc import Iterable, Sequence

from embedgate.toolkit.collections.store import Hit

RANK_CONSTANT = 60
"""Of Cormack, Clarke and Buettcher (2009): how little the first places are preferred to those after them."""


def fuse(rankings: Iterable[Sequence[str]], k: int) -> list[Hit]:
    """The k ids with the largest sum of 1 / (60 + place) over all rankings, best first; ties by first appearance.

    rankings: ids, best first, each at most once. Places are counted from 1.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for place, item_id in enumerate(ranking, start=1):
            scores[item_id] = scores.get(item_id, 0.0) + 1 / (RANK_CONSTANT + place)
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    return [Hit(item_id, score) for item_id, score in ranked[:k]]
