"""Texts from files: every format, where each text came from, and what is wrong with a file."""

import errno
import io
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from embedgate.core.errors import DependencyMissing, InvalidInput
from embedgate.toolkit import libraries
from embedgate.toolkit.reading import Reading, read_file, read_files, read_folder, read_stream, read_values
from embedgate.toolkit.records import Origin


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_lines_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\n\n  \nfour")
    records = read_file(path, Reading(skip_empty=True))
    assert [(record.id, record.text, record.position) for record in records] == [("1", "one", 0), ("4", "four", 3)]
    assert str(records[1].origin) == f"line 4 of {path}"


def test_the_header_of_a_csv_is_no_text_and_columns_are_named(tmp_path: Path) -> None:
    content = 'id,text,lang\n7,"one, ""two""\nthree",en\n\n8,été,fr\n'
    path = written(tmp_path, "a.csv", content.encode())
    first, second = read_file(path)
    assert (first.id, first.text, first.metadata) == ("7", 'one, "two"\nthree', {"lang": "en"})
    assert (second.id, second.text, second.position) == ("8", "été", 1)
    assert [first.origin.number, second.origin.number] == [2, 5]
    by_name = read_file(path, Reading(column="lang", id_column="text"))
    assert [(record.id, record.text) for record in by_name] == [('one, "two"\nthree', "en"), ("été", "fr")]
    assert by_name[0].metadata == {"id": "7"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b"text;n\nx,y;1\n"), ("a.csv", b"text\tn\nx,y\t1\n"), ("a.tsv", b"text\tn\nx,y\t1\n")],
)
def test_other_delimiters_are_seen_in_the_header(tmp_path: Path, name: str, content: bytes) -> None:
    (record,) = read_file(written(tmp_path, name, content))
    assert (record.text, record.metadata) == ("x,y", {"n": "1"})


@pytest.mark.parametrize(
    "content",
    [
        b'id;"text, as it was written";n\n1;x,y;2\n',
        b'id,"text; or body, or else;;",n\n1,"x,y",2\n',
        b'\n\n"id"\t"a,b;c ""d,"""\tn\n1\tx,y\t2\n',
    ],
)
def test_a_delimiter_within_quotation_marks_does_not_count(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, "a.csv", content)
    name = content.decode().split('"')[1] if content[:1] != b"\n" else 'a,b;c "d,"'
    (record,) = read_file(path, Reading(column=name))
    assert (record.id, record.text, record.metadata) == ("1", "x,y", {"n": "2"})


def test_null_is_an_empty_text(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["one", None, "three"]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": null}\n{"text": "three"}\n')
    for name, unit in (("a.parquet", "row"), ("a.jsonl", "line")):
        path = tmp_path / name
        with pytest.raises(
            InvalidInput, match=rf"{unit} 2 of .*{name} is empty. Leave empty ones out with --skip-empty"
        ):
            read_file(path)
        kept = read_file(path, Reading(skip_empty=True))
        assert [(record.id, record.text) for record in kept] == [("1", "one"), ("3", "three")]


@pytest.mark.parametrize(("option", "how"), [("--column", Reading(column="b")), ("--id", Reading(id_column="b"))])
def test_a_column_of_texts_without_columns_is_refused(tmp_path: Path, option: str, how: Reading) -> None:
    lines, document = written(tmp_path, "a.txt", b"b\none\n"), written(tmp_path, "docs/a.md", b"# A")
    refused = f"{option} names a column, and .* has none, because it is read as "
    with pytest.raises(InvalidInput, match=refused + "lines"):
        read_file(lines, how)
    with pytest.raises(InvalidInput, match=refused + "lines"):
        read_stream(io.BytesIO(b"a,b\n1,2\n"), "standard input", how)
    with pytest.raises(
        InvalidInput, match=f"{option} names a column, and the command line has none. Leave {option} out"
    ):
        read_values(["one"], "the command line", how)
    for path in (document, document.parent):
        with pytest.raises(InvalidInput, match=refused + "whole documents"):
            read_file(path, how)
    table = written(tmp_path, "a.csv", b"b,n\none,1\n")
    both = read_files([table, document.parent], Reading(column="b"))  # it is meant for the one that has columns
    assert [record.text for record in both] == ["one", "# A"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "docs/a.md", b"one")
    written(tmp_path, "docs/closed/b.md", b"two")
    scan = os.scandir

    def refuse(place: str) -> Any:
        if str(place).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"docs/closed"):
        read_folder(tmp_path / "docs")


def test_a_text_may_be_longer_than_the_library_takes_by_default(tmp_path: Path) -> None:
    (record,) = read_file(written(tmp_path, "a.csv", b"text\n" + b"x" * 200_000))
    assert len(record.text) == 200_000


