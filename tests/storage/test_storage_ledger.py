"""The ledger: every acknowledged entry is there, whatever happens to the database or to us."""

import asyncio
import contextlib
import logging
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy as sa
from msgspec import structs

from embedgate.core.access import AuditEvent
from embedgate.core.errors import InternalError
from embedgate.core.types import LedgerEntry
from embedgate.observe import metrics
from embedgate.storage.appender import Appender, Item
from embedgate.storage.chain import LEDGER_COLUMNS
from embedgate.storage.commits import GroupWriter, Pending, QuickCommit
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from embedgate.storage.ledger import SqlLedger
from governing import entries_in, events_in, verified
from waiting import PATIENCE_S, until

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
    project_id="project_a",
    authenticate_ms=0.25,
    admit_ms=0.5,
)
EVENT = AuditEvent("decision", ENTRY.at_ms, ENTRY.key_id, "embedding", ENTRY.model, "permit", "r", ("p1",), {"n": 2})

RECORD_FOREVER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from embedgate.core.access import AuditEvent
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
            ledger.note(AuditEvent("decision", n, "k", "embedding", "m", "permit", name))
            await ledger.record(LedgerEntry(
                name, n, "openai", "u", "k", None, "m", "s", "p", "um", 1, 1, 0, False, 1, None, 1, "ok", 1.0, 1.0))
            print(name, flush=True)
    await asyncio.gather(*(record(worker) for worker in range(8)))

