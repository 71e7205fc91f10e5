"""The vector cache from the command line: what it holds, and how it is emptied."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from program import Program

pytestmark = pytest.mark.usefixtures("fake_only")


def entries(program: Program) -> int:
    found = json.loads(program("cache", "stats", "--json").text)["disk"]
    assert (found["size_bytes"] > 0, found["max_bytes"]) == (True, 4_000_000_000)
    count: int = found["entries"]
    return count


def test_what_was_embedded_is_counted_and_forgotten_when_cleared(program: Program) -> None:
    assert program("embed", "one", "two", "three", "two").code == 0
    assert entries(program) == 3
    header, disk, _, hint = program("cache", "stats").text.splitlines()
    assert header.split() == ["tier", "entries", "bytes", "at", "most"]
    assert disk.split()[:2] == ["disk", "3"]
    assert "/metrics" in hint
    ended = program("cache", "clear", "--yes")
    assert (ended.code, ended.text) == (0, "the cache is empty\n")
    assert json.loads(program("cache", "stats", "--json").text)["disk"]["entries"] == 0


def test_nothing_is_cleared_when_nobody_can_be_asked(program: Program) -> None:
    program("embed", "one")
    ended = program("cache", "clear")
    assert ended.code == 2
    assert "--yes" in ended.errors
    assert entries(program) == 1


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 1), (b"y\n", 0, 0)])
def test_somebody_at_a_terminal_is_asked(program: Program, folder: Path, answer: bytes, code: int, left: int) -> None:
    program("embed", "one")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        ended = subprocess.run(
            [sys.executable, "-m", "embedgate", "cache", "clear"], stdin=theirs, capture_output=True, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert ended.returncode == code
    assert b"Forget every vector" in ended.stderr
    assert json.loads(program("cache", "stats", "--json").text)["disk"]["entries"] == left


def test_a_cache_in_memory_cannot_be_cleared_from_outside(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDGATE_CACHE__DISK_BYTES", "0")
    ended = program("cache", "clear", "--yes")
    assert ended.code == 1
    assert "Restart" in ended.errors


def test_a_folder_that_cannot_be_used_is_told(program: Program, folder: Path) -> None:
    (folder / "data" / "cache").write_text("in the way", encoding="utf-8")
    assert "cache_disk_failed" in program("cache", "stats").errors
    ended = program("cache", "clear", "--yes")
    assert ended.code == 1
    assert "cannot be cleared" in ended.errors


def test_the_cache_of_a_gateway_elsewhere_is_shown_and_cleared(program: Program, remote: Program) -> None:
    assert program("embed", "one", "two").code == 0
    found = json.loads(remote("cache", "stats", "--json").text)
    assert (found["is_on"], found["disk"]["max_bytes"]) == (True, 4_000_000_000)
    assert remote("cache", "clear", "--yes").text == "the cache is empty\n"
    assert json.loads(program("cache", "stats", "--json").text)["disk"]["entries"] == 0


def test_the_vectors_of_one_model_are_forgotten(program: Program) -> None:
    model = "fake/deterministic"
    assert program("embed", "one", "two", "--model", model).code == 0
    ended = program("cache", "clear", "--model", model, "--yes")
    assert (ended.code, ended.text) == (0, f"no vector of {model} is found any more\n")
    assert program("embed", "one", "--model", model).code == 0
    assert entries(program) == 3  # the old ones are not found, and make room in time
    assert program("cache", "clear", "--model", "no-such", "--yes").code != 0
