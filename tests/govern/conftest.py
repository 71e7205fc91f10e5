"""Operations on a real database, with a clock that is set and passwords that are cheap to hash."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedgate.govern.change import Actor
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from governing import Clock, Governing, resources_for


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without content, to copy: making one takes most of the time of a short test."""
    folder = tmp_path_factory.mktemp("empty")
    open_database(folder).close()
    return folder / DATABASE_FILE


@pytest.fixture
def database(tmp_path: Path, empty_file: Path) -> Iterator[Database]:
    shutil.copy(empty_file, tmp_path)
    database = open_database(tmp_path, busy_timeout_s=30)
    yield database
    database.close()


@pytest.fixture
def call(database: Database, tmp_path: Path, clock: Clock) -> Governing:
    """Runs operations as an administrator."""
    return Governing(database, resources_for(tmp_path, clock.ms), Actor("user_admin", "req_1"))
