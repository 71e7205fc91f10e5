"""What subjects have spent: exact, read from an index, and for the event loop without holding it up."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from embedgate.core.access import Subject
from embedgate.core.errors import InternalError, Overloaded
from embedgate.core.types import LedgerEntry
from embedgate.storage.appender import Appender
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from embedgate.storage.spending import LedgerSpending, sum_spent

ENTRY = LedgerEntry(
    request_id="r",
    at_ms=1_767_225_600_000,
    dialect="openai",
    user_id="user_a",
    key_id="key_a",
    end_user=None,
    model="openai/m",
    space="m",
    provider="openai",
    upstream_model="m",
    items=2,
    tokens=7,
    reused_tokens=3,
    tokens_estimated=False,
    price_picodollars=20_000,
    price_as_of=None,
    cost_picodollars=140_000,
    outcome="ok",
    total_ms=1.25,
    upstream_ms=0.5,
)


def write(database: Database, entries: Sequence[LedgerEntry]) -> None:
    """Make these the only entries, each with a request id of its own."""
    with database.write() as connection:
        numbered = [replace(entry, request_id=f"r{i}") for i, entry in enumerate(entries)]
        Appender(database.dialect)(connection.exec_driver_sql, numbered)


@pytest.mark.parametrize("kind", ["key", "user", "project"])
def test_what_a_subject_has_spent_is_exact_and_read_from_its_index(
    tmp_path: Path, database: Database, kind: Literal["key", "user", "project"]
) -> None:
    theirs = replace(ENTRY, key_id="key_b", user_id="user_b", project_id="project_b", cost_picodollars=2**63 - 1)
    write(database, [*(replace(theirs, at_ms=at_ms) for at_ms in (1, 2, 3, 4)), ENTRY])
    subject = Subject(kind, f"{kind}_b")
    queries: list[str] = []
    with database.read() as connection:
        assert sum_spent(connection, subject, 0) == 4 * (2**63 - 1)  # more than SQLite adds up by itself
        assert sum_spent(connection, subject, 2, ["r3", "unknown"]) == 2 * (2**63 - 1)
        assert sum_spent(connection, Subject(kind, "*"), 0) == 0
        sa.event.listen(connection.engine, "before_cursor_execute", lambda *args: queries.append(args[2]))
        sum_spent(connection, subject, 2)
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as reader:
        plan = reader.execute(f"EXPLAIN QUERY PLAN {queries[-1]}", ("x", 2)).fetchall()
    assert f"ix_ledger_{kind}_id_at_ms ({kind}_id=? AND at_ms>?)" in str(plan)


async def test_spending_is_added_up_aside(database: Database) -> None:
    write(database, [ENTRY, replace(ENTRY, at_ms=1)])
    spending = LedgerSpending(database)
    sums = [
        spending.spent(Subject("user", user), since_ms) for user, since_ms in (("user_a", 0), ("user_a", 2), ("x", 0))
    ]
    assert await asyncio.gather(*sums) == [280_000, 140_000, 0]
    spending.close()


async def test_spending_refuses_more_questions_than_may_wait(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    spending = LedgerSpending(database, max_waiting=2)
    sums = await asyncio.gather(*(spending.spent(Subject("user", "u"), 0) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in sums] == [int, int, Overloaded]
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE ledger")
    with pytest.raises(InternalError):
        await spending.spent(Subject("user", "u"), 0)
    spending.close()
    database.close()


def test_an_empty_ledger_adds_up_to_nothing(database: Database) -> None:
    with database.read() as connection:
        assert sum_spent(connection, Subject("user", "user_a"), 0) == 0