asyncio.run(main())
"""


def numbered(i: int) -> LedgerEntry:
    return structs.replace(ENTRY, request_id=f"r{i}", at_ms=ENTRY.at_ms + i)


def noted(i: int) -> AuditEvent:
    return structs.replace(EVENT, request_id=f"r{i}")


def trail(database: Database) -> list[AuditEvent]:
    """What is in the audit trail, oldest first."""
    assert verified(database).ok
    return events_in(database)


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
    assert entries_in(database) == entries
    ledger.close()


def test_the_fields_of_an_entry_are_the_columns_of_the_ledger_in_their_order() -> None:
    assert LedgerEntry.__struct_fields__ == LEDGER_COLUMNS


async def test_an_entry_that_is_recorded_again_is_written_once(database: Database) -> None:
    ledger = SqlLedger(database)
    await asyncio.gather(*(ledger.record(ENTRY) for _ in range(3)))
    await ledger.record(ENTRY)
    assert entries_in(database) == [ENTRY]
    ledger.close()


async def test_what_arrives_during_a_write_is_one_group() -> None:
    groups: list[list[str]] = []
    is_writing, may_end = threading.Event(), threading.Event()

    def append(items: Sequence[Item]) -> None:
        groups.append([item.request_id for item in items])
        is_writing.set()
        may_end.wait()

    writer = GroupWriter(append, max_pending=100, patience_s=1.0)
    waiters = [asyncio.get_running_loop().create_future() for _ in range(20)]
    writer.offer(Pending(numbered(0), waiters[0]))
    await asyncio.to_thread(is_writing.wait)  # at once: one entry alone does not wait for company
    for i in range(1, 20):
        writer.offer(Pending(noted(i)))
        writer.offer(Pending(numbered(i), waiters[i]))
    was_idle = writer.is_idle
    may_end.set()
    await asyncio.gather(*waiters)
    assert (was_idle, writer.is_idle) == (False, True)
    assert groups == [["r0"], [f"r{i}" for i in range(1, 20) for _ in range(2)]]
    writer.close()


async def test_what_is_offered_together_is_one_group() -> None:
    groups: list[list[str]] = []
    writer = GroupWriter(lambda items: groups.append([item.request_id for item in items]), 1_000, patience_s=1.0)
    for first in range(0, 200, 2):
        waiter = asyncio.get_running_loop().create_future()
        writer.offer(Pending(noted(first)), Pending(noted(first + 1)), Pending(numbered(first), waiter))
        await waiter
    writer.close()
    assert groups == [[f"r{first}", f"r{first + 1}", f"r{first}"] for first in range(0, 200, 2)]


def test_every_entry_acknowledged_before_a_kill_is_there(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", RECORD_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(200)]
    child.kill()
    acknowledged += child.communicate()[0].splitlines()
    database = open_database(tmp_path)
    entries = [entry.request_id for entry in entries_in(database)]
    events = trail(database)
    database.close()
    # The kill may have cut the last line short.
    assert set(acknowledged[:-1]) <= set(entries)
    assert len(set(entries)) == len(entries)
    assert set(entries) <= {event.request_id for event in events}


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
    assert entries_in(impatient) == [ENTRY]
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
    assert entries_in(impatient) == [numbered(i) for i in range(22)]
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
    assert len(entries_in(impatient)) == 3
    ledger.close()


def lost(record: str) -> float:
    """How many of them `/metrics` counts."""
    found = re.search(
        rf'^embedgate_lost_records_total{{record="{record}"}} (\S+)$', metrics.text(None).decode(), re.MULTILINE
    )
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("synchronous", ["normal", "full"])
async def test_what_cannot_be_stored_fails_alone(
    tmp_path: Path, synchronous: Literal["normal", "full"], caplog: pytest.LogCaptureFixture
) -> None:
    before = [lost(record) for record in ("audit", "ledger")]
    database = open_database(tmp_path, synchronous)
    ledger = SqlLedger(database)
    entries = [numbered(i) for i in range(5)]
    entries[1] = structs.replace(entries[1], cost_picodollars=2**63)
    entries[3] = structs.replace(entries[3], end_user="\ud800")
    bad = [
        structs.replace(noted(5), target="\ud800"),
        structs.replace(noted(6), at_ms=2**63),
        structs.replace(noted(7), detail={"n": 2**64}),
    ]
    for event in (noted(0), *bad, noted(8)):
        ledger.note(event)
    recording = (asyncio.wait_for(ledger.record(entry), timeout=PATIENCE_S) for entry in entries)
    results = await asyncio.gather(*recording, return_exceptions=True)
    ledger.close()
    assert [type(result) for result in results] == [type(None), InternalError] * 2 + [type(None)]
    assert [entry.request_id for entry in entries_in(database)] == ["r0", "r2", "r4"]
    assert trail(database) == [noted(0), noted(8)]
    assert events(caplog) == ["audit_lost"] * 3 + ["ledger_lost"] * 2
    assert [lost(record) for record in ("audit", "ledger")] == [before[0] + 3, before[1] + 2]
    assert caplog.records[0].__dict__["fields"]["target"] == r"'\ud800'"
    database.close()


async def test_an_entry_is_written_although_its_caller_has_gone(impatient: Database, other: sqlite3.Connection) -> None:
    ledger = SqlLedger(impatient)
    other.execute("BEGIN IMMEDIATE")
    gone = asyncio.ensure_future(ledger.record(ENTRY))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    other.execute("COMMIT")
    ledger.close()
    assert entries_in(impatient) == [ENTRY]


async def test_closing_writes_what_is_pending_and_refuses_what_comes_later(database: Database) -> None:
    ledger = SqlLedger(database)
    pending = [asyncio.ensure_future(ledger.record(numbered(i))) for i in range(100)]
    await asyncio.sleep(0)
    ledger.close()
    await asyncio.gather(*pending)
    with pytest.raises(InternalError):
        await ledger.record(numbered(100))
    assert len(entries_in(database)) == 100


async def test_closing_in_an_outage_ends_and_logs_what_was_spent(
    impatient: Database, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqlLedger(impatient, patience_s=0.05)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InternalError):
        await ledger.record(ENTRY)
    started_s = time.monotonic()
    ledger.close()
    assert time.monotonic() - started_s < PATIENCE_S
    assert events(caplog) == ["ledger_stuck", "ledger_lost"]
    fields = caplog.records[1].__dict__["fields"]
    assert (fields["user_id"], fields["tokens"], fields["cost_picodollars"]) == ("user_a", "7", "140000")
    assert caplog.records[1].levelno == logging.CRITICAL
    other.execute("COMMIT")


async def test_a_decision_is_on_disk_when_its_entry_is(database: Database, tmp_path: Path) -> None:
    ledger = SqlLedger(database)
    reader = sqlite3.connect(tmp_path / DATABASE_FILE)

    async def request(i: int) -> bool:
        ledger.note(noted(i))
        await ledger.record(numbered(i))
        found = reader.execute("SELECT count(*) FROM audit WHERE request_id = ?", (f"r{i}",)).fetchone()
        return bool(found == (1,))

    assert all([all(await asyncio.gather(*(request(100 * turn + i) for i in range(8)))) for turn in range(10)])
    reader.close()
    ledger.close()
    assert len(trail(database)) == len(entries_in(database)) == 80


@pytest.mark.parametrize("broken", ["audit", "ledger"])
async def test_entry_and_decision_are_written_together_or_not_at_all(
    impatient: Database, other: sqlite3.Connection, broken: str
) -> None:
    ledger = SqlLedger(impatient, patience_s=0.05)
    other.execute(f"ALTER TABLE {broken} RENAME TO elsewhere")
    ledger.note(EVENT)
    with pytest.raises(InternalError):
        await ledger.record(ENTRY)
    other.execute(f"ALTER TABLE elsewhere RENAME TO {broken}")
    other.execute("BEGIN IMMEDIATE")
    counts = [other.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("audit", "ledger")]
    other.execute("COMMIT")
    assert counts in ([0, 0], [1, 1])  # the second if the retry was faster than we
    ledger.close()
    assert (trail(impatient), entries_in(impatient)) == ([EVENT], [ENTRY])


@pytest.mark.parametrize("synchronous", ["normal", "full"])
async def test_a_decision_without_an_entry_is_on_disk_within_a_moment(
    tmp_path: Path, synchronous: Literal["normal", "full"]
) -> None:
    database = open_database(tmp_path, synchronous)
    ledger = SqlLedger(database)
    for i in range(3):
        ledger.note(noted(i))
    async with asyncio.timeout(PATIENCE_S):
        while len(trail(database)) < 3:
            await asyncio.sleep(0.01)
    ledger.note(noted(3))  # the wait begins anew for the next one
    async with asyncio.timeout(PATIENCE_S):
        while len(trail(database)) < 4:
            await asyncio.sleep(0.01)
    assert trail(database) == [noted(i) for i in range(4)]
    ledger.close()
    database.close()


async def test_a_flood_of_decisions_is_written_before_their_wait_is_over(database: Database) -> None:
    ledger = SqlLedger(database)
    for i in range(300):
        ledger.note(noted(i))
    await asyncio.sleep(0)
    ledger.close()
    assert trail(database) == [noted(i) for i in range(300)]


async def test_decisions_that_cannot_be_kept_are_logged_and_leave_room_for_entries(
    impatient: Database, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqlLedger(impatient, max_pending=3)
    other.execute("BEGIN IMMEDIATE")
    for i in range(5):
        ledger.note(noted(i))
    kept = asyncio.ensure_future(ledger.record(ENTRY))
    await asyncio.wait([kept], timeout=0.02)
    assert events(caplog) == ["audit_lost"] * 2
    assert [record.__dict__["fields"]["request_id"] for record in caplog.records] == ["r3", "r4"]
    assert caplog.records[0].levelno == logging.CRITICAL
    other.execute("COMMIT")
    await kept
    ledger.close()
    assert trail(impatient) == [noted(i) for i in range(3)]


async def test_closing_writes_the_decisions_and_logs_those_that_come_later(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqlLedger(database)
    ledger.note(noted(0))
    ledger.close()
    ledger.note(noted(1))
    assert trail(database) == [noted(0)]
    assert events(caplog) == ["audit_lost"]


async def test_closing_in_an_outage_logs_the_decisions(
    impatient: Database, other: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqlLedger(impatient, patience_s=0.02)
    other.execute("BEGIN IMMEDIATE")
    ledger.note(EVENT)
    ledger.close()
    assert events(caplog) == ["ledger_stuck", "audit_lost"]
    other.execute("COMMIT")


def test_a_ledger_that_cannot_be_read_says_so(impatient: Database, other: sqlite3.Connection) -> None:
    ledger = SqlLedger(impatient)
    ledger.check()
    other.execute("DROP TABLE ledger")
    with pytest.raises(InternalError, match="no such table"):
        ledger.check()
    ledger.close()


def test_a_read_that_finds_the_file_gone_is_an_outage_of_the_ledger(database: Database) -> None:
    ledger = SqlLedger(database)
    watch, path = ledger.watch, database.path
    assert watch is not None and path is not None
    watch.start()
    assert ledger.check() is None
    aside = path.rename(path.with_name("aside.db"))
    database.close()  # the pool has to open the file again
    assert "deleted" in (ledger.check() or "")
    aside.rename(path)
    ledger.close()
    ledger.release()


def test_a_checkpoint_makes_no_file_where_the_database_was_moved_away(database: Database) -> None:
    path = database.path
    assert path is not None
    quick = QuickCommit(path, Appender(database.dialect))
    aside = path.rename(path.with_name("aside.db"))
    for n in range(200):  # a checkpoint begins after 1,000 pages, and opens the file by its name
        quick.commit([noted(n)])
    quick.close()  # waits for it
    assert not path.exists()
    aside.rename(path)


def test_a_quick_commit_says_no_while_the_file_cannot_be_opened_and_goes_on_after_that(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    append = Appender(database.dialect)
    quick = QuickCommit(tmp_path / DATABASE_FILE, append)
    assert quick.commit([ENTRY])
    quick.close()
    database.close()  # so that all is in the one file
    path = tmp_path / DATABASE_FILE
    whole = path.read_bytes()
    quick = QuickCommit(path, append)
    path.write_bytes(b"no database" * 1000)
    assert not any(quick.commit([structs.replace(ENTRY, request_id="in vain")]) for _ in range(3))
    path.write_bytes(whole)
    assert quick.commit([structs.replace(ENTRY, request_id="again")])
    quick.close()
    database = open_database(tmp_path)
    assert [entry.request_id for entry in entries_in(database)] == ["r", "again"]
    database.close()


Transaction = Callable[[Database], AbstractContextManager[sa.Connection]]


def _change_nothing(database: Database, transaction: Transaction) -> None:
    with transaction(database) as change:
        change.execute(sa.text("UPDATE rules_revision SET revision = revision"))


@pytest.mark.parametrize("transaction", [Database.write, Database.write_on_demand])
async def test_a_change_of_this_process_is_no_outage_however_long_it_holds_the_lock(
    database: Database, transaction: Transaction
) -> None:
    ledger = SqlLedger(database)
    watch, path = ledger.watch, database.path
    assert watch is not None and path is not None
    with transaction(database) as change:
        change.execute(sa.text("UPDATE rules_revision SET revision = revision"))
        assert await asyncio.to_thread(watch.check) is None
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:  # a change that waits for the lock, too
            waiting = pool.submit(_change_nothing, database, transaction)
            await until(lambda: watch.check() is not None)
            assert "locked" in (watch.outage or "")
            other.execute("ROLLBACK")
            with contextlib.suppress(InternalError):  # it may have waited too long
                await asyncio.wrap_future(waiting)
    await until(lambda: watch.check() is None)
    ledger.close()
    ledger.release()
