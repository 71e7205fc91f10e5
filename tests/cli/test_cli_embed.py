"""Texts in, vectors out: sources, formats and faults of `embedgate embed`."""

import io
import json
import os
import pty
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedgate.core.vectors import Vectors
from embedgate.providers import fake
from program import Program
from upstream import Answer, Seen, Upstream, error

DIM = 8
KEY = "eg_0123456789ab4def8123456789abcdef"
pytestmark = pytest.mark.usefixtures("fake_only")


def expected(*texts: str) -> Vectors:
    return np.stack([fake.vector(text, DIM) for text in texts])


def assert_right(vectors: Vectors, *texts: str) -> None:
    """Each row is the vector of its text, up to the rounding of one that was cut from the full size."""
    np.testing.assert_allclose(vectors, expected(*texts), atol=1e-6)


def from_csv(output: bytes) -> tuple[list[int], Vectors]:
    rows = np.loadtxt(io.BytesIO(output), delimiter=",", ndmin=2)
    return [int(index) for index in rows[:, 0]], rows[:, 1:].astype(np.float32)


def test_json_has_the_shape_of_the_answer_of_the_api(program: Program) -> None:
    ended = program("embed", "--dimensions", str(DIM), "first text", "second text")
    assert (ended.code, ended.errors) == (0, "")
    body = json.loads(ended.output)
    assert (body["object"], body["model"]) == ("list", "fake/deterministic")
    assert [item["index"] for item in body["data"]] == [0, 1]
    vectors = np.array([item["embedding"] for item in body["data"]], dtype=np.float32)
    assert_right(vectors, "first text", "second text")


def test_lines_of_a_file_become_rows_of_a_numpy_file(program: Program, folder: Path) -> None:
    (folder / "in.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\xc3\xa9t\xc3\xa9 ")
    ended = program("embed", "--file", "in.txt", "--output", "out.npy", "--dimensions", str(DIM))
    assert (ended.code, ended.output, ended.errors) == (0, b"", "")
    vectors = np.load(folder / "out.npy")
    assert vectors.dtype == np.float32
    assert_right(vectors, "one", "two", "été ")
    assert sorted(path.name for path in folder.iterdir()) == ["data", "embedgate.toml", "in.txt", "out.npy"]


@pytest.mark.parametrize("arguments", [[], ["-"], ["--file", "-"]])
def test_piped_lines_are_read_and_numpy_is_written_into_a_pipe(program: Program, arguments: list[str]) -> None:
    ended = program("embed", *arguments, "--format", "npy", "--dimensions", str(DIM), stdin=b"one\ntwo\n")
    assert_right(np.load(io.BytesIO(ended.output)), "one", "two")


def test_more_lines_than_a_request_takes_keep_their_order(program: Program) -> None:
    texts = [f"text number {i}" for i in range(2_100)]
    ended = program("embed", "--format", "csv", "--dimensions", str(DIM), stdin="\n".join(texts).encode())
    positions, vectors = from_csv(ended.output)
    assert positions == list(range(2_100))
    assert_right(vectors, *texts)


def test_an_empty_line_is_named_unless_empty_ones_are_left_out(program: Program) -> None:
    lines = b"one\n\n  \nfour\n"
    ended = program("embed", "-", stdin=lines)
    assert (ended.code, ended.output) == (1, b"")
    assert "line 2 of standard input is empty" in ended.errors
    kept = program("embed", "-", "--skip-empty", "--format", "csv", "--dimensions", str(DIM), stdin=lines)
    positions, vectors = from_csv(kept.output)
    assert positions == [0, 3]
    assert_right(vectors, "one", "four")


@pytest.mark.parametrize(
    ("lines", "said"),
    [(b"", "no texts in standard input"), (b"one\n\xff\n", "line 2 of standard input is not UTF-8")],
)
def test_input_that_cannot_be_embedded_is_refused(program: Program, lines: bytes, said: str) -> None:
    ended = program("embed", stdin=lines)
    assert (ended.code, ended.output) == (1, b"")
    assert said in ended.errors