def test_jsonl_has_objects_or_strings(tmp_path: Path) -> None:
    content = b'{"text": "one", "n": 1, "ok": true, "tags": ["a"], "none": null}\n\n"two"\n'
    first, second = read_file(written(tmp_path, "a.jsonl", content))
    assert first.metadata == {"n": 1, "ok": True, "tags": '["a"]', "none": None}
    assert (second.id, second.text) == ("3", "two")


def test_parquet_is_read_by_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"body": ["one", "two"], "key": [4, 5], "at": [1.5, None]}), path)
    first, second = read_file(path, Reading(column="body", id_column="key"))
    assert (first.id, first.text, first.metadata) == ("4", "one", {"at": 1.5})
    assert str(second.origin) == f"row 2 of {path}"


def test_a_folder_has_one_text_per_document(tmp_path: Path) -> None:
    for name in ("b.md", "a/x.py", "a/notes.txt", ".git/c.md", ".hidden.md", "node_modules/d.md", "picture.png"):
        written(tmp_path, name, b"text of it\n")
    written(tmp_path, "a/__init__.py", b"\n")
    records = read_folder(tmp_path)
    assert [record.id for record in records] == ["b.md", "a/notes.txt", "a/x.py"]
    assert records[0].origin == Origin(str(tmp_path / "b.md"))
    assert records[0].text == "text of it\n"


def test_several_files_have_ids_and_positions_of_their_own(tmp_path: Path) -> None:
    paths = [written(tmp_path, name, b"one\ntwo\n") for name in ("a.txt", "b.txt")]
    records = read_files(paths)
    assert [record.position for record in records] == [0, 1, 2, 3]
    assert [record.id for record in records] == [f"{path}:{line}" for path in paths for line in (1, 2)]


@pytest.mark.parametrize(
    ("name", "content", "how", "said"),
    [
        ("a.txt", b"", Reading(), "There are no texts in"),
        ("a.csv", b"text\n", Reading(), "There are no texts in"),
        ("a.md", b"", Reading(), "a.md is empty"),
        ("a.txt", b"one\n\xff\n", Reading(), "line 2 of .* is not UTF-8. Convert the file first, or name its encoding"),
        ("a.csv", b"text\none\n\xff\n", Reading(), "line 3 of .* is not UTF-8"),
        ("a.txt", b"one\n", Reading(encoding="latin-77"), "There is no encoding 'latin-77'"),
        ("a.csv", b"a,b\n1,2\n", Reading(), "has no column `text`.*it has a, b"),
        ("a.csv", b"a,b\n1,2\n", Reading(column="c"), "has no column 'c', which --column names; it has a, b"),
        ("a.csv", b"a,text\n1,2\n", Reading(id_column="c"), "has no column 'c', which --id names"),
        ("a.csv", b"text,text\n1,2\n", Reading(), "more than one column 'text'"),
        ("a.csv", b"text,b\n1,2\n3\n", Reading(), "line 3 of .* has 1 columns; its header has 2"),
        ("a.csv", b'text,b\n1,2\n"3,4\n', Reading(), "is not valid CSV"),
        ("a.csv", b"text,b\n,2\n", Reading(), "line 2 of .* is empty"),
        ("a.csv", b"id,text\n1,a\n2,b\n1,c\n", Reading(), "line 4 of .* has the id '1', and so has line 2"),
        ("a.csv", b"id,text\n,a\n", Reading(), "line 2 of .* has no id in 'id'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', Reading(), "line 2 of .* is not JSON"),
        ("a.jsonl", b"[1]\n", Reading(), "line 1 of .* is neither an object nor a string"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', Reading(), "line 2 of .* has no field 'text'"),
        ("a.jsonl", b'{"text": 1}\n', Reading(), "line 1 of .* has no text in 'text'"),
        ("a.parquet", b"PAR1 not", Reading(), "cannot be read as Parquet"),
        ("a.docx", b"x", Reading(), r"\.docx files. Known endings are \.txt, \.csv, .*--read-as lines"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: bytes, how: Reading, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read_file(written(tmp_path, name, content), how)


def test_a_name_without_an_ending_and_one_of_another_kind_can_be_read(tmp_path: Path) -> None:
    assert [record.text for record in read_file(written(tmp_path, "lines", b"a\nb\n"))] == ["a", "b"]
    path = written(tmp_path, "a.log", "é\n".encode("cp1252"))
    assert [record.text for record in read_file(path, Reading(read_as="lines", encoding="cp1252"))] == ["é"]
    path = written(tmp_path, "a.txt", b"a\nb\n")
    assert [record.text for record in read_file(path, Reading(txt_as="document"))] == ["a\nb\n"]


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libraries.EXTRAS, "no_such_library", "toolkit")
    with pytest.raises(DependencyMissing, match=r"install embedgate\[toolkit\]"):
        libraries.library("no_such_library.part")
