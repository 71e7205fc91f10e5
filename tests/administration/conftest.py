"""An administration on a real database, with a clock that is set and passwords that are cheap to hash."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import argon2
import pytest
from msgspec import structs

from embedgate.administration import Actor, Administration, Stores, open_stores
from embedgate.core.access import AuditEvent
from embedgate.core.types import LedgerEntry
from embedgate.storage.appender import Appender
from embedgate.storage.audit import SqlAudit
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from embedgate.storage.key_management import SqlKeys
from embedgate.storage.paging import every
from embedgate.storage.passwords import SqlPasswords


@dataclass
class Clock:
    """The time, which passes when it is told to: Saturday, 21 November 2026, noon, UTC."""

    now_s: float = 1_795_262_400.0

    def ms(self) -> int:
        return int(self.now_s * 1000)

    def s(self) -> float:
        return self.now_s


MODEL = "openai/text-embedding-3-small"
ENTRY = LedgerEntry(
    request_id="r",
    at_ms=0,
    dialect="openai",
    user_id="u",
    key_id="k",
    end_user=None,
    model=MODEL,
    space=MODEL,
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
def stores(database: Database, tmp_path: Path, clock: Clock) -> Stores:
    stores = open_stores(database, "eg")
    joint = stores.database
    return replace(
        stores,
        keys=SqlKeys(joint, "eg", clock.ms),
        passwords=SqlPasswords(joint, hasher=argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)),
        audit=SqlAudit(joint, clock.ms),
        now_ms=clock.ms,
    )


@pytest.fixture
def administration(stores: Stores) -> Administration:
    return Administration(stores, Actor("user_admin", "req_1"))


@pytest.fixture
def happened(database: Database) -> Callable[[], list[AuditEvent]]:
    """The whole trail, oldest first."""
    audit = SqlAudit(database)
    return lambda: [stored.event for stored in every(lambda page: audit.events(query=replace(page, sort="seq")))]


@pytest.fixture
def spend(database: Database) -> Callable[..., None]:
    """Writes a ledger entry, of the fields that are given."""

    def record(**changes: Any) -> None:
        with database.write() as connection:
            Appender(database.dialect)(connection.exec_driver_sql, [structs.replace(ENTRY, **changes)])

    return record
