"""Commands that analyse texts: files they write, and wrong input that gets a sentence and an exit code."""

import csv
import io
import json
from pathlib import Path

import pytest

from program import Program

DIM = ("--dimensions", "16")
pytestmark = pytest.mark.usefixtures("fake_only")


@pytest.fixture
def messages(folder: Path) -> Path:
    """Twelve texts, two of them equal, with an id and a topic."""
    rows = [f"m{number},text number {number},{'odd' if number % 2 else 'even'}" for number in range(11)]
    path = folder / "messages.csv"
    path.write_text("\n".join(["id,text,topic", *rows, "m11,text number 3,odd", ""]), encoding="utf-8")
    return path


def test_cluster_writes_a_row_for_every_text(program: Program, messages: Path) -> None:
    ended = program("cluster", "messages.csv", "-k", "3", "--output", "out.csv", *DIM)
    assert (ended.code, ended.text, ended.errors) == (0, "", "12 texts in 3 clusters\n")
    rows = list(csv.DictReader(io.StringIO((messages.parent / "out.csv").read_text(encoding="utf-8"))))
    assert list(rows[0]) == ["id", "cluster", "keywords", "distance", "text"]
    assert [row["id"] for row in rows] == [f"m{number}" for number in range(12)]
    assert {row["cluster"] for row in rows} == {"0", "1", "2"}
    assert rows[3]["cluster"] == rows[11]["cluster"]


def test_the_most_clusters_that_were_tried_may_be_too_few(program: Program, messages: Path) -> None:
    more = "see with --most 4 whether more fit better"
    for most, is_said in ((2, True), (11, False)):
        assert (more in program("cluster", "messages.csv", "--most", str(most), *DIM).text) is is_said


@pytest.mark.parametrize("command", ["cluster", "outliers", "dedupe", "evaluate", "map"])
def test_a_folder_takes_no_result_whatever_it_is_called(command: str, program: Program, messages: Path) -> None:
    (messages.parent / "results").mkdir()
    ended = program(command, "messages.csv", "--output", "results")
    assert (ended.code, ended.errors) == (1, "error: results: Is a directory\n")


def test_clusters_by_density_say_what_is_in_none(program: Program, messages: Path) -> None:
    ended = program("cluster", "messages.csv", "--method", "hdbscan", "--min-size", "10", *DIM)
    assert ended.code == 0
    assert "12 texts in 0 clusters, and 12 texts in none." in ended.text
    assert "Try a smaller --min-size" in ended.text


def test_outliers_writes_a_row_for_every_text(program: Program, messages: Path) -> None:
    ended = program("outliers", "messages.csv", "-k", "2", "--spreads", "9", "--json", *DIM)
    rows = json.loads(ended.output)
    assert (ended.code, ended.errors) == (0, "0 outliers among 12 texts\n")
    assert [row["is_outlier"] for row in rows] == [False] * 12
    assert "0 outliers among 12 texts." in program("outliers", "messages.csv", "--spreads", "9", *DIM).text


def test_dedupe_writes_what_is_kept_with_all_columns(program: Program, messages: Path) -> None:
    ended = program("dedupe", "messages.csv", "--keep", "last", "--format", "csv", *DIM)
    rows = list(csv.DictReader(io.StringIO(ended.text)))
    assert ended.errors == "11 of 12 texts kept, 1 dropped in 1 group\n"
    assert "m3" not in {row["id"] for row in rows}
    assert rows[-1] == {"id": "m11", "text": "text number 3", "topic": "odd"}


@pytest.mark.parametrize("command", ["cluster", "outliers", "dedupe", "map", "evaluate"])
@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("", (), "no texts"),
        ("id,text\n", (), "There are no texts in bad.csv"),
        ("id,body,n\na,b,1\n", (), "bad.csv has no column `text`. Name the one that has the texts with --column"),
        ("id,text\na,b\n", ("--column", "words"), "no column 'words', which --column names; it has id, text"),
        ("id,text\na,b\na,c\n", (), "Ids must differ"),
    ],
)
def test_a_file_without_texts_is_refused(
    command: str, content: str, options: tuple[str, ...], said: str, program: Program, folder: Path
) -> None:
    (folder / "bad.csv").write_text(content, encoding="utf-8")
    ended = program(command, "bad.csv", *options, *DIM)
    assert (ended.code, ended.text) == (1, "")
    assert said in ended.errors
    assert ended.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "lines", "said"),
    [
        (("cluster",), "one\n", "Clustering takes at least 2 texts; there is 1"),
        (("cluster",), "one\none\none\n", "All 3 texts have the same vector"),
        (("cluster", "-k", "4"), "one\ntwo\ntwo\n", "4 clusters were asked for, and 3 texts have 2 different vectors"),
        (("outliers",), "one\n", "A search for outliers takes at least 5 texts; there is 1"),
        (("map",), "one\n", "takes at least 2 texts; there is 1"),
        (("map",), "one\none\n", "All 2 texts have the same vector"),
        (("evaluate",), "one\ntwo\n", "An evaluation takes at least 3 texts; there are 2"),
        (("outliers",), "one\n" * 5, "All 5 texts have the same vector"),
        (("dedupe", "--similarity", "2"), "one\n", "at most 1"),
    ],
)
def test_texts_that_are_too_few_or_all_equal_are_refused(
    command: tuple[str, ...], lines: str, said: str, program: Program
) -> None:
    name, *options = command
    ended = program(name, "-", *options, *DIM, stdin=lines.encode())
    assert (ended.code, ended.text) == (1, "")
    assert said in ended.errors


