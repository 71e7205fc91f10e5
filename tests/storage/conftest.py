"""A real database in a temporary folder, and child processes that start at the same moment."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import together
from embedgate.storage.database import Database, open_database
from empty_database import write_empty_database

RunTogether = Callable[[str, int], list[str]]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty database in `tmp_path`."""
    write_empty_database(tmp_path)
    database = open_database(tmp_path)
    yield database
    database.close()


@pytest.fixture
def run_together(tmp_path: Path) -> RunTogether:
    """As `together.run_together`, with `tmp_path` as the folder."""
    return functools.partial(together.run_together, tmp_path)
