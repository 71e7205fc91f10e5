"""`embedgate index`, `search` and `similar`: what they print, write and refuse."""

import json
from pathlib import Path

import numpy as np
import pytest

from embedgate.providers import fake
from program import Program
from upstream import Upstream

pytestmark = pytest.mark.usefixtures("fake_only")


@pytest.fixture
def notes(program: Program, folder: Path, fake_only: None) -> None:
    """A collection of three rows of a table."""
    (folder / "notes.csv").write_text(
        "id,text,lang,year\na,Cats sit.,en,2020\nb,Hunde bellen.,de,2021\nc,A bird,en,2022\n"
    )
    assert program("index", "create", "notes", "--dimensions", "32").code == 0
    assert program("index", "add", "notes", "notes.csv").code == 0


@pytest.mark.usefixtures("notes")
def test_adding_reports_what_was_done_and_embeds_nothing_twice(program: Program, folder: Path) -> None:
    ended = program("index", "add", "notes", "notes.csv")
    assert ended.text == "0 new, 0 changed, 3 unchanged, 0 removed; 0 texts embedded; notes has 3 texts\n"
    (folder / "notes.csv").write_text("id,text\nb,Hunde bellen.\nd,new\n")
    ended = program("index", "update", "notes", "notes.csv")
    assert ended.text == "1 new, 1 changed, 0 unchanged, 2 removed; 1 text embedded; notes has 2 texts\n"


@pytest.mark.usefixtures("notes")
def test_search_prints_a_table_json_and_rows(program: Program, folder: Path) -> None:
    ended = program("search", "notes", "A bird", "-k", "2")
    assert (ended.code, ended.errors) == (0, "")
    lines = ended.text.splitlines()
    assert lines[0].split() == ["rank", "score", "id", "text"]
    assert lines[1].split() == ["1", "1.000", "c", "A", "bird"]
    assert len(lines) == 3
    rows = json.loads(program("search", "notes", "bird", "--json", "--where", "lang = 'en' and year < '2022'").output)
    assert [(row["rank"], row["id"], row["source"], row["lang"]) for row in rows] == [(1, "a", "notes.csv", "en")]
    assert program("search", "notes", "bird", "--output", "out.csv", "--hybrid", "-k", "1").output == b""
    assert (folder / "out.csv").read_text().splitlines()[1].endswith("c,notes.csv,A bird,en,2022")
    assert json.loads(program("similar", "notes", "c", "--json", "-k", "1").output)[0]["id"] in ("a", "b")


def test_documents_are_kept_in_pieces_and_follow_their_folder(program: Program, folder: Path) -> None:
    (folder / "docs" / "deep").mkdir(parents=True)
    (folder / "docs" / "a.md").write_text("# Title\n\n" + "A paragraph of words. " * 60)
    (folder / "docs" / "deep" / "a.md").write_text("Short.")
    (folder / "README.md").write_text("Short, too.")
    program("index", "create", "docs")
    assert program("index", "add", "docs", "docs", "README.md").code == 0
    rows = json.loads(program("search", "docs", "words", "-k", "50", "--json").output)
    assert {row["source"] for row in rows} == {"docs/a.md", "docs/deep/a.md", "README.md"}
    pieces = {row["start"]: row for row in rows if row["file"] == "docs/a.md"}
    text = (folder / "docs" / "a.md").read_text()
    assert len(pieces) > 1
    assert all(row["text"] == text[row["start"] : row["end"]] for row in pieces.values())
    assert "".join(pieces[start]["text"] for start in sorted(pieces)) == text
    (folder / "docs" / "deep" / "a.md").unlink()
    (folder / "docs" / "a.md").write_text("# Title\n\nLess.")
    assert ", 3 removed;" not in program("index", "add", "docs", "docs").text
    left = {row["source"] for row in json.loads(program("search", "docs", "x", "-k", "50", "--json").output)}
    assert left == {"docs/a.md", "docs/deep/a.md", "README.md"}
    assert "0 new, 0 changed, 1 unchanged, 1 removed" in program("index", "update", "docs", "docs").text


def test_piped_lines_are_known_by_their_texts(program: Program) -> None:
    program("index", "create", "lines")
    program("index", "add", "lines", "-", stdin=b"one\ntwo\none\n")
    ended = program("index", "add", "lines", "-", stdin=b"three\none\n")
    assert ended.text == "1 new, 0 changed, 1 unchanged, 0 removed; 1 text embedded; lines has 3 texts\n"
    assert program("index", "update", "lines", "-", stdin=b"x\n").code == 2