LABELS = ("--label", "odd", "--label", "even=a number")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--label", "odd", "--label", "even"), "Describe these, since a name alone says little:"),
        (("--label", "odd=one, three", "--label", "even"), "Describe these better:"),
        (("--examples", "examples.csv"), "Give these more examples:"),
    ],
)
def test_what_helps_a_label_depends_on_what_it_has(
    options: tuple[str, ...], said: str, program: Program, messages: Path
) -> None:
    (messages.parent / "examples.csv").write_text("label,text\nodd,one\neven,two\n", encoding="utf-8")
    ended = program("classify", "messages.csv", *options, "--truth", "topic", *DIM)
    assert said in ended.text.splitlines()


def test_classify_writes_a_label_for_every_text(program: Program, messages: Path) -> None:
    options = ("--min-score", "-1", "--truth", "topic", "--format", "jsonl")
    ended = program("classify", "messages.csv", *LABELS, *options, *DIM)
    rows = [json.loads(line) for line in ended.text.splitlines()]
    assert ended.errors == "12 texts, 2 labels\n"
    assert list(rows[0]) == ["id", "label", "score", "margin", "next", "text", "truth"]
    assert all({row["label"], row["next"]} == {"odd", "even"} and row["margin"] >= 0 for row in rows)


def test_classify_prints_every_text_of_a_few(program: Program, messages: Path) -> None:
    (messages.parent / "examples.csv").write_text("label,text\nodd,one\neven,two\nodd,three\n", encoding="utf-8")
    ended = program("classify", "messages.csv", "--examples", "examples.csv", *DIM)
    assert ended.code == 0
    assert "m11" in ended.text
    (messages.parent / "labels.csv").write_text("label,description\nodd,\neven,two and so on\n", encoding="utf-8")
    ended = program("classify", "messages.csv", "--labels", "labels.csv", "--truth", "topic", *DIM)
    assert "Accuracy" in ended.text
    assert "True labels in rows" in ended.text


