"""Conformance suite of stores: every one gives the answers of a slow, obvious reference."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from embedgate.core.errors import Conflict
from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit.collections import filters
from embedgate.toolkit.collections.approximate import ApproximateStore
from embedgate.toolkit.collections.store import Hit, Item, Store
from embedgate.toolkit.records import Scalar

DIM = 24
MakeStore = Callable[[int], Store]
FILTERS = [
    "lang = 'en'",
    "lang != 'en'",
    "year >= 2020",
    "year < 2020 or lang in ('de', 'fr')",
    "not (year = 2021 and lang = 'en')",
    "price > 0.5 and price <= 9.75",
    "is_new = true",
    "is_new != true",
    "note = null",
    "note != null",
    "title >= 'é'",
    "title < 'b'",
    "year = '2021'",
    "code = 7",
    "code in (7, 8) and not lang not in ('en', 'de')",
    "`strange name` = 'it''s'",
    "missing > 3 or missing < 'a' or missing = true",
    "missing != 3",
    "year > 'a'",
]

VALUES: dict[str, list[Scalar]] = {
    "lang": ["en", "de", "fr", ""],
    "year": [2019, 2020, 2021, 2021.5, "2021"],
    "price": [0.5, 9.75, 10, -3, 1e12],
    "is_new": [True, False, "true"],
    "title": ["a", "b", "é", "z", "日本", "𝔘"],
    "code": [7, "7", 8, None],
}


def items_of(n: int, seed: int = 7) -> list[Item]:
    """Items with metadata of all types, some of them missing."""
    dice = random.Random(seed)
    found = []
    for number in range(n):
        metadata = {name: dice.choice(values) for name, values in VALUES.items()}
        if dice.random() < 0.5:
            metadata["note"] = dice.choice([None, "n"])
        if dice.random() < 0.5:
            metadata["strange name"] = dice.choice(["it's", "its"])
        found.append(Item(f"id {number}", f"text {number} of {dice.choice(['cats', 'dogs'])}", "a.txt", metadata))
    return found


def vectors_of(n: int, seed: int = 7) -> Vectors:
    return normalise(np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32))


def brute_force(items: Sequence[Item], vectors: Vectors, query: Vectors, k: int, where: str | None) -> list[Hit]:
    wanted = None if where is None else filters.parse(where)
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    kept = [
        Hit(item.id, score)
        for item, score in zip(items, scores, strict=True)
        if wanted is None or filters.matches(wanted, item.metadata)
    ]
    return sorted(kept, key=lambda hit: -hit.score)[:k]


def assert_same(found: Sequence[Hit], expected: Sequence[Hit], where: str | None = None) -> None:
    assert [hit.id for hit in found] == [hit.id for hit in expected], where
    np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], rtol=0, atol=1e-6)


def test_search_equals_brute_force_filters_included(make_store: MakeStore) -> None:
    store, items, vectors = make_store(DIM), items_of(300), vectors_of(300)
    store.put(1, items, vectors)
    assert store.unindexed(1) == (0 if store.is_exact else 300)
    assert store.is_exact or isinstance(store, ApproximateStore)
    for where in (None, *FILTERS):
        wanted = None if where is None else filters.parse(where)
        for query, k in zip(vectors_of(3, seed=8), (1, 10, 1_000), strict=True):
            assert_same(store.nearest(1, query, k, wanted), brute_force(items, vectors, query, k, where), where)


def test_best_scores_are_those_of_single_searches(make_store: MakeStore) -> None:
    store, vectors, queries = make_store(DIM), vectors_of(60), vectors_of(5, seed=8)
    assert store.best_scores(1, queries) == [-np.inf] * 5
    store.put(1, items_of(60), vectors)
    expected = (queries.astype(np.float64) @ vectors.T.astype(np.float64)).max(axis=1)
    np.testing.assert_allclose(store.best_scores(1, queries), expected, rtol=0, atol=1e-6)
    assert store.best_scores(1, queries[:0]) == []


def test_changes_between_searches_are_seen(make_store: MakeStore) -> None:
    store, items, vectors = make_store(DIM), items_of(60), vectors_of(60)
    (query,) = vectors_of(1, seed=9)
    assert store.nearest(1, query, 5) == []
    store.put(1, items[:40], vectors[:40])
    assert_same(store.nearest(1, query, 60), brute_force(items[:40], vectors[:40], query, 60, None))
    store.put(1, items[40:], vectors[40:])
    assert_same(store.nearest(1, query, 60), brute_force(items, vectors, query, 60, None))
    assert store.remove(1, [item.id for item in items[:10]] + ["unknown"]) == 10
    assert_same(store.nearest(1, query, 60), brute_force(items[10:], vectors[10:], query, 60, None))
    store.put(1, items[10:20], -vectors[10:20])
    vectors[10:20] *= -1
    assert_same(store.nearest(1, query, 60), brute_force(items[10:], vectors[10:], query, 60, None))
    assert store.count(1) == 50


def test_items_come_back_as_they_were_put(make_store: MakeStore) -> None:
    store, items, vectors = make_store(DIM), items_of(30), vectors_of(30)
    store.put(1, items, vectors)
    assert store.get(1, ["id 3", "unknown", "id 1"]) == [items[3], items[1]]
    entries = [(item.id, item.digest, item.details, item.source) for item in items]
    assert sorted(store.entries(1)) == sorted(entries)
    found = store.vectors_of(1, [items[2].digest, "unknown"])
    assert found.keys() == {items[2].digest}
    np.testing.assert_allclose(found[items[2].digest], vectors[2], atol=1e-6)
    changed = Item("id 3", "other text", "b.txt", {"a": 1})
    store.put(1, [changed], vectors[:1])
    assert store.get(1, ["id 3"]) == [changed]
    assert store.count(1) == 30
    assert store.size_bytes() > 0


def test_a_generation_serves_once_it_has_all_that_the_other_has(make_store: MakeStore) -> None:
    store, items, vectors = make_store(DIM), items_of(20), vectors_of(20)
    store.put(1, items, vectors)
    second = store.begin("n", "t", DIM + 1, 8)
    wide = np.hstack([vectors, np.zeros((20, 1), dtype=np.float32)])
    store.put(second.number, items[1:], wide[1:])
    assert not store.switch(second.number)
    store.put(second.number, items[:1], wide[:1])
    assert store.switch(second.number)
    facts = store.facts()
    assert (facts.name, facts.serving, facts.generations[1]) == ("c", second.number, second)
    assert_same(store.nearest(second.number, wide[4], 3), store.nearest(1, vectors[4], 3))
    with pytest.raises(Conflict):
        store.discard(second.number)
    assert store.switch(1)
    store.remove(1, ["id 0"])
    assert not store.switch(second.number)
    store.discard(second.number)
    assert store.facts().generations == facts.generations[:1]
    assert store.begin("n", "t", 3, None).number == second.number + 1
    assert_same(store.nearest(1, vectors[4], 1), [Hit("id 4", 1.0)])


def test_words_are_found_best_first_filters_included(make_store: MakeStore) -> None:
    store = make_store(DIM)
    if not store.has_keywords:
        pytest.skip("this store has no search for words")
    texts = ["the cat sat", "a cat, a cat and a cat", "dogs bark", "Café au lait", 'quoted "cat" OR dogs']
    items = [Item(str(number), text, "", {"n": number}) for number, text in enumerate(texts)]
    store.put(1, items, vectors_of(5))
    assert {hit.id for hit in store.with_words(1, ["cat"], 10)} == {"0", "1", "4"}
    assert [hit.id for hit in store.with_words(1, ["dogs", "quoted"], 1)] == ["4"]
    assert [hit.id for hit in store.with_words(1, ["CAT"], 10, filters.parse("n < 1"))] == ["0"]
    assert [hit.id for hit in store.with_words(1, ["cafe"], 10)] == ["3"]
    assert store.with_words(1, ["OR", '"', "NEAR("], 10) == store.with_words(1, ["OR"], 10)
    assert store.with_words(1, [], 10) == []
    store.remove(1, ["0"])
    assert {hit.id for hit in store.with_words(1, ["cat"], 10)} == {"1", "4"}


def test_nothing_is_left_of_a_destroyed_store(make_store: MakeStore) -> None:
    store = make_store(DIM)
    store.put(1, items_of(5), vectors_of(5))
    store.destroy()
    store.close()
