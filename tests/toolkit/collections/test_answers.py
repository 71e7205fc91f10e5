"""What a question finds, when nothing is near enough, and what a chat model is asked."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from counting_embedder import Counting, records
from embedgate.core.vectors import Vectors
from embedgate.toolkit import Collection, Collections, retrieve


class Topics(Counting):
    """Texts of the same first word are alike; those of another are not."""

    def embed(self, texts, input_type=None) -> Vectors:  # type: ignore[no-untyped-def]
        whole, topic = super().embed(texts, input_type), super().embed([text.split()[0] for text in texts])
        return 0.7 * topic + 0.3 * whole


@pytest.fixture
def notes(tmp_path: Path) -> Collection:
    collection = Collections(tmp_path).create("notes", Topics(64))
    collection.add(records(*(f"cats fact {number}" for number in range(30))))
    return collection


def test_passages_are_numbered_and_the_model_is_told_to_cite_them(notes: Collection) -> None:
    answer = retrieve(notes, "cats fact 3", 2)
    assert answer.passages[0].text == "cats fact 3"
    asked: list[Mapping[str, str]] = []

    def chat(messages: Sequence[Mapping[str, str]]) -> Iterator[str]:
        asked.extend(messages)
        yield from ("It is ", "[1].")

    assert "".join(answer.stream("cats fact 3", chat)) == "It is [1]."
    assert asked[1]["content"].startswith("Passages:\n\n[1] cats fact 3\n\n[2] cats fact ")
    assert asked[1]["content"].endswith("Question: cats fact 3")


def test_a_question_farther_than_the_texts_from_each_other_is_not_in_them(notes: Collection) -> None:
    answer = retrieve(notes, "planets are round")
    assert answer.passages == ()
    assert answer.best is not None
    assert answer.best < answer.threshold

    def chat(_: Sequence[Mapping[str, str]]) -> Iterator[str]:
        raise AssertionError("nothing is asked")

    assert list(answer.stream("planets are round", chat)) == ["not in these texts"]
    assert retrieve(notes, "planets are round", min_score=-1).passages
    assert not retrieve(notes, "cats fact 3", where="n > 99").passages
    assert retrieve(notes, "cats fact 3", 2, hybrid=True).passages[0].text == "cats fact 3"


def test_few_texts_say_nothing_about_what_is_near(tmp_path: Path) -> None:
    collection = Collections(tmp_path).create("few", Topics(64))
    collection.add(records("cats fact 1", "cats fact 2"))
    assert retrieve(collection, "planets are round").passages
