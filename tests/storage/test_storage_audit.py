"""The audit trail: nothing in it can be changed, left out or cut off unseen, whoever appends to it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from embedgate.core.access import AuditEvent
from embedgate.core.errors import InvalidInput
from embedgate.core.pages import PageQuery
from embedgate.storage.audit import AuditFilter, SqlAudit, StoredEvent
from embedgate.storage.chain import ORIGIN, AuditRow, chained
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from embedgate.storage.paging import every
from embedgate.storage.schema import audit as table
from embedgate.storage.verify import Break, Head

NOW_MS = 1_763_700_000_000
EVENT = AuditEvent("decision", NOW_MS, "key_a", "embedding", "openai/m", "permit", "req_1", ("p1", "p2"), {"tokens": 7})
N = 6

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
EVENTS = st.builds(
    AuditEvent,
    kind=st.sampled_from(["decision", "change", "login"]),
    at_ms=st.integers(0, 2**62),
    actor=TEXTS,
    action=TEXTS,
    target=TEXTS,
    outcome=TEXTS,
    request_id=TEXTS,
    policies=st.lists(TEXTS, max_size=2).map(tuple),
    detail=st.dictionaries(TEXTS, TEXTS | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none(), max_size=2),
)

APPEND_BOTH_WAYS = """
import asyncio, os, sys, threading
from pathlib import Path
from embedgate.core.access import AuditEvent
from embedgate.core.types import LedgerEntry
from embedgate.storage.audit import SqlAudit
from embedgate.storage.database import open_database
from embedgate.storage.ledger import SqlLedger

database = open_database(Path(sys.argv[1]), busy_timeout_s=30)
ledger, audit = SqlLedger(database, patience_s=30), SqlAudit(database)

def event(name):
    return AuditEvent("decision", 1, "k", "embedding", "m", "permit", name)

def administer():
    for i in range(10):
        audit.append([event(f"append-{i}-{k}") for k in range(3)])

async def serve():
    async def request(i):
        name = f"{os.getpid()}-{i}"
        ledger.note(event(name))
        await ledger.record(LedgerEntry(
            name, 1, "openai", "u", "k", None, "m", "s", "p", "um", 1, 1, 0, False, 1, None, 1, "ok", 1.0, 1.0))
    for turn in range(10):
        await asyncio.gather(*(request(4 * turn + i) for i in range(4)))

