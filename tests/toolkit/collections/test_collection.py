"""Collections: what is embedded and what is not, spaces, searches of both kinds, faults half way."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from counting_embedder import Counting, records
from embedgate.core.errors import (
    ConfigError,
    Conflict,
    InvalidInput,
    UnknownEntity,
    UpstreamFailed,
)
from embedgate.core.ports import CallLimits
from embedgate.toolkit import Collection, Collections, FakeEmbedder
from embedgate.toolkit.collections.store import Item


@pytest.fixture
def embedder() -> Counting:
    return Counting()


@pytest.fixture
def notes(shelf: Collections, embedder: Counting) -> Iterator[Collection]:
    with shelf.create("notes", embedder) as collection:
        yield collection


def test_what_has_not_changed_is_not_embedded_again(notes: Collection, embedder: Counting) -> None:
    added = notes.add(records("one", "two", "three"))
    assert (added.n_new, added.n_changed, added.n_unchanged, added.n_embedded) == (3, 0, 0, 3)
    added = notes.add(records("one", "two!", "three", "four"))
    assert (added.n_new, added.n_changed, added.n_unchanged, added.n_embedded) == (1, 1, 2, 2)
    assert embedder.asked == ["one", "two", "three", "two!", "four"]
    assert embedder.kinds == {"document"}
    assert [item.text for item in notes.items()] == ["one", "three", "two!", "four"]


def test_a_text_is_embedded_once_under_whatever_ids(notes: Collection, embedder: Counting) -> None:
    notes.add(records("same", "same", "other"))
    notes.add(records("other", "same", source="b.txt"))
    assert embedder.asked == ["same", "other"]
    assert len(notes) == 5


def test_changed_metadata_are_kept_without_embedding(notes: Collection, embedder: Counting) -> None:
    notes.add([Item("1", "one", "a", {"n": 1})])
    added = notes.add([Item("1", "one", "a", {"n": 2})])
    assert (added.n_changed, added.n_embedded, embedder.asked) == (1, 0, ["one"])
    assert [item.metadata for item in notes.items()] == [{"n": 2}]


def test_a_search_finds_the_text_itself_with_score_one(notes: Collection, embedder: Counting) -> None:
    notes.add(records("one", "two", "three"))
    (found, *others) = notes.search("two", k=3)
    assert (found.rank, found.id, found.text, found.source, found.metadata) == (1, "a.txt:2", "two", "a.txt", {"n": 2})
    assert found.score == pytest.approx(1, abs=1e-6)
    assert len(others) == 2
    assert "query" in embedder.kinds
    assert [each.id for each in notes.search("two", where="n != 2")] == [each.id for each in others]
    assert notes.search("two", where="n > 3") == []
    vector = embedder.embed(["three"])[0]
    assert notes.search_vector(vector, 1)[0].text == "three"


def test_similar_texts_are_found_without_the_text_itself(notes: Collection) -> None:
    notes.add([Item("1", "one"), Item("2", "one"), Item("3", "three")])
    assert [found.id for found in notes.similar("1", 5)] == ["2", "3"]
    with pytest.raises(UnknownEntity, match="no text with the id 'x'"):
        notes.similar("x")


def test_hybrid_search_finds_what_words_find(notes: Collection) -> None:
    notes.add(records(*(f"text {number}" for number in range(200)), "error E1234 of the printer"))
    texts = [[found.text for found in notes.search("what is E1234?", k=2, hybrid=way)] for way in (False, True)]
    assert ["error E1234 of the printer" in found for found in texts] == [False, True]


def test_a_reranker_judges_the_best_fifty(notes: Collection) -> None:
    notes.add(records(*(f"text {number}" for number in range(60))))
    seen: list[str] = []

    def longest_first(question: str, texts: Sequence[str]) -> list[float]:
        seen.extend(texts)
        return [float(text.split()[1]) for text in texts]

    found = notes.search("anything", k=2, rerank=longest_first)
    assert len(seen) == 50
    assert [each.score for each in found] == sorted((float(text.split()[1]) for text in seen), reverse=True)[:2]
    assert [each.rank for each in found] == [1, 2]


def test_another_space_is_refused_and_both_are_named(shelf: Collections, notes: Collection) -> None:
    class Other(Counting):
        @property
        def model(self) -> str:
            return "other/model"

    for other in (Other(), Counting(dim=8)):
        with shelf.open("notes", other) as opened:
            for use in (lambda: opened.search("x"), lambda: opened.add(records("x"))):
                with pytest.raises(Conflict) as refused:
                    use()
                assert "fake/deterministic, dim 16" in str(refused.value)
                assert f"{other.model}, dim {other.dim}" in str(refused.value)
    with shelf.open("notes") as opened, pytest.raises(ConfigError, match="without an embedder"):
        opened.search("x")


def test_what_was_put_before_a_failure_is_kept_and_not_embedded_again(shelf: Collections) -> None:
    embedder = Counting(limits=CallLimits(max_inputs=2))
    progress: list[tuple[int, int]] = []
    with shelf.create("notes", embedder) as notes:
        with pytest.raises(UpstreamFailed):
            notes.add(records("a", "b", "c", "d", "fail"), on_progress=lambda done, n: progress.append((done, n)))
        assert progress == [(2, 5), (4, 5)]
        assert len(notes) == 4
        added = notes.add(records("a", "b", "c", "d", "e"))
    assert (added.n_new, added.n_unchanged) == (1, 4)
    assert embedder.asked == ["a", "b", "c", "d", "e"]


def test_faulty_texts_are_named_by_position_or_left_out(notes: Collection) -> None:
    notes.add(records("a", "b"))
    with pytest.raises(InvalidInput) as refused:
        notes.add(records("a", "b", "c", "bad"))
    assert refused.value.index == 3
    added = notes.add(records("a", "bad", "c", "bad"), on_error="skip")
    assert [(each.position, each.reason) for each in added.left_out] == [(1, "is bad"), (3, "is bad")]
    assert (added.n_new, added.n_changed, added.n_unchanged) == (1, 0, 1)
    assert [item.text for item in notes.items()] == ["a", "b", "c"]


def test_sources_are_replaced_as_a_whole(notes: Collection) -> None:
    notes.add(records("a", "b", "c"))
    notes.add(records("x", "y", source="b.txt"))
    added = notes.add(records("a"), replaces=lambda source: source == "a.txt")
    assert added.n_removed == 2
    assert sorted(item.text for item in notes.items()) == ["a", "x", "y"]
    assert notes.delete(["b.txt:1", "unknown"]) == 1
    assert notes.matching("n = 2") == ["b.txt:2"]


def test_exported_vectors_are_those_of_the_texts(notes: Collection, embedder: Counting) -> None:
    notes.add(records("a", "b", "a"))
    ((items, vectors),) = notes.export()
    expected = FakeEmbedder(16).embed([item.text for item in items])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.mark.parametrize(
    "item",
    [
        Item("", "no id"),
        Item("1", "\ud800"),
        Item("1", "nul \0"),
        Item("\udfff", "a"),
        Item("1", "a", "", {"a": 2**70}),
        Item("1", "a", "", {"a": object()}),  # type: ignore[dict-item]
    ],
)
def test_what_no_store_can_keep_is_refused(notes: Collection, item: Item) -> None:
    with pytest.raises(InvalidInput):
        notes.add([item])
    with pytest.raises(InvalidInput, match="same id"):
        notes.add([Item("1", "a"), Item("1", "b")])


def test_wrong_questions_are_refused(notes: Collection) -> None:
    def ask(question: str, k: int = 5, where: str | None = None) -> None:
        with pytest.raises(InvalidInput):
            notes.search(question, k, where=where)

    ask("  ")
    ask("x", k=0)
    ask("x", k=10_001)
    ask("x", where="n ==")
    for vector in (np.ones(3, dtype=np.float32), np.full(16, np.nan, dtype=np.float32)):
        with pytest.raises(InvalidInput):
            notes.search_vector(vector)


def test_collections_are_made_listed_and_dropped_by_name(shelf: Collections, notes: Collection) -> None:
    assert shelf.names() == ["notes"]
    with pytest.raises(Conflict, match="There is a collection 'notes' already"):
        shelf.create("notes", Counting())
    with pytest.raises(UnknownEntity, match="There are: notes"):
        shelf.open("other")
    for name in ("", "../notes", "a/b", ".hidden", "a" * 65, "ü"):
        with pytest.raises(InvalidInput, match="is no name"):
            shelf.create(name, Counting())
    notes.close()
    shelf.drop("notes")
    assert shelf.names() == []


def test_a_file_that_is_no_collection_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "collections"
    shelf = Collections(folder)
    shelf.create("notes", Counting()).close()
    (folder / "text.collection").write_text("this is not a database" * 100)
    (folder / "empty.collection").write_bytes(b"")
    found = dict(shelf.each())
    assert isinstance(found["notes"], Collection)
    for name in ("text", "empty"):
        assert "is not a collection" in str(found[name])


def test_a_change_of_another_process_is_seen(shelf: Collections, notes: Collection) -> None:
    notes.add(records("a", "b"))
    assert len(notes.search("a", k=9)) == 2
    with shelf.open("notes", Counting()) as other:
        other.add(records("c", source="b.txt"))
        assert [found.text for found in notes.search("c", k=1)] == ["c"]
        other.delete(["a.txt:1"])
    assert {found.text for found in notes.search("a", k=9)} == {"b", "c"}