def test_a_text_that_is_too_long_is_named_by_its_line(program: Program) -> None:
    lines = "\n".join(["short"] * 2_050 + ["word " * 9_000])
    ended = program("embed", "-", "--format", "csv", "--dimensions", str(DIM), stdin=lines.encode())
    assert ended.code == 1
    assert "line 2051 of standard input" in ended.errors
    assert "word" not in ended.errors


def test_a_failure_leaves_the_old_file_and_nothing_else(program: Program, folder: Path) -> None:
    (folder / "out.csv").write_text("old", encoding="utf-8")
    assert program("embed", "text", "--model", "no/such", "--output", "out.csv").code == 1
    assert (folder / "out.csv").read_text(encoding="utf-8") == "old"
    assert not list(folder.glob(".out*"))
    ended = program("embed", "text", "--output", "absent/out.csv")
    assert (ended.code, ended.errors) == (1, "error: absent/out.csv: No such file or directory\n")


def test_a_gateway_elsewhere_is_asked_under_the_key_of_a_file(program: Program, folder: Path, server: Upstream) -> None:
    (folder / "user.key").write_text(KEY + "\n", encoding="utf-8")
    url = server.base_url
    options = ("--url", url, "--api-key-file", "user.key", "--input-type", "query", "--dimensions", str(DIM))
    ended = program("embed", "one", *options, "--format", "csv")
    positions, vectors = from_csv(ended.output)
    assert positions == [0]
    assert_right(vectors, "one")
    (seen,) = server.requests
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert (seen.json["input_type"], seen.json["dimensions"]) == ("query", DIM)


def test_a_refusal_of_a_gateway_elsewhere_ends_with_1_and_its_words(program: Program, server: Upstream) -> None:
    server.script(error(401, "no such key", code="invalid_api_key", headers={"x-request-id": "req_7"}))
    ended = program("embed", "one", "--url", server.base_url, "--api-key", KEY)
    assert (ended.code, ended.output) == (1, b"")
    assert ended.errors == "error: no such key (401 invalid_api_key, request req_7)\n"


def test_a_gateway_that_cannot_be_reached_ends_with_4(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.close()
        ended = program("embed", "one", "--url", f"http://127.0.0.1:{port}")
    assert ended.code == 4
    assert "cannot be reached: Connection refused" in ended.errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["one", "--api-key", KEY],
        ["one", "--url", "http://127.0.0.1:1", "--api-key", KEY, "--api-key-file", "f"],
        ["one", "--file", "in.txt"],
        ["one", "--dimensions", "0"],
    ],
)
def test_options_that_do_not_go_together_are_a_wrong_command_line(program: Program, arguments: list[str]) -> None:
    ended = program("embed", *arguments)
    assert ended.code == 2
    assert KEY not in ended.errors


def test_a_terminal_gets_no_binary_and_is_not_waited_for(folder: Path) -> None:
    for arguments, said in ((["one", "--format", "npy"], "npy is binary"), ([], "nothing to embed")):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "embedgate", "embed", *arguments]
        ended = subprocess.run(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, timeout=300)
        os.close(theirs)
        os.close(ours)
        assert ended.returncode == 2
        assert said in ended.stderr.decode()


def test_columns_of_a_csv_are_embedded_without_its_header(program: Program, folder: Path) -> None:
    (folder / "in.csv").write_text("key,body\nk1,one\nk2,two\n", encoding="utf-8")
    options = ("--file", "in.csv", "--column", "body", "--id", "key", "--dimensions", str(DIM))
    ended = program("embed", *options, "--output", "out.jsonl")
    assert (ended.code, ended.errors) == (0, "")
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["index"], row["id"], row["text"]) for row in rows] == [(0, "k1", "one"), (1, "k2", "two")]
    assert_right(np.array([row["embedding"] for row in rows], dtype=np.float32), "one", "two")


