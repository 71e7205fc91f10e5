"""Operations on a real database, with a clock that is set and passwords that are cheap to hash."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from embedgate.core.types import LedgerEntry
from embedgate.govern.change import Actor
from embedgate.storage.appender import Appender
from embedgate.storage.database import Database, open_database
from empty_database import write_empty_database
from governing import Clock, Governing, resources_for

ENTRY = LedgerEntry(
    request_id="r",
    at_ms=0,
    dialect="openai",
    user_id="u",
    key_id="k",
    end_user=None,
    model="openai/text-embedding-3-small",
    space="openai/text-embedding-3-small",
    provider="openai",
    upstream_model="m",
    items=1,
    tokens=10,
    reused_tokens=0,
    tokens_estimated=False,
    price_picodollars=20_000,
    price_as_of=None,
    cost_picodollars=200_000,
    outcome="ok",
    total_ms=1.0,
    upstream_ms=1.0,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    write_empty_database(tmp_path)
    database = open_database(tmp_path, busy_timeout_s=30)
    yield database
    database.close()


@pytest.fixture
def call(database: Database, tmp_path: Path, clock: Clock) -> Governing:
    """Runs operations as an administrator."""
    return Governing(database, resources_for(tmp_path, clock.ms), Actor("user_admin", "req_1"))


@pytest.fixture
def spend(database: Database) -> Callable[..., None]:
    """Writes a ledger entry, of the fields that are given."""

    def record(**changes: Any) -> None:
        with database.write() as connection:
            Appender(database.dialect)(connection.exec_driver_sql, [msgspec.structs.replace(ENTRY, **changes)])

    return record
