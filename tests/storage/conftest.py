"""A real database in a temporary folder, and child processes that start at the same moment."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedgate.storage.database import Database, open_database

RunTogether = Callable[[str, int], list[str]]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty database in `tmp_path`."""
    database = open_database(tmp_path)
    yield database
    database.close()


@pytest.fixture
def run_together(tmp_path: Path) -> RunTogether:
    """Runs `n` copies of a program, each with `tmp_path` as argument, and returns what each printed.

    The programs wait for a line of input when they are ready, so that they go on at the same moment.
    """

    def run(program: str, n: int) -> list[str]:
        command = [sys.executable, "-c", program, str(tmp_path)]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(n)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        printed = [child.communicate()[0] for child in children]
        assert [child.returncode for child in children] == [0] * n
        return printed

    return run