print("ready", flush=True)
sys.stdin.readline()
administrator = threading.Thread(target=administer)
administrator.start()
asyncio.run(serve())
administrator.join()
ledger.close()
"""


def numbered(i: int) -> AuditEvent:
    return structs.replace(EVENT, at_ms=NOW_MS + i, request_id=f"req_{i}")


def stored(audit: SqlAudit) -> list[StoredEvent]:
    """The whole trail, oldest first."""
    return every(lambda page: audit.events(query=replace(page, sort="seq")))


def clear(database: Database) -> None:
    with database.write() as connection:
        connection.execute(table.delete())


@pytest.fixture
def audit(database: Database) -> SqlAudit:
    """A trail of rows 1 to N."""
    audit = SqlAudit(database, clock=lambda: NOW_MS + 1_000_000)
    audit.append([numbered(i) for i in range(1, N + 1)])
    return audit


@pytest.fixture
def intruder(tmp_path: Path, audit: SqlAudit) -> Iterator[sqlite3.Connection]:
    """Somebody who can write to the file."""
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None)) as connection:
        yield connection


def rewrite(intruder: sqlite3.Connection, seq: int, **values: object) -> None:
    """Put a row in place of another whose digest fits its content."""
    found = intruder.execute("SELECT * FROM audit WHERE seq = ?", (seq,)).fetchone()
    before = AuditRow(*found)
    row = chained([structs.replace(numbered(seq), **values)], ORIGIN._replace(seq=seq - 1, digest=before.previous))[0]
    intruder.execute(f"REPLACE INTO audit VALUES ({', '.join('?' * len(row))})", row)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(EVENTS, max_size=4), max_size=5))
def test_every_trail_is_kept_as_it_came_and_is_whole(database: Database, history: list[list[AuditEvent]]) -> None:
    clear(database)
    audit = SqlAudit(database)
    for events in history:
        audit.append(events)
    trail = stored(audit)
    assert [row.event for row in trail] == [event for events in history for event in events]
    assert [row.seq for row in trail] == list(range(1, len(trail) + 1))
    checked = audit.verify()
    assert checked.is_intact
    assert checked.count == len(trail)
    assert checked.head == (Head(trail[-1].seq, trail[-1].digest) if trail else Head(0, "00" * 32))
    assert audit.verify(expected=checked.head).is_intact


@pytest.mark.parametrize("value", ["9", 9, 0.5, b"9", "\0"], ids=repr)
@pytest.mark.parametrize("column", [name for name in AuditRow._fields if name != "seq"])
def test_a_change_of_any_column_of_any_row_is_found(
    audit: SqlAudit, intruder: sqlite3.Connection, column: str, value: object
) -> None:
    for seq in range(1, N + 1):
        was = intruder.execute(f"SELECT {column} FROM audit WHERE seq = ?", (seq,)).fetchone()
        intruder.execute(f"UPDATE audit SET {column} = ? WHERE seq = ?", (value, seq))
        found = audit.verify().first_break
        assert found == Break(seq, f"Row {seq} does not match its digest: it was changed.")
        intruder.execute(f"UPDATE audit SET {column} = ? WHERE seq = ?", (*was, seq))
    assert audit.verify().is_intact


@pytest.mark.parametrize("seq", range(1, N + 1))
def test_a_row_with_another_number_is_found(audit: SqlAudit, intruder: sqlite3.Connection, seq: int) -> None:
    intruder.execute("UPDATE audit SET seq = 100 WHERE seq = ?", (seq,))
    assert not audit.verify().is_intact


@pytest.mark.parametrize("seq", range(2, N))
def test_a_row_that_is_missing_is_found(audit: SqlAudit, intruder: sqlite3.Connection, seq: int) -> None:
    intruder.execute("DELETE FROM audit WHERE seq = ?", (seq,))
    checked = audit.verify()
    assert checked.first_break == Break(
        seq + 1, f"Row {seq + 1} follows row {seq - 1}: what was between them is missing."
    )
    assert (checked.count, checked.head.seq) == (N - 1, N)


def test_two_rows_that_changed_places_are_found(audit: SqlAudit, intruder: sqlite3.Connection) -> None:
    for old, new in ((2, 100), (3, 2), (100, 3)):
        intruder.execute("UPDATE audit SET seq = ? WHERE seq = ?", (new, old))
    assert audit.verify().first_break == Break(2, "Row 2 does not match its digest: it was changed.")


def test_a_row_that_was_replaced_with_its_digest_is_found_at_the_next_one(
    audit: SqlAudit, intruder: sqlite3.Connection
) -> None:
    rewrite(intruder, 3, outcome="forbid")
    assert audit.verify().first_break == Break(4, "Row 4 does not continue row 3: one of them was exchanged.")


def test_a_kept_head_shows_an_end_that_was_cut_off_or_replaced(audit: SqlAudit, intruder: sqlite3.Connection) -> None:
    kept = audit.verify().head
    audit.append([EVENT])
    assert audit.verify(kept).is_intact
    rewrite(intruder, N + 1, outcome="forbid")  # after what was kept: nobody can tell
    assert audit.verify(kept).is_intact
    intruder.execute("DELETE FROM audit WHERE seq >= ?", (N,))
    assert audit.verify().is_intact
    assert audit.verify(kept).first_break == Break(N, f"The trail ends with row {N - 1}; it went on to row {N}.")
    audit.append([EVENT, EVENT])
    found = audit.verify(kept).first_break
    assert found is not None
    assert found.seq == N
    assert kept.digest in found.reason


def test_a_trail_begins_after_what_was_pruned_and_nowhere_else(audit: SqlAudit, intruder: sqlite3.Connection) -> None:
    last = stored(audit)[2]
    assert audit.prune(NOW_MS + 4, actor="user_root") == 3
    trail = stored(audit)
    assert [row.seq for row in trail] == [4, 5, 6, 7]
    assert trail[-1].event == AuditEvent(
        "retention",
        NOW_MS + 1_000_000,
        "user_root",
        "audit.prune",
        "rows 1 to 3",
        "ok",
        detail={"before_ms": NOW_MS + 4, "rows": 3, "last_seq": 3, "last_digest": last.digest},
    )
    assert audit.verify().is_intact
    assert audit.prune(NOW_MS + 6, actor="user_root") == 2
    assert [row.seq for row in stored(audit)] == [6, 7, 8]
    assert audit.verify().is_intact
    intruder.execute("DELETE FROM audit WHERE seq = 6")
    assert audit.verify().first_break == Break(
        7, "The trail begins with row 7; by its last retention event it begins with row 6."
    )


def test_a_beginning_that_nobody_pruned_is_missed(audit: SqlAudit, intruder: sqlite3.Connection) -> None:
    intruder.execute("DELETE FROM audit WHERE seq <= 2")
    assert audit.verify().first_break == Break(
        3, "The trail begins with row 3; by its last retention event it begins with row 1."
    )


@pytest.mark.parametrize("detail", [{}, {"last_seq": "x", "last_digest": "00"}, {"last_seq": 2, "last_digest": None}])
def test_a_retention_event_that_names_no_row_excuses_nothing(
    audit: SqlAudit, intruder: sqlite3.Connection, detail: dict[str, str | int | bool | None]
) -> None:
    intruder.execute("DELETE FROM audit WHERE seq <= 2")
    audit.append([structs.replace(EVENT, kind="retention", detail=detail)])
    assert not audit.verify().is_intact


def test_pruning_stops_at_the_first_row_that_is_young_enough(database: Database) -> None:
    audit = SqlAudit(database, clock=lambda: NOW_MS)
    audit.append([structs.replace(EVENT, at_ms=at_ms) for at_ms in (1, 2, 9, 3, 4)])
    assert audit.prune(5, actor="a") == 2
    assert [row.event.at_ms for row in stored(audit)] == [9, 3, 4, NOW_MS]
    assert audit.prune(5, actor="a") == 0  # and no event that nothing was done
    assert len(stored(audit)) == 4


def test_pruning_everything_leaves_a_trail_that_goes_on(database: Database) -> None:
    audit = SqlAudit(database)
    audit.append([EVENT] * 4_100)  # more than are deleted at once
    assert audit.prune(2**60, actor="a") == 4_100
    audit.append([EVENT])
    assert [row.event.kind for row in stored(audit)] == ["retention"] * 3 + ["decision"]
    assert stored(audit)[0].seq == 4_101
    assert audit.verify().is_intact


def test_pruning_an_empty_trail_does_nothing(database: Database) -> None:
    audit = SqlAudit(database)
    assert audit.prune(2**60, actor="a") == 0
    assert stored(audit) == []


def test_processes_and_threads_that_append_at_once_make_one_chain(
    tmp_path: Path, run_together: Callable[[str, int], list[str]]
) -> None:
    open_database(tmp_path).close()
    run_together(APPEND_BOTH_WAYS, 3)
    database = open_database(tmp_path)
    checked = SqlAudit(database).verify()
    assert checked.is_intact
    assert (checked.count, checked.head.seq) == (210, 210)
    assert len({row.event.request_id for row in stored(SqlAudit(database))}) == 3 * 40 + 30
    database.close()


def test_events_are_found_by_what_they_say(database: Database) -> None:
    audit = SqlAudit(database)
    events = [
        EVENT,
        structs.replace(EVENT, at_ms=NOW_MS + 1, outcome="forbid", request_id="req_2"),
        AuditEvent("change", NOW_MS + 2, "user_root", "keys.revoke", "key_a", "ok"),
        AuditEvent("login", NOW_MS + 3, "user_root", "login", "user_root", "ok"),
    ]
    audit.append(events)
    for wanted, found in (
        (AuditFilter(), [3, 2, 1, 0]),
        (AuditFilter(kind="decision"), [1, 0]),
        (AuditFilter(actor="user_root", action="login"), [3]),
        (AuditFilter(target="key_a"), [2]),
        (AuditFilter(outcome="forbid"), [1]),
        (AuditFilter(request_id="req_2"), [1]),
        (AuditFilter(since_ms=NOW_MS + 1, until_ms=NOW_MS + 3), [2, 1]),
        (AuditFilter(target="\ud800"), []),
    ):
        page = audit.events(wanted)
        assert [row.event for row in page.items] == [events[i] for i in found]
        assert page.total == len(found)
    page = audit.events(query=PageQuery(offset=1, limit=2))
    assert ([row.seq for row in page.items], page.total) == ([3, 2], 4)
    assert [row.seq for row in audit.events(query=PageQuery(search="REVOKE")).items] == [3]
    with pytest.raises(InvalidInput, match="since_ms"):
        audit.events(AuditFilter(since_ms=2**63))


def test_an_event_that_no_row_can_hold_is_refused_with_its_neighbours(audit: SqlAudit) -> None:
    with pytest.raises(ValueError, match="JSON"):
        audit.append([EVENT, structs.replace(EVENT, actor="\ud800")])
    assert audit.verify().count == N