@pytest.mark.parametrize(
    ("options", "content", "code", "said"),
    [
        ((), "", 2, "one of them"),
        ((*LABELS, "--labels", "l.csv"), "", 2, "one of them"),
        (("--label", "=text"), "", 2, "no name"),
        (("--label", "odd"), "", 1, "at least 2 labels; there is 1"),
        (("--labels", "l.csv"), "name,n\na,b\n", 1, "no column 'label'"),
        (("--labels", "l.csv"), "label\nodd\nodd\n", 1, "more than one label 'odd'"),
        (("--examples", "l.csv"), "label,text\n,one\n", 1, "line 2 of l.csv has no label"),
        ((*LABELS, "--truth", "none"), "", 1, "no column 'none', which --truth names; beside the texts there is topic"),
        (("--label", "odd", "--label", "x", "--truth", "topic"), "", 1, "true label 'even', which is none of odd, x"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    options: tuple[str, ...], content: str, code: int, said: str, program: Program, messages: Path
) -> None:
    (messages.parent / "l.csv").write_text(content, encoding="utf-8")
    ended = program("classify", "messages.csv", *options, *DIM)
    assert (ended.code, ended.text) == (code, "")
    assert said in ended.errors


def test_map_writes_a_page_a_picture_and_a_table(program: Program, messages: Path) -> None:
    outputs = ("--output", "m.html", "--output", "m.png", "--output", "m.parquet")
    ended = program("map", "messages.csv", "--colour", "topic", "--layout", "pca", *outputs, *DIM)
    assert ended.code == 0
    assert [line.split(":")[0] for line in ended.text.splitlines()] == ["m.html", "m.png", "m.parquet"]
    folder = messages.parent
    assert b"text number 7" in (folder / "m.html").read_bytes()
    assert (folder / "m.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "m.parquet").read_bytes()[:4] == b"PAR1"
    assert program("map", "messages.csv", "-k", "2", "--layout", "pca", *DIM).code == 0
    assert (folder / "map.html").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--output", "m.pdf"), "m.pdf: maps are written to .html, .png, .parquet"),
        (("--colour", "none"), "no column 'none', which --colour names; beside the texts: topic"),
    ],
)
def test_a_map_of_what_is_not_there_is_refused(
    options: tuple[str, ...], said: str, program: Program, messages: Path
) -> None:
    ended = program("map", "messages.csv", *options, *DIM)
    assert (ended.code, ended.text) == (1, "")
    assert said in ended.errors


@pytest.fixture
def questions(folder: Path) -> Path:
    rows = [f"question {number},text {number // 2}" for number in range(20)]
    path = folder / "questions.csv"
    path.write_text("\n".join(["question,text", *rows, ""]), encoding="utf-8")
    return path


def test_evaluate_writes_a_row_for_every_setting_and_a_picture(program: Program, questions: Path) -> None:
    options = ("--sizes", "8", "--store-as", "float32,binary", "--chart", "c.png", "--format", "jsonl")
    ended = program("evaluate", "questions.csv", *options, *DIM)
    rows = [json.loads(line) for line in ended.text.splitlines()]
    assert [(row["dimensions"], row["encoding"]) for row in rows] == [
        (16, "float32"), (16, "binary"), (8, "float32"), (8, "binary"),
    ]  # fmt: skip
    assert rows[0]["recall@1 low"] <= rows[0]["recall@1"] <= rows[0]["recall@1 high"]
    assert all(row["ms_per_text"] > 0 and row["ms_per_search_of_a_million"] > 0 for row in rows)
    assert {row["dollars_per_million_tokens"] for row in rows} == {0}
    assert "Too few questions to tell" in ended.errors
    assert (questions.parent / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluate_prints_a_table(program: Program, questions: Path) -> None:
    ended = program("evaluate", "questions.csv", "--sizes", "8", *DIM)
    assert ended.code == 0
    assert "20 questions, each asked of 10 texts." in ended.text
    assert "Too few questions to tell about" in ended.text
    assert "fake/deterministic: costs nothing, " in ended.text
    assert (
        "stored as   MB for a million  of full  search of a million\n16 float32                64     100%"
        in ended.text
    )
    tables = ended.text.partition("stored as")[2].rpartition("\n\n")[0]
    assert max(len(line) for line in tables.splitlines()) <= 80
    twice = program("evaluate", "questions.csv", "--against", "fake/deterministic", *DIM)
    assert (twice.code, twice.errors) == (1, "error: The model fake/deterministic is named twice.\n")


def test_evaluate_takes_labels_or_texts_alone(program: Program, messages: Path) -> None:
    assert "ask for those of their label" in program("evaluate", "messages.csv", "--labels", "topic", *DIM).text
    rows = ('{"text": "one", "topic": "a"}', '{"text": "two", "topic": null}', '{"text": "three", "topic": "a"}')
    more = ('{"text": "four", "topic": "b"}', '{"text": "five", "topic": ""}', '{"text": "six", "topic": "b"}')
    (messages.parent / "some.jsonl").write_text("\n".join((*rows, *more)), encoding="utf-8")
    labelled = program("evaluate", "some.jsonl", "--labels", "topic", *DIM)
    assert labelled.text.startswith("4 texts of 6 ask for those of their label.")
    assert "12 texts ask for the neighbours" in program("evaluate", "messages.csv", *DIM).text


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--question", "none"), 1, "no column 'none', which --question names; beside the texts: topic"),
        (("--labels", "none"), 1, "no column 'none', which --labels names; beside the texts: topic"),
        (("--sizes", "many"), 2, "whole numbers"),
        (("--sizes", "999"), 1, "has 16 dimensions; sizes are 1 to 16, not 999"),
        (("--store-as", "int4"), 2, "give some of float32, int8, binary"),
        (("--chart", "c.svg"), 1, "written to .png"),
    ],
)
def test_an_evaluation_of_what_is_not_there_is_refused(
    options: tuple[str, ...], code: int, said: str, program: Program, messages: Path
) -> None:
    ended = program("evaluate", "messages.csv", *options, *DIM)
    assert (ended.code, ended.text) == (code, "")
    assert said in ended.errors


def test_a_question_that_is_empty_is_named_by_its_line(program: Program, folder: Path) -> None:
    (folder / "q.csv").write_text("question,text\na,b\n,c\n", encoding="utf-8")
    assert "line 3 of q.csv has no question" in program("evaluate", "q.csv", *DIM).errors