def test_texts_that_cannot_be_embedded_are_left_out_and_reported_by_line(program: Program, folder: Path) -> None:
    (folder / "in.txt").write_text("one\n\n" + "word " * 9_000 + "\nfour\n", encoding="utf-8")
    options = ("--file", "in.txt", "--skip-empty", "--on-error", "skip", "--dimensions", str(DIM))
    ended = program("embed", *options, "--output", "out.npy")
    assert ended.code == 0
    assert ended.errors.splitlines()[0] == "left out 1 text of 3:"
    assert ended.errors.splitlines()[1].startswith("  line 3 of in.txt has 11251 tokens; ")
    assert_right(np.load(folder / "out.npy"), "one", "four")
    assert program("embed", "--file", "in.txt", "--skip-empty", "--dimensions", str(DIM)).code == 1


def test_if_every_text_is_left_out_the_command_fails_and_writes_nothing(program: Program, folder: Path) -> None:
    ended = program("embed", "word " * 9_000, "--on-error", "skip", "--output", "out.json")
    assert ended.code == 1
    assert ended.errors.endswith("error: No text could be embedded.\n")
    assert not (folder / "out.json").exists()


def test_long_texts_are_cut_if_it_is_asked_for(program: Program, server: Upstream) -> None:
    ended = program("embed", "one", "--truncate", "end", "--url", server.base_url, "--dimensions", str(DIM))
    assert ended.code == 0
    assert server.requests[-1].json["truncate"] == "end"


def test_an_ending_that_is_not_known_is_an_error_before_anything_is_read(program: Program, folder: Path) -> None:
    ended = program("embed", "one", "--output", "out.xml")
    assert ended.code == 1
    assert "results are written to .json, .jsonl, .csv, .parquet, .npy, not .xml" in ended.errors
    assert "--read-as" in program("embed", "--file", "in.docx").errors


def test_the_gateway_of_the_environment_is_used(
    program: Program, server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDGATE_API_KEY", KEY)
    assert program("embed", "one", "--dimensions", str(DIM)).code == 0
    assert server.requests == []
    monkeypatch.setenv("EMBEDGATE_URL", server.base_url)
    assert program("embed", "one", "--dimensions", str(DIM)).code == 0
    assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"


def test_a_provider_that_fails_half_way_ends_the_command_and_leaves_no_file(
    program: Program, folder: Path, server: Upstream
) -> None:
    (folder / "in.txt").write_text("".join(f"text {n}\n" for n in range(1_200)), encoding="utf-8")

    def answer(seen: Seen) -> Answer:
        fails = "text 1100" in seen.json["input"]
        return error(500, "no power", headers={"x-should-retry": "false"}) if fails else Answer()

    server.usually(answer)
    for on_error in ("stop", "skip"):
        options = ("--file", "in.txt", "--output", "out.npy", "--on-error", on_error, "--dimensions", str(DIM))
        ended = program("embed", *options, "--url", server.base_url)
        assert ended.code == 4
        assert ended.errors.startswith("failed after 1,024 texts, at line 1025 of in.txt or later:\nerror: no power")
        assert not (folder / "out.npy").exists()


API_WORDS = re.compile(r'GET /|POST /|send "|"truncate"|input\[|(?<!-)dimensions (?:is|out)|Bearer|allow_space_change')


def test_advice_is_for_the_command_line_here_and_on_a_gateway(program: Program, remote: Program, folder: Path) -> None:
    (folder / "long.txt").write_text("fine\n\nalso fine\n" + "word " * 9_000 + "\n", encoding="utf-8")
    refused = (
        (["--model", "fake/deterministic", "--dimensions", "5000", "x"], "--dimensions is 5000"),
        (["--model", "no such model", "x"], "embedgate models list"),
        (["--model", "fake/deterministic", "--file", "long.txt", "--skip-empty"], "line 4 of long.txt has"),
    )
    for run in (program, remote):
        for arguments, told in refused:
            ended = run("embed", *arguments)
            assert ended.code in (1, 2), ended.errors
            assert told in ended.errors
            assert not API_WORDS.search(ended.errors), ended.errors
        left_out = run(
            "embed",
            "--model",
            "fake/deterministic",
            "--file",
            "long.txt",
            "--skip-empty",
            "--on-error",
            "skip",
            "--output",
            "out.npy",
        )
        assert "  line 4 of long.txt has" in left_out.errors
        assert not API_WORDS.search(left_out.errors)
