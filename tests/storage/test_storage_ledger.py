"""The ledger: every acknowledged entry is there, whatever happens to the database or to us."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.core.errors import InternalError
from embedgate.core.types import LedgerEntry
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from embedgate.storage.group_commit import GroupWriter
from embedgate.storage.ledger import SqlLedger, Totals

ENTRY = LedgerEntry(
    request_id="r",
    at_ms=1_700_000_000_000,
    dialect="openai",
    user_id="user_a",
    key_id="key_a",
    end_user=None,
    model="local/all-minilm-l6-v2",
    space="all-minilm-l6-v2",
    provider="local",
    upstream_model="all-MiniLM-L6-v2",
    items=2,
    tokens=7,
    reused_tokens=0,
    tokens_estimated=False,
    price_picodollars=20_000,
    price_as_of="2026-11-01",
    cost_picodollars=140_000,
    outcome="ok",
    total_ms=1.25,
    upstream_ms=0.1,
)

RECORD_FOREVER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from embedgate.core.types import LedgerEntry
from embedgate.storage.database import open_database
from embedgate.storage.ledger import SqlLedger

async def main():
    ledger = SqlLedger(open_database(Path(sys.argv[1])))
    async def record(worker):
        n = 0
        while True:
            n += 1
            name = f"{worker}-{n}"
            await ledger.record(LedgerEntry(
                name, n, "openai", "u", "k", None, "m", "s", "p", "um", 1, 1, 0, False, 1, None, 1, "ok", 1.0, 1.0))
            print(name, flush=True)
    await asyncio.gather(*(record(worker) for worker in range(8)))

asyncio.run(main())
"""


def numbered(i: int) -> LedgerEntry:
    return replace(ENTRY, request_id=f"r{i}", at_ms=ENTRY.at_ms + i)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "embedgate"]


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Database]:
    """A database that waits for no lock."""
    database = open_database(tmp_path, busy_timeout_s=0.001)
    yield database
    database.close()


@pytest.fixture
def other(tmp_path: Path, impatient: Database) -> Iterator[sqlite3.Connection]:
    """Another program that has the database open."""
    connection = sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None)
    yield connection
    connection.close()


async def test_each_of_many_concurrent_entries_is_there_once_and_unchanged(database: Database) -> None:
    ledger = SqlLedger(database)
    entries = [numbered(i) for i in range(500)]
    await asyncio.gather(*(ledger.record(entry) for entry in entries))
    assert ledger.entries(1000) == entries[::-1]
    ledger.close()


async def test_an_entry_that_is_recorded_again_is_written_once(database: Database) -> None:
    ledger = SqlLedger(database)
    await asyncio.gather(*(ledger.record(ENTRY) for _ in range(3)))
    await ledger.record(ENTRY)
    assert ledger.entries(10) == [ENTRY]
    ledger.close()


async def test_reports_are_by_user_and_time(database: Database) -> None:
    ledger = SqlLedger(database)
    assert ledger.totals() == Totals(0, 0, 0, 0)
    theirs = replace(numbered(3), user_id="user_b", cost_picodollars=2**60)
    for entry in (numbered(1), numbered(2), theirs):
        await ledger.record(entry)
    assert ledger.totals() == Totals(3, 6, 21, 280_000 + 2**60)
    assert ledger.totals(user_id="user_a", since_ms=ENTRY.at_ms + 2) == Totals(1, 2, 7, 140_000)
    assert ledger.entries(1, user_id="user_a") == [numbered(2)]
    assert ledger.entries(10, since_ms=ENTRY.at_ms + 2) == [theirs, numbered(2)]
    ledger.close()


async def test_what_arrives_during_a_write_is_one_group() -> None:
    groups: list[list[str]] = []
    is_writing, may_end = threading.Event(), threading.Event()

    def insert(entries: Sequence[LedgerEntry]) -> None:
        groups.append([entry.request_id for entry in entries])
        is_writing.set()
        may_end.wait()

    writer = GroupWriter(insert, max_pending=100, patience_s=1.0)
    first = asyncio.ensure_future(writer.write(numbered(0)))
    await asyncio.to_thread(is_writing.wait)  # at once: one entry alone does not wait for company
    others = [asyncio.ensure_future(writer.write(numbered(i))) for i in range(1, 20)]
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(first, *others)
    assert groups == [["r0"], [f"r{i}" for i in range(1, 20)]]
    writer.close()


