"""Approximate search: recall against exact search, changes after the index, indexes that are lost or spoiled."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from embedgate.core.errors import DependencyMissing, UnsupportedOption
from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit import Collections, FakeEmbedder
from embedgate.toolkit.collections import filters
from embedgate.toolkit.collections.shelves import shelf_at
from embedgate.toolkit.collections.store import Facts, Item, Store

DIM, N, K = 32, 4_000, 10


def vectors_of(n: int, seed: int) -> Vectors:
    """(n, 32) of unit length around a hundred centres."""
    dice = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((100, DIM)).astype(np.float32)
    noise = dice.standard_normal((n, DIM)).astype(np.float32)
    return normalise(centres[dice.integers(0, 100, n)] + noise)


VECTORS, QUERIES = vectors_of(N, 2), vectors_of(30, 3)
ITEMS = [Item(str(number), f"text {number}", "", {"tenth": number % 10, "all": True}) for number in range(N)]
Choose = Callable[[int], bool]


def recall(
    store: Store, where: str | None = None, chosen: Choose = lambda _: True, vectors: Vectors = VECTORS
) -> float:
    """The share of the true nearest that is found. Scores must be true, too."""
    wanted = None if where is None else filters.parse(where)
    places = np.array([number for number in range(N) if chosen(number)])
    n_right = 0
    for query in QUERIES:
        scores = vectors[places] @ query
        expected = {str(place) for place in places[np.argsort(-scores)[:K]]}
        found = store.nearest(1, query, K, wanted)
        assert len(found) == K
        assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
        true = [float(vectors[int(hit.id)] @ query) for hit in found]
        np.testing.assert_allclose([hit.score for hit in found], true, rtol=0, atol=1e-6)
        assert all(chosen(int(hit.id)) for hit in found)
        n_right += len({hit.id for hit in found} & expected)
    return n_right / (K * len(QUERIES))


def put(store: Store, numbers: Sequence[int], vectors: Vectors = VECTORS) -> None:
    chosen = list(numbers)
    for start in range(0, len(chosen), 1_000):
        part = chosen[start : start + 1_000]
        store.put(1, [ITEMS[number] for number in part], vectors[part])


def created(address: str) -> Store:
    return shelf_at(address).create(Facts.of_new("c", "m", "s", DIM, None, is_approximate=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return created(f"sqlite:{tmp_path}")


def indexes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.usearch"))


def test_recall_is_nearly_that_of_exact_search_filters_included(store: Store, tmp_path: Path) -> None:
    assert not store.is_exact
    put(store, range(N))
    assert recall(store) == 1  # there is no index yet
    progress: list[tuple[int, int]] = []
    store.optimize(1, lambda done, n: progress.append((done, n)))
    assert progress[-1] == (N, N)
    assert len(indexes(tmp_path)) == 1
    for where, chosen in FILTERS:
        assert recall(store, where, chosen) >= 0.95, where
    store.close()
    reopened = shelf_at(f"sqlite:{tmp_path}").find("c")
    assert reopened is not None
    assert recall(reopened) >= 0.95
    assert reopened.nearest(1, QUERIES[0], 3_000)[-1].score < 0.5
    assert reopened.best_scores(1, QUERIES[:3]) == [reopened.nearest(1, each, 1)[0].score for each in QUERIES[:3]]
    reopened.close()


FILTERS: list[tuple[str | None, Choose]] = [
    (None, lambda _: True),
    ("all = true", lambda _: True),
    ("tenth < 8", lambda number: number % 10 < 8),
    ("tenth = 3", lambda number: number % 10 == 3),
]


def test_hnsw_of_postgresql_finds_nearly_all_filters_included(postgres: str) -> None:
    store = created(postgres)
    put(store, range(1_500))
    store.optimize(1)
    for where, passes in FILTERS:
        assert recall(store, where, lambda number: number < 1_500 and passes(number)) >= 0.95, where  # noqa: B023
    store.close()
    wide = shelf_at(postgres).create(Facts.of_new("wide", "m", "s", 3_072, None, is_approximate=True))
    vectors = normalise(np.random.default_rng(1).standard_normal((20, 3_072)).astype(np.float32))
    wide.put(1, ITEMS[:20], vectors)
    assert wide.nearest(1, vectors[7], 1)[0].id == "7"
    wide.close()


def test_changes_after_the_index_are_seen_and_caught_up_with(store: Store, tmp_path: Path) -> None:
    put(store, range(3_000))
    store.optimize(1)
    (first,) = indexes(tmp_path)
    put(store, range(3_000, N))
    assert store.unindexed(1) == N - 3_000
    assert recall(store) >= 0.95
    store.remove(1, [str(number) for number in range(0, N, 4)])
    changed = VECTORS.copy()
    changed[1:N:40] = vectors_of(len(changed[1:N:40]), 5)
    put(store, range(1, N, 40), changed)
    assert recall(store, None, lambda number: number % 4 != 0, changed) >= 0.95
    store.optimize(1)
    (second,) = indexes(tmp_path)
    assert second != first
    assert recall(store, None, lambda number: number % 4 != 0, changed) >= 0.95
    store.optimize(1)
    assert indexes(tmp_path) == [second]
    size_bytes = second.stat().st_size
    store.remove(1, [str(number) for number in range(N) if number % 4 == 1])
    assert recall(store, None, lambda number: number % 4 > 1, changed) >= 0.95
    store.optimize(1)
    assert recall(store, None, lambda number: number % 4 > 1, changed) >= 0.95
    (third,) = indexes(tmp_path)
    assert third.stat().st_size < size_bytes * 0.8


def test_an_index_that_is_deleted_spoiled_or_of_another_file_is_not_used(store: Store, tmp_path: Path) -> None:
    put(store, range(2_500))
    store.close()
    shutil.copy(tmp_path / "c.collection", tmp_path / "copy")
    shelf = shelf_at(f"sqlite:{tmp_path}")

    def again() -> Store:
        found = shelf.find("c")
        assert found is not None
        return found

    with_index = again()
    put(with_index, range(2_500, N))
    with_index.optimize(1)
    with_index.close()
    (index,) = indexes(tmp_path)
    content = index.read_bytes()
    for spoiled in (content[:1_000], content[: len(content) // 2], b"", b"x" * len(content)):
        index.write_bytes(spoiled)
        assert recall_and_close(again()) == 1
    index.unlink()
    assert recall_and_close(again()) == 1
    index.write_bytes(content)
    shutil.copy(tmp_path / "copy", tmp_path / "c.collection")  # a backup from before the index
    restored = again()
    put(restored, range(N - 1, 2_499, -1))  # rows that the index knows with other vectors
    assert recall(restored) == 1
    restored.optimize(1)
    assert recall_and_close(restored) >= 0.95
    again().destroy()
    assert list(tmp_path.iterdir()) == [tmp_path / "copy"]


def recall_and_close(store: Store) -> float:
    found = recall(store)
    store.close()
    return found


def test_what_cannot_be_approximate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedOption, match="searched exactly"):
        Collections(f"lancedb:{tmp_path}").create("c", FakeEmbedder(), approximate=True)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(DependencyMissing, match=r"embedgate\[usearch\]"):
        Collections(tmp_path).create("c", FakeEmbedder(), approximate=True)
    assert list(tmp_path.iterdir()) == []


def test_the_embedded_model_can_be_loaded_after_the_index(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from embedgate.toolkit import Collections, FakeEmbedder\n"
        "Collections(Path(sys.argv[1])).create('c', FakeEmbedder(), approximate=True).close()\n"
        "import onnxruntime"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True)
