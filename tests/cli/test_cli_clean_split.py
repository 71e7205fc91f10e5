"""`embedgate clean` and `embedgate split`: what they print and write, and how they end."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from embedgate.cli.split import histogram
from program import Program

pytestmark = pytest.mark.usefixtures("fake_only")


def test_clean_reports_and_writes_nothing_unless_it_is_asked(program: Program, folder: Path) -> None:
    (folder / "in.txt").write_text("cafÃ©\nplain\n", encoding="utf-8")
    ended = program("clean", "in.txt")
    assert ended.code == 0
    assert "mojibake repaired" in ended.text
    assert "cafÃ© → café" in ended.text
    assert ended.text.endswith("2 texts, 1 changed\n")
    report = json.loads(program("clean", "in.txt", "--json").text)
    assert (report["texts"], report["changed"], report["steps"]["mojibake"]) == (2, 1, {"times": 1, "texts": 1})


def test_clean_writes_lines_rows_documents_and_folders(program: Program, folder: Path) -> None:
    (folder / "in.txt").write_text("cafÃ©\nplain\n", encoding="utf-8")
    assert program("clean", "in.txt", "--output", "out.txt").code == 0
    assert (folder / "out.txt").read_text(encoding="utf-8") == "café\nplain\n"
    ended = program("clean", "-", "--format", "csv", stdin="cafÃ©\n".encode())
    assert (ended.text, ended.errors.splitlines()[0]) == ("id,text\n1,café\n", "1 text, 1 changed")
    (folder / "docs" / "sub").mkdir(parents=True)
    (folder / "docs" / "sub" / "a.md").write_text("# cafÃ©\n\n<br>\n", encoding="utf-8")
    assert program("clean", "docs", "--output", "clean").code == 0
    assert (folder / "clean" / "sub" / "a.md").read_text(encoding="utf-8") == "# café\n\n<br>\n"
    assert program("clean", "docs/sub/a.md", "--output", "a.md", "--html").code == 0
    assert (folder / "a.md").read_text(encoding="utf-8") == "# café\n\n\n"


def test_clean_says_what_it_cannot_write(program: Program, folder: Path) -> None:
    (folder / "in.jsonl").write_text('"a\\nb"\n"<p></p>"\n', encoding="utf-8")
    ended = program("clean", "in.jsonl", "--output", "out.txt")
    assert (ended.code, ended.errors.count("\n")) == (1, 1)
    assert "some texts have several lines" in ended.errors
    assert program("clean", "in.jsonl").text.endswith("1 text with nothing left, the first at line 2 of in.jsonl\n")
    assert "known" in program("clean", "in.docx").errors.lower()


def test_split_writes_pieces_with_their_place(program: Program, folder: Path) -> None:
    text = "".join(f"# Part {n}\n\n" + f"Sentence {n} is here. " * 12 + "\n\n" for n in range(5))
    (folder / "in.md").write_text(text, encoding="utf-8")
    assert program("split", "in.md", "--size", "400", "--output", "out.parquet").code == 0
    rows = pyarrow.parquet.read_table(folder / "out.parquet").to_pylist()
    assert "".join(row["text"] for row in rows) == text
    assert [(row["id"], row["file"], row["headings"]) for row in rows[:2]] == [
        ("in.md#1", "in.md", "Part 0"),
        ("in.md#2", "in.md", "Part 1"),
    ]
    assert all(text[row["start"] : row["end"]] == row["text"] and row["tokens"] <= 400 for row in rows)
    ended = program("split", "in.md", "--size", "400", "--json")
    assert [row["id"] for row in json.loads(ended.text)] == [row["id"] for row in rows]
    assert ended.errors.startswith("5 pieces of 1 text, median ")


def test_split_takes_a_text_file_for_one_text_unless_its_lines_are_wanted(program: Program, folder: Path) -> None:
    (folder / "in.txt").write_text("one\ntwo\n", encoding="utf-8")
    assert "1 piece of 1 text, " in program("split", "in.txt").text
    assert "2 pieces of 2 texts, " in program("split", "in.txt", "--read-as", "lines").text
    assert "1 piece of 1 text, " in program("split", "in.txt", "--by", "meaning").text


def test_split_refuses_what_the_model_does_not_take(program: Program, folder: Path) -> None:
    (folder / "in.md").write_text("text", encoding="utf-8")
    ended = program("split", "in.md", "--size", "9000")
    assert (ended.code, ended.errors) == (
        1, "error: pieces of 9000 tokens are not possible; the model takes 12 to 8192.\n",
    )  # fmt: skip
    assert "There is no embedding model 'no/such'" in program("split", "in.md", "--model", "no/such").errors
    (folder / "empty.md").write_text("\n", encoding="utf-8")
    assert program("split", "empty.md").code == 1


def test_the_histogram_goes_from_the_smallest_to_the_largest() -> None:
    assert histogram([5]) == "█" + " " * 15
    assert histogram([1, 1, 1, 1, 17]) == "█" + " " * 14 + "▃"