@pytest.mark.usefixtures("notes")
def test_collections_are_listed_shown_exported_and_dropped(program: Program, folder: Path) -> None:
    (listed,) = json.loads(program("index", "list", "--json").output)
    assert (listed["name"], listed["texts"], listed["model"], listed["dim"]) == ("notes", 3, "fake/deterministic", 32)
    assert program("index", "list").text.splitlines()[1].split()[:4] == ["notes", "3", "fake/deterministic", "32"]
    assert "lang (3), year (3)" in program("index", "show", "notes").text
    assert json.loads(program("index", "show", "notes", "--json").output)["metadata"] == {"lang": 3, "year": 3}
    assert program("index", "export", "notes", "--output", "notes.npy").code == 0
    np.testing.assert_allclose(np.load(folder / "notes.npy")[2], fake.vector("A bird", 32), atol=1e-6)
    rows = [json.loads(line) for line in program("index", "export", "notes").output.splitlines()]
    assert [(row["id"], row["metadata"]["year"]) for row in rows] == [("a", "2020"), ("b", "2021"), ("c", "2022")]
    assert program("index", "export", "notes", "--output", "notes.parquet").code == 0
    assert program("index", "drop", "notes").code == 2
    assert program("index", "drop", "notes", "--yes").text == "deleted the collection notes\n"
    assert program("index", "list").errors == "there are no collections; make one with `embedgate index create`\n"
    damaged = folder / "data" / "collections" / "damaged.collection"
    damaged.write_bytes(b"not a database" * 100)
    listed = program("index", "list")
    assert (listed.code, listed.text, listed.errors.count("\n")) == (0, "", 1)
    assert listed.errors.startswith(f"damaged cannot be opened: {damaged} is not a collection, or is damaged: ")


@pytest.mark.usefixtures("notes")
def test_texts_are_deleted_by_id_and_by_filter(program: Program) -> None:
    ended = program("index", "delete", "notes", "a", "unknown")
    assert (ended.text, ended.errors) == ("deleted 1 text\n", "1 id of these the collection does not have\n")
    assert program("index", "delete", "notes", "--where", "lang = 'de'").code == 2
    assert program("index", "delete", "notes", "--where", "lang = 'de'", "--yes").text == "deleted 1 text\n"
    assert program("index", "delete", "notes").code == 2
    assert program("search", "notes", "x", "--where", "lang = 'de'").errors == "nothing was found\n"
    unknown = "no text of notes has the field 'lnag'; `embedgate index show notes` lists those that there are\n"
    for words in (("search", "notes", "x"), ("similar", "notes", "c"), ("ask", "notes", "x")):
        assert program(*words, "--where", "lnag = 'fr' and not lang = 'de'").errors.endswith(unknown), words
    program("index", "delete", "notes", "c")
    nothing = program("search", "notes", "x", "--where", "lnag = 'fr'").errors
    assert nothing == "notes has no texts; add some with `embedgate index add notes`\n"


WRONG = [
    (["search", "none", "x"], 1, "There is no collection 'none'. There are: notes."),
    (["search", "notes", " "], 1, "The question is empty."),
    (["search", "notes", "x", "--where", "a = = 1"], 1, "not '=' at character 5"),
    (["search", "notes", "x", "--rerank", "m"], 2, "name it with --url"),
    (["search", "notes", "x", "-k", "0"], 2, "-k"),
    (
        ["search", "notes", "x", "--model", "fake/deterministic"],
        1,
        "fake/deterministic, dim 256, cannot be compared",
    ),
    (["similar", "notes", "x"], 1, "no text with the id 'x'"),
    (["index", "create", "notes"], 1, "There is a collection 'notes' already."),
    (["index", "create", "a/b"], 1, "'a/b' is no name for a collection"),
    (["index", "add", "none", "notes.csv"], 1, "There is no collection 'none'"),
    (["index", "add", "notes", "none.csv"], 1, "none.csv: No such file"),
    (["index", "add", "notes", "notes.csv", "--column", "body"], 1, "no column 'body'"),
    (["index", "add", "notes", "empty.txt"], 1, "There are no texts in empty.txt"),
    (["index", "add", "notes", "latin.txt"], 1, "line 1 of latin.txt is not UTF-8"),
    (["index", "add", "notes", "double.csv"], 1, "has the id 'a', and so has"),
    (["index", "drop", "none", "--yes"], 1, "There is no collection 'none'"),
    (["index", "show", "../x"], 1, "is no name for a collection"),
]


@pytest.mark.usefixtures("notes")
def test_wrong_input_gets_a_sentence_and_an_exit_code(program: Program, folder: Path) -> None:
    (folder / "empty.txt").write_bytes(b"")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "double.csv").write_text("id,text\na,x\na,y\n")
    for arguments, code, said in WRONG:
        ended = program(*arguments)
        assert (ended.code, ended.output) == (code, b""), arguments
        assert said in ended.errors
        assert "Traceback" not in ended.errors


def test_a_gateway_elsewhere_embeds_for_a_collection(program: Program, folder: Path, server: Upstream) -> None:
    (folder / "a.txt").write_text("one\ntwo\n")
    there = ("--url", server.base_url)
    assert program("index", "create", "far", "--model", "m", *there).code == 0
    assert program("index", "add", "far", "a.txt", *there).code == 0
    assert json.loads(program("search", "far", "two", "--json", "-k", "1", *there).output)[0]["id"] == "a.txt:2"
