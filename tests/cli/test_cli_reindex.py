"""`embedgate reindex`: cost first, progress, report, switch, and the way back."""

from pathlib import Path

import pytest

from program import Program
from upstream import Upstream, error

TO = ("--to", "fake/deterministic", "--dimensions", "16")


@pytest.fixture
def notes(program: Program, folder: Path, fake_only: None) -> None:
    """A collection of forty lines."""
    (folder / "notes.txt").write_text("".join(f"text {number}\n" for number in range(40)))
    assert program("index", "create", "notes", "--dimensions", "32").code == 0
    assert program("index", "add", "notes", "notes.txt").code == 0


@pytest.mark.usefixtures("notes")
def test_a_collection_moves_says_what_changed_and_goes_back(program: Program, folder: Path) -> None:
    asked = program("reindex", "notes", *TO)
    assert (asked.code, asked.output) == (2, b"")
    assert "24 texts to embed, some 42 tokens, for nothing, in about" in asked.errors
    assert "from fake/deterministic, dim 32 to fake/deterministic, dim 16" in asked.errors
    assert "there is no terminal to ask at; give --yes" in asked.errors
    assert program("search", "notes", "text 3", "-k", "1").code == 0
    moved = program("reindex", "notes", *TO, "--yes", "--sample", "10")
    assert moved.code == 0, moved.errors
    lines = moved.text.splitlines()
    assert lines[0].startswith("compared by 10 texts of the collection: ")
    assert (
        lines[-1]
        == "notes is searched with vectors of fake/deterministic, dim 16 now; those of fake/deterministic are kept"
    )
    assert "vectors of fake/deterministic, dim 32 for 40 texts" in program("index", "show", "notes").text
    assert program("search", "notes", "text 3", "-k", "1").text.splitlines()[1].split()[:2] == ["1", "1.000"]
    back = program("reindex", "notes", "--roll-back")
    assert back.text == "notes is searched with vectors of fake/deterministic, dim 32 again\n"
    assert program("reindex", "notes", "--forget").code == 2
    assert program("reindex", "notes", "--forget", "--yes").text == "deleted the vectors of 1 model\n"
    assert program("reindex", "notes", "--roll-back").code == 1


@pytest.mark.usefixtures("notes")
def test_results_are_compared_by_questions(program: Program, folder: Path) -> None:
    (folder / "questions.txt").write_text("text 3\ntext 4\n")
    moved = program("reindex", "notes", *TO, "--yes", "--questions", "questions.txt")
    assert moved.code == 0, moved.errors
    assert moved.text.startswith("compared by 2 questions: ")
    assert "the first in 100%" in moved.text


@pytest.mark.usefixtures("notes")
def test_wrong_wishes_are_refused(program: Program) -> None:
    for arguments, code, said in (
        ([], 2, "give --to, --roll-back or --forget"),
        (["--to", "fake/deterministic", "--roll-back"], 2, "give --to"),
        (["--roll-back"], 1, "no vectors that served before"),
        (["--to", "fake/deterministic", "--dimensions", "32", "--yes"], 1, "has vectors of fake/deterministic, dim 32"),
        (["--to", "none/such", "--yes"], 1, "does not exist here"),
    ):
        ended = program("reindex", "notes", *arguments)
        assert ended.code == code, ended.errors
        assert said in ended.errors
    assert "There is no collection" in program("reindex", "other", *TO).errors


@pytest.mark.usefixtures("notes")
def test_a_provider_that_fails_half_way_costs_nothing_twice(program: Program, server: Upstream) -> None:
    there = ("--url", server.base_url, "--to", "m", "--yes")
    server.usually(error(400, "no more", code="bad"))
    failed = program("reindex", "notes", *there)
    assert failed.code != 0
    assert "no more" in failed.errors
    server.reset()
    assert program("reindex", "notes", *there).code == 0
