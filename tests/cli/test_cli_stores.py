"""`--store`: every command on collections works in every place, and says what is wrong with an address."""

import json
import sys
from pathlib import Path

import pytest

from program import Program

pytestmark = pytest.mark.usefixtures("fake_only")

PLACES = ["sqlite", "postgresql", "qdrant", "lancedb"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    """The address of a place without collections."""
    return str(request.getfixturevalue("postgres")) if request.param == "postgresql" else f"{request.param}:there"


def test_every_command_works_in_every_place(
    program: Program, folder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "notes.csv").write_text("id,text,lang\na,Cats sit.,en\nb,Hunde bellen.,de\nc,A bird,en\n")
    assert program("index", "list", "--store", place).errors.startswith("there are no collections")
    assert program("index", "create", "notes", "--dimensions", "32", "--store", place).code == 0
    ended = program("index", "create", "notes", "--store", place)
    assert (ended.code, ended.errors) == (1, "error: There is a collection 'notes' already.\n")
    monkeypatch.setenv("EMBEDGATE_STORE", place)
    assert program("index", "add", "notes", "notes.csv").text.endswith("3 texts embedded; notes has 3 texts\n")
    assert "0 texts embedded" in program("index", "add", "notes", "notes.csv").text
    rows = json.loads(program("search", "notes", "A bird", "--json", "--where", "lang = 'en'").output)
    assert [row["id"] for row in rows] == ["c", "a"]
    assert rows[0]["score"] == pytest.approx(1, abs=1e-6)
    assert json.loads(program("search", "notes", "bellen", "--hybrid", "-k", "1", "--json").output)[0]["id"] == "b"
    assert "A bird" in program("ask", "notes", "A bird", "-k", "1").text
    assert len(json.loads(program("similar", "notes", "a", "--json").output)) == 2
    (shown,) = json.loads(program("index", "list", "--json").output)
    assert (shown["name"], shown["texts"], shown["dim"]) == ("notes", 3, 32)
    assert shown["bytes"] > 0
    assert "lang (3)" in program("index", "show", "notes").text
    exported = [json.loads(line)["id"] for line in program("index", "export", "notes").output.splitlines()]
    assert exported == ["a", "b", "c"]
    ended = program("reindex", "notes", "--to", "fake/deterministic", "--yes")
    assert (ended.code, "dim 256 now" in ended.text) == (0, True)
    assert program("reindex", "notes", "--roll-back").code == 0
    assert program("index", "delete", "notes", "a").text == "deleted 1 text\n"
    assert program("index", "optimize", "notes").text == "optimized the collection notes of 2 texts\n"
    ended = program("search", "notes", "x", "--model", "fake/deterministic")
    assert (ended.code, "dim 32. Those of" in ended.errors) == (1, True)
    assert program("index", "drop", "notes", "--yes").text == "deleted the collection notes\n"
    assert program("index", "list").errors.startswith("there are no collections")
    monkeypatch.delenv("EMBEDGATE_STORE")
    (folder / "one.txt").write_text("a text\n")
    for adding in ("add", "update"):
        told = program("index", adding, "notes", str(folder / "one.txt")).errors
        assert told.endswith("There are: none yet. `embedgate index create notes` makes it.\n")
    assert program("search", "notes", "x").errors == "error: There is no collection 'notes'. There are: none yet.\n"


WRONG = [
    ("mysql://host/base", "'mysql' names no store of collections. There are: postgresql://"),
    ("notes", "'notes' names no store of collections"),
    ("sqlite:", "'sqlite' names no store of collections"),
    ("postgresql://user:secret@127.0.0.1:1/base", "postgresql://user@127.0.0.1:1/base: "),
    ("https://:secret@127.0.0.1:1", "https://127.0.0.1:1: "),
]


@pytest.mark.parametrize(("address", "said"), WRONG)
def test_an_address_of_no_store_is_refused_without_its_password(program: Program, address: str, said: str) -> None:
    ended = program("index", "list", "--store", address)
    assert (ended.code, ended.output) == (1, b"")
    assert said in ended.errors
    assert "secret" not in ended.errors
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [
        ("postgresql://host/base", "psycopg", "pgvector"),
        ("https://host:6333", "qdrant_client", "qdrant"),
        ("lancedb:there", "lancedb", "lancedb"),
    ],
)
def test_the_extra_of_a_missing_library_is_named(
    program: Program, monkeypatch: pytest.MonkeyPatch, address: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    ended = program("index", "list", "--store", address)
    assert (ended.code, ended.errors) == (1, f"error: {module} is not installed: install embedgate[{extra}]\n")


def test_an_approximate_index_is_made_by_adding_and_kept_up_to_date(program: Program, folder: Path) -> None:
    assert program("index", "create", "many", "--dimensions", "16", "--approximate").code == 0
    (folder / "few.txt").write_text("".join(f"text {number}\n" for number in range(500)))
    assert program("index", "add", "many", "few.txt").code == 0
    assert list((folder / "data" / "collections").glob("*.usearch")) == []  # so few are compared one by one
    (folder / "more.txt").write_text("".join(f"more {number}\n" for number in range(1_200)))
    assert program("index", "add", "many", "more.txt").code == 0
    (first,) = (folder / "data" / "collections").glob("*.usearch")
    assert program("search", "many", "more 7", "-k", "1").text.splitlines()[1].split() == [
        *("1", "1.000", "more.txt:8", "more", "7")
    ]
    shown = json.loads(program("index", "show", "many", "--json").output)
    assert (shown["search"], shown["not_indexed"]) == ("approximate", 0)
    assert program("index", "delete", "many", "--where", "missing = null", "--yes").text == "deleted 1,700 texts\n"
    assert program("index", "add", "many", "few.txt").code == 0
    assert ["not", "indexed", "500"] in [line.split() for line in program("index", "show", "many").text.splitlines()]
    assert program("index", "optimize", "many").text == "optimized the collection many of 500 texts\n"
    (second,) = (folder / "data" / "collections").glob("*.usearch")
    assert second != first
    assert program("reindex", "many", "--to", "fake/deterministic", "--yes").code == 0
    assert program("index", "drop", "many", "--yes").code == 0
    assert list((folder / "data" / "collections").iterdir()) == []
