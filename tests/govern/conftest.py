"""Operations on a real database, with a clock that is set and passwords that are cheap to hash."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from embedgate.govern.change import Actor
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from governing import Governing, resources_for


@dataclass
class Clock:
    """The time, which passes when it is told to: Saturday, 21 November 2026, noon, UTC."""

    now_s: float = 1_795_262_400.0

    def ms(self) -> int:
        return int(self.now_s * 1000)

    def s(self) -> float:
        return self.now_s


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
