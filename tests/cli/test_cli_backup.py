"""`embedgate backup` and `embedgate restore`: what an archive holds, what comes back, and what is refused."""

import json
import os
import shutil
import sqlite3
import struct
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from embedgate.storage.database import open_database
from embedgate.storage.folder import claim
from embedgate.storage.schema import REVISION
from program import AddEntries, Ended, Program

pytestmark = pytest.mark.usefixtures("fake_only")
OLDER = Path(__file__).parents[1] / "end_to_end" / "older" / "embedgate-0.1.0.sql"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the archive and its folder are kept from the first test on, each of which gets copies."""
    return tmp_path_factory.mktemp("made") / "made"


@pytest.fixture
def archive(program: Program, folder: Path, add_entries: AddEntries, made: Path) -> Path:
    """An archive of a folder with a user, a collection, and five entries in the ledger."""
    if not made.exists():
        program("users", "create", "alice")
        add_entries({}, {"outcome": "upstream_error", "cost_picodollars": 2**62}, {"cost_picodollars": 2**62})
        (folder / "notes.csv").write_text("id,text\na,Cats sit.\nb,Hunde bellen.\n")
        program("index", "create", "notes", "--dimensions", "32")
        program("index", "add", "notes", "notes.csv")  # two calls
        ended = program("backup", "a.zip")
        assert ended.code == 0, ended.errors
        shutil.copytree(folder, made)
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder / "a.zip"


def manifest_of(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as opened:
        found: dict[str, Any] = json.loads(opened.read("manifest.json"))
    return found


def total(program: Program) -> dict[str, Any]:
    """The one sum of `usage`."""
    (item,) = json.loads(program("usage", "--json").text)["items"]
    return {name: value for name, value in item.items() if name not in ("group", "names", "errors")}


def heads(file: Path) -> list[str]:
    """Where the chains end, as `audit verify` takes it."""
    ends = (("--expect", "audit_end"), ("--expect-ledger", "ledger_end"))
    found = [(option, manifest_of(file)["books"][name]) for option, name in ends]
    options = [(option, f"{end['number']}:{end['digest']}") for option, end in found if end["digest"].strip("0")]
    return [part for option in options for part in option]


def rewritten(file: Path, **changes: Any) -> Path:
    """The archive with other values in its manifest."""
    target = file.with_name("changed.zip")
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as written:
        for info in source.infolist():
            content = source.read(info)
            if info.filename == "manifest.json":
                content = json.dumps(json.loads(content) | changes).encode()
            written.writestr(info.filename, content)
    return target


def refused(ended: Ended, *words: str, code: int = 1) -> None:
    """One line that says why, and an exit code."""
    assert (ended.code, ended.output) == (code, b"")
    (line,) = ended.errors.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


def test_what_comes_back_is_what_was_backed_up(program: Program, folder: Path, archive: Path) -> None:
    assert archive.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    manifest, before = manifest_of(archive), total(program)
    assert {name: manifest["books"][name] for name in before} == before
    assert (manifest["schema"], manifest["has_keys"]) == (REVISION, False)
    shutil.rmtree(folder / "data")
    restored = program("restore", "a.zip")
    assert (restored.code, restored.errors) == (0, "")
    assert total(program) == before
    assert program("audit", "verify", *heads(archive)).code == 0
    (told,) = json.loads(program("audit", "list", "--action", "backup.restore", "--json").text)["items"]
    assert (told["target"], told["detail"]["entries"]) == (manifest["made_at"], 5)
    assert [row["id"] for row in json.loads(program("search", "notes", "Cats sit.", "-k", "1", "--json").output)] == [
        "a"
    ]
    assert "alice" in program("users", "list").text
    files = [path for path in (folder / "data").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_an_archive_is_checked_without_a_data_folder(program: Program, folder: Path, archive: Path) -> None:
    shutil.rmtree(folder / "data")
    ended = program("restore", "a.zip", "--check")
    assert ended.code == 0
    assert ended.text.startswith("a.zip is whole: made at ")
    assert json.loads(program("restore", "a.zip", "--check", "--json").text) == manifest_of(archive)
    assert not (folder / "data").exists()


def test_a_damaged_archive_is_refused_or_has_all_that_was_in_it(program: Program, folder: Path, archive: Path) -> None:
    whole, manifest = archive.read_bytes(), manifest_of(archive)
    shutil.rmtree(folder / "data")
    names = len(whole) - 700  # there the directory of the file begins, of which every byte means something
    for place in (*range(0, names, len(whole) // 20), *range(names, len(whole), 19)):
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        ended = program("restore", "a.zip", "--check", "--json")
        if ended.code:
            refused(ended, "a.zip")
        else:  # a date, or the like
            assert json.loads(ended.text) == manifest, place
    for size in range(0, len(whole), len(whole) // 5):
        archive.write_bytes(whole[:size])
        refused(program("restore", "a.zip"), "cut short")
    assert [path.name for path in (folder / "data").glob("*")] in ([], ["server.lock", "embedgate.lock"])


def test_an_archive_that_is_none_is_refused_with_a_reason(program: Program, folder: Path, archive: Path) -> None:
    data = folder / "data"
    shutil.rmtree(data)
    members = manifest_of(archive)["members"]
    outside = {"name": "../outside", "size_bytes": 4, "sha256": "0" * 64}
    (large,) = ({**each, "size_bytes": 2**60} for each in members if each["name"] == "embedgate.db")
    for changes, words in (
        ({"members": [*members, outside]}, ["'../outside'", "not a file of a data folder"]),
        ({"members": [{**members[0], "name": "collections/../../x"}]}, ["not a file of a data folder"]),
        ({"members": [{**members[0], "name": "/etc/passwd"}]}, ["not a file of a data folder"]),
        ({"members": []}, ["not those of its manifest"]),
        ({"members": [large, *members[1:]]}, ["size"]),
        ({"members": [{**members[0], "sha256": "0" * 64}, *members[1:]]}, ["not what was backed up"]),
        ({"books": {}}, ["manifest cannot be read"]),
        ({"format": "x"}, ["says no format"]),
    ):
        refused(program("restore", str(rewritten(archive, **changes))), *words)
    refused(program("restore", str(rewritten(archive, format=2, made_by="9.1"))), "embedgate 9.1", "newer")
    newer = rewritten(archive, schema="9999", made_by="9.1")
    refused(program("restore", str(newer)), "9999", "newer", code=3)
    refused(program("restore", str(newer), "--check"), "9999", "newer", code=3)
    assert [path.name for path in data.iterdir() if not path.name.endswith(".lock")] == []
    assert not (folder / "outside").exists()


def test_an_archive_with_names_of_its_own_is_refused(program: Program, folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as written:
        written.writestr("../../outside", "x")
    refused(program("restore", "a.zip", "--replace"), "not those of its manifest")
    with zipfile.ZipFile("empty.zip", "w"):
        pass
    refused(program("restore", "empty.zip"), "no manifest")
    with zipfile.ZipFile("twice.zip", "w") as written, pytest.warns(UserWarning, match="Duplicate"):
        written.writestr("manifest.json", "{}")
        written.writestr("manifest.json", "{}")
    refused(program("restore", "twice.zip"), "same name")
    refused(program("restore", "nothing.zip"), "nothing.zip")
    refused(program("restore", "."), "directory")


def test_a_member_that_unpacks_to_more_than_it_says_ends_there(program: Program, folder: Path, archive: Path) -> None:
    bomb = folder / "bomb.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("manifest.json", source.read("manifest.json"))
        for info in source.infolist():
            if info.filename != "manifest.json":
                content = source.read(info)
                written.writestr(
                    info.filename, content + bytes(50_000_000) if info.filename == "embedgate.db" else content
                )
    true_size = manifest_of(archive)["members"][0]["size_bytes"]
    content = bomb.read_bytes()
    lied = content.replace(struct.pack("<L", true_size + 50_000_000), struct.pack("<L", true_size))
    assert lied != content
    bomb.write_bytes(lied)
    shutil.rmtree(folder / "data")
    refused(program("restore", "bomb.zip"), "bomb.zip", "embedgate.db")
    assert not (folder / "data" / "embedgate.db").exists()


def test_a_folder_with_something_in_it_is_replaced_only_if_meant(program: Program, folder: Path, archive: Path) -> None:
    data = folder / "data"
    (data / "secrets.key").write_text("0" * 64)
    (data / "cache").mkdir(exist_ok=True)
    program("users", "create", "bob")
    refused(program("restore", "a.zip"), "not empty", "--replace")
    ended = program("restore", "a.zip", "--replace")
    assert ended.code == 0
    (aside,) = data.glob("replaced-*")
    assert str(aside) in ended.text
    assert {"embedgate.db", "cache", "collections"} <= {path.name for path in aside.iterdir()}
    assert (data / "secrets.key").exists()  # the archive has none
    assert "bob" not in program("users", "list").text
    with closing(sqlite3.connect(aside / "embedgate.db")) as connection:
        assert ("bob",) in connection.execute("SELECT name FROM users").fetchall()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_what_root_restores_belongs_to_the_folders_owner(program: Program, folder: Path, archive: Path) -> None:
    data = folder / "data"
    os.chown(data, 12_345, 12_345)
    assert program("restore", "a.zip", "--replace").code == 0
    restored = [data / "embedgate.db", *(data / "collections").rglob("*"), data / "collections"]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in restored} == {(12_345, 12_345)}


def test_a_folder_in_use_is_not_replaced(program: Program, folder: Path, archive: Path) -> None:
    files = claim(folder / "data")  # as a server does
    assert files is not None
    refused(program("restore", "a.zip", "--replace"), "gateway", "Stop it")
    for file in files:
        os.close(file)
    database = open_database(folder / "data")
    try:
        assert program("backup", "b.zip").code == 0
    finally:
        database.close()


def test_what_is_not_meant_stays_out(program: Program, folder: Path, archive: Path) -> None:
    (folder / "data" / "secrets.key").write_text("0" * 64)
    names = {each["name"] for each in manifest_of(archive)["members"]}
    assert names == {"embedgate.db", "collections/notes.collection"}
    assert program("backup", "b.zip", "--with-keys", "--without-collections").code == 0
    assert {each["name"] for each in manifest_of(folder / "b.zip")["members"]} == {"embedgate.db", "secrets.key"}
    assert program("restore", "b.zip", "--replace").code == 0
    assert program("index", "list").text.count("notes") == 1  # what is not in the archive stays


def test_keys_that_cannot_be_opened_are_told(program: Program, folder: Path) -> None:
    program("providers", "set", "openai", "--key-stdin", stdin=b"sk-secret-of-openai\n")
    assert "secrets.key" in program("backup", "a.zip").errors
    shutil.rmtree(folder / "data")
    ended = program("restore", "a.zip")
    assert ended.code == 0
    assert "warning: there is no master key" in ended.errors


def test_wrong_places_are_refused(program: Program, folder: Path, archive: Path) -> None:
    refused(program("backup", "a.zip"), "a.zip", "--overwrite")
    assert program("backup", "a.zip", "--overwrite").code == 0
    refused(program("backup", "no/such/folder.zip"), "no/such")
    refused(program("backup", "b.zip", "--data-dir", "elsewhere"), "elsewhere", "data folder", code=3)
    assert not (folder / "elsewhere").exists()
    assert program("restore", "a.zip", "--check", "--replace").code == 2


def test_a_damaged_database_is_not_backed_up(program: Program, folder: Path, archive: Path) -> None:
    before = archive.read_bytes()
    file = folder / "data" / "embedgate.db"
    with file.open("r+b") as stream:
        stream.seek(8 * 1024)
        stream.write(os.urandom(file.stat().st_size - 16 * 1024))
    ended = program("backup", "a.zip", "--overwrite")
    assert ended.code == 1
    assert "Nothing was backed up" in ended.errors
    assert archive.read_bytes() == before
    assert sorted(path.name for path in folder.glob("*.zip")) == ["a.zip"]


def test_broken_books_are_backed_up_and_told(program: Program, folder: Path, archive: Path) -> None:
    with closing(sqlite3.connect(folder / "data" / "embedgate.db")) as connection, connection:
        connection.execute("UPDATE ledger SET tokens = 5 WHERE id = 2")
    ended = program("backup", "b.zip")
    assert ended.code == 0
    assert "warning: the books are not intact" in ended.errors
    ended = program("restore", "b.zip", "--replace")
    assert ended.code == 0
    assert "not intact" in ended.errors


def test_an_older_schema_is_kept_in_the_archive_and_brought_up_to_date_by_the_restore(
    program: Program, folder: Path, no_data: None
) -> None:
    (folder / "data").mkdir()
    with closing(sqlite3.connect(folder / "data" / "embedgate.db")) as connection:
        connection.executescript(OLDER.read_text(encoding="utf-8"))
        (schema,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert schema != REVISION
    assert program("backup", "a.zip").code == 0
    with closing(sqlite3.connect(folder / "data" / "embedgate.db")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (schema,)
    manifest = manifest_of(folder / "a.zip")
    assert manifest["schema"] == schema
    shutil.rmtree(folder / "data")
    assert program("restore", "a.zip").code == 0
    assert total(program)["cost_usd"] == manifest["books"]["cost_usd"]
    assert program("audit", "verify", *heads(folder / "a.zip")).code == 0
