"""JSON texts of vectors are those that `to_json` writes, are found again, and stay within their bound."""

import numpy as np

from embedgate.core.types import CachedVector
from embedgate.core.vectors import Vectors, to_json
from embedgate.storage.cache.json_texts import JsonTexts
from embedgate.storage.cache.memory import MemoryTier
from embedgate.storage.cache.tiered import TieredCache


def some(n: int, dim: int = 64) -> Vectors:
    return np.random.default_rng(7).standard_normal((n, dim)).astype(np.float32)


def test_a_text_is_written_once_and_then_found_by_its_content() -> None:
    texts = JsonTexts(100_000)
    (vector,) = some(1)
    first = texts.of(vector)
    assert first == to_json(vector)
    assert texts.of(vector.copy()) is first
    assert (texts.stats().entries, texts.stats().hits) == (1, 1)


def test_a_vector_that_differs_in_one_bit_has_a_text_of_its_own() -> None:
    texts = JsonTexts(100_000)
    (vector,) = some(1)
    other, minus = vector.copy(), vector.copy()
    other.view(np.uint32)[-1] ^= 1
    vector[0], minus[0] = 0.0, -0.0
    for each in (vector, other, minus, vector, other, minus):
        assert texts.of(each) == to_json(each)
    assert texts.stats().hits == 3


def test_the_bound_holds_and_the_least_recently_used_go() -> None:
    rows = some(50)
    texts = JsonTexts(20_000)
    for row in rows:
        texts.of(rows[0])  # used all the time
        texts.of(row)
        assert texts.stats().size_bytes <= 20_000
    kept, before = texts.stats().entries, texts.stats().hits
    assert 10 < kept < 50
    assert texts.stats().evictions == 50 - kept
    texts.of(rows[0])
    texts.of(rows[1])
    assert texts.stats().hits == before + 1


def test_a_text_larger_than_the_bound_is_not_kept_and_no_bound_keeps_none() -> None:
    (vector,) = some(1, dim=4096)
    for texts in (JsonTexts(10_000), JsonTexts(0)):
        assert texts.of(vector) == texts.of(vector) == to_json(vector)
        assert (texts.stats().entries, texts.stats().size_bytes, texts.stats().hits) == (0, 0, 0)


def test_clearing_the_cache_clears_the_texts() -> None:
    cache = TieredCache(MemoryTier(100_000), None, 1, texts=JsonTexts(100_000))
    (vector,) = some(1)
    cache.put_many([(b"k", CachedVector(vector, 1, False))])
    cache.json_of(vector)
    assert cache.stats().texts.size_bytes > vector.nbytes
    cache.clear()
    assert (cache.stats().texts.entries, cache.stats().texts.size_bytes) == (0, 0)