def test_every_entry_acknowledged_before_a_kill_is_there(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", RECORD_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(300)]
    child.kill()
    acknowledged += child.communicate()[0].splitlines()
    database = open_database(tmp_path)
    ledger = SqlLedger(database)
    written = [entry.request_id for entry in ledger.entries(100_000)]
    ledger.close()
    database.close()
    # The kill may have cut the last line short.
    assert set(acknowledged[:-1]) <= set(written)
    assert len(set(written)) == len(written)


async def test_a_short_lock_is_waited_out(
    impatient: Database, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqlLedger(impatient)
    other.execute("BEGIN IMMEDIATE")
    recording = asyncio.ensure_future(ledger.record(ENTRY))
    done, _ = await asyncio.wait([recording], timeout=0.05)
    assert not done
    other.execute("COMMIT")
    await recording
    assert ledger.entries(10) == [ENTRY]
    assert events(caplog) == []
    ledger.close()


async def test_entries_of_an_outage_fail_are_kept_and_written_when_it_ends(
    impatient: Database, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqlLedger(impatient, patience_s=0.05)
    other.execute("ALTER TABLE ledger RENAME TO elsewhere")
    during = [numbered(i) for i in range(20)]
    results = await asyncio.gather(*(ledger.record(entry) for entry in during), return_exceptions=True)
    results.append((await asyncio.gather(ledger.record(numbered(20)), return_exceptions=True))[0])
    assert [str(result) for result in results] == ["the ledger cannot be written"] * 21
    assert all(isinstance(result, InternalError) for result in results)
    other.execute("ALTER TABLE elsewhere RENAME TO ledger")
    await ledger.record(numbered(21))
    assert ledger.entries(100) == [numbered(i) for i in range(21, -1, -1)]
    ledger.close()
    assert events(caplog) == ["ledger_stuck", "ledger_recovered"]
    assert "no such table: ledger" in str(caplog.records[0].__dict__["fields"])


async def test_a_full_ledger_refuses_at_once_and_logs_what_it_cannot_keep(
    impatient: Database, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqlLedger(impatient, max_pending=3)
    other.execute("BEGIN IMMEDIATE")
    kept = [asyncio.ensure_future(ledger.record(numbered(i))) for i in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(InternalError):
        await ledger.record(numbered(3))
    assert events(caplog) == ["ledger_lost"]
    assert caplog.records[0].__dict__["fields"]["request_id"] == "r3"
    other.execute("COMMIT")
    await asyncio.gather(*kept)
    assert len(ledger.entries(10)) == 3
    ledger.close()


async def test_an_entry_that_cannot_be_stored_fails_alone(
    impatient: Database, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqlLedger(impatient)
    entries = [numbered(i) for i in range(5)]
    entries[1] = replace(entries[1], cost_picodollars=2**63)
    entries[3] = replace(entries[3], end_user="\ud800")
    other.execute("BEGIN IMMEDIATE")  # so that all five become one group
    recording = [asyncio.ensure_future(ledger.record(entry)) for entry in entries]
    await asyncio.wait(recording, timeout=0.02)
    other.execute("COMMIT")
    results = await asyncio.gather(*recording, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), InternalError] * 2 + [type(None)]
    assert [entry.request_id for entry in ledger.entries(10)] == ["r4", "r2", "r0"]
    assert events(caplog) == ["ledger_lost"] * 2
    ledger.close()


async def test_an_entry_is_written_although_its_caller_has_gone(impatient: Database, other: sqlite3.Connection) -> None:
    ledger = SqlLedger(impatient)
    other.execute("BEGIN IMMEDIATE")
    gone = asyncio.ensure_future(ledger.record(ENTRY))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    other.execute("COMMIT")
    ledger.close()
    assert ledger.entries(10) == [ENTRY]


async def test_closing_writes_what_is_pending_and_refuses_what_comes_later(database: Database) -> None:
    ledger = SqlLedger(database)
    pending = [asyncio.ensure_future(ledger.record(numbered(i))) for i in range(100)]
    await asyncio.sleep(0)
    ledger.close()
    await asyncio.gather(*pending)
    with pytest.raises(InternalError):
        await ledger.record(numbered(100))
    assert len(ledger.entries(1000)) == 100


async def test_closing_in_an_outage_ends_and_logs_what_was_spent(
    impatient: Database, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqlLedger(impatient, patience_s=0.05)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InternalError):
        await ledger.record(ENTRY)
    started_s = time.monotonic()
    ledger.close()
    assert time.monotonic() - started_s < 5
    assert events(caplog) == ["ledger_stuck", "ledger_lost"]
    fields = caplog.records[1].__dict__["fields"]
    assert (fields["user_id"], fields["tokens"], fields["cost_picodollars"]) == ("user_a", "7", "140000")
    assert caplog.records[1].levelno == logging.CRITICAL
    other.execute("COMMIT")
