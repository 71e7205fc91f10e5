"""The audit trail: nothing in it can be changed, left out or cut off unseen, whoever appends to it."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from embedgate.core.access import AuditEvent
from embedgate.core.errors import Conflict, InvalidInput
from embedgate.govern import users
from embedgate.govern.audit import (
    AuditQuery,
    Event,
    Pruning,
    TrailBreak,
    TrailEnd,
    list_events,
    prune_before,
    prune_trail,
)
from embedgate.govern.change import Actor
from embedgate.govern.values import moment
from embedgate.storage.appender import Appender
from embedgate.storage.chain import ORIGIN, AuditRow, chained
from embedgate.storage.database import DATABASE_FILE, Database
from embedgate.storage.schema import audit as table
from governing import Clock, Governing, events_in, verified
from together import run_together

NOW_MS = 1_763_700_000_000
EVENT = AuditEvent("decision", NOW_MS, "key_a", "embedding", "openai/m", "permit", "req_1", ("p1", "p2"), {"tokens": 7})
N = 6

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
EVENTS = st.builds(
    AuditEvent,
    kind=st.sampled_from(["decision", "change", "login"]),
    at_ms=st.integers(0, 253_402_300_799_999),
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
from embedgate.storage.appender import Appender
from embedgate.storage.database import open_database
from embedgate.storage.ledger import SqlLedger

database = open_database(Path(sys.argv[1]), busy_timeout_s=30)
ledger, append = SqlLedger(database, patience_s=30), Appender(database.dialect)

def event(name):
    return AuditEvent("decision", 1, "k", "embedding", "m", "permit", name)

def administer():
    for i in range(10):
        with database.write() as connection:
            append(connection.exec_driver_sql, [event(f"append-{i}-{k}") for k in range(3)])

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


def append(database: Database, events: Sequence[AuditEvent]) -> None:
    with database.write() as connection:
        Appender(database.dialect)(connection.exec_driver_sql, events)


def listed(call: Governing) -> list[Event]:
    """The whole trail, oldest first."""
    return call.every(list_events, AuditQuery(sort="seq"))


def clear(database: Database) -> None:
    with database.write() as connection:
        connection.execute(table.delete())


@pytest.fixture
def trail(database: Database) -> Database:
    """A trail of rows 1 to N."""
    append(database, [numbered(i) for i in range(1, N + 1)])
    return database


@pytest.fixture
def intruder(tmp_path: Path, trail: Database) -> Iterator[sqlite3.Connection]:
    """Somebody who can write to the file."""
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None)) as connection:
        yield connection


def rewrite(intruder: sqlite3.Connection, seq: int, **values: object) -> None:
    """Put a row in place of another whose digest fits its content."""
    found = intruder.execute("SELECT * FROM audit WHERE seq = ?", (seq,)).fetchone()
    before = AuditRow(*found)
    row = chained([structs.replace(numbered(seq), **values)], ORIGIN._replace(seq=seq - 1, digest=before.previous))[0]
    intruder.execute(f"REPLACE INTO audit VALUES ({', '.join('?' * len(row))})", row)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(EVENTS, max_size=4), max_size=5))
def test_every_trail_is_kept_as_it_came_and_is_whole(
    database: Database, call: Governing, history: list[list[AuditEvent]]
) -> None:
    clear(database)
    for events in history:
        append(database, events)
    assert events_in(database) == [event for events in history for event in events]
    rows = listed(call)
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    checked = verified(database)
    assert checked.ok
    assert checked.events == len(rows)
    assert checked.end == (TrailEnd(rows[-1].seq, rows[-1].digest) if rows else TrailEnd(0, "00" * 32))
    assert verified(database, checked.end).ok


@pytest.mark.parametrize("value", ["9", 9, 0.5, b"9", "\0"], ids=repr)
@pytest.mark.parametrize("column", [name for name in AuditRow._fields if name != "seq"])
def test_a_change_of_any_column_of_any_row_is_found(
    trail: Database, intruder: sqlite3.Connection, column: str, value: object
) -> None:
    for seq in range(1, N + 1):
        was = intruder.execute(f"SELECT {column} FROM audit WHERE seq = ?", (seq,)).fetchone()
        intruder.execute(f"UPDATE audit SET {column} = ? WHERE seq = ?", (value, seq))
        found = verified(trail).first_break
        assert found == TrailBreak(seq, f"Row {seq} does not match its digest: it was changed.")
        intruder.execute(f"UPDATE audit SET {column} = ? WHERE seq = ?", (*was, seq))
    assert verified(trail).ok


@pytest.mark.parametrize("value", ["CAST(X'ff41' AS TEXT)", "CAST(X'eda080' AS TEXT)", "9e999"])
@pytest.mark.parametrize("column", [name for name in AuditRow._fields if name != "seq"])
def test_a_value_that_cannot_be_read_is_found_at_its_row(
    trail: Database, intruder: sqlite3.Connection, call: Governing, column: str, value: str
) -> None:
    intruder.execute(f"UPDATE audit SET {column} = {value} WHERE seq = 3")
    found = verified(trail).first_break
    assert found == TrailBreak(3, "Row 3 does not match its digest: it was changed.")
    intruder.execute("DELETE FROM audit WHERE seq = 3")
    assert call(list_events, AuditQuery(limit=1)).items[0].seq == N  # the connection reads as before


NO_EVENTS = {
    "at_ms": ["'noon'", "9e999", "9e18"],
    "kind": ["'gossip'", "CAST(X'ff41' AS TEXT)"],
    "actor": ["X'00'", "CAST(X'ff41' AS TEXT)"],
    "policies": ["'['", "'[1]'", "'9'", "CAST(X'ff41' AS TEXT)"],
    "detail": ["'['", "'[]'", "'{\"a\":[]}'", "CAST(X'eda080' AS TEXT)"],
    "digest": ["9", "'text'", "CAST(X'ff41' AS TEXT)"],
}


@pytest.mark.parametrize(("column", "value"), [(column, each) for column in NO_EVENTS for each in NO_EVENTS[column]])
def test_a_list_names_the_row_that_cannot_be_read(
    trail: Database, intruder: sqlite3.Connection, call: Governing, column: str, value: str
) -> None:
    intruder.execute(f"UPDATE audit SET {column} = {value} WHERE seq = 3")
    with pytest.raises(Conflict, match="^Row 3 cannot be read: .* `embedgate audit verify`"):
        call(list_events, AuditQuery())
    for seq in (N, 2):  # what comes before it and after it can be read
        page = call(list_events, AuditQuery(limit=1, offset=N - seq))
        assert [row.seq for row in page.items] == [seq]


@pytest.mark.parametrize("seq", range(1, N + 1))
def test_a_row_with_another_number_is_found(trail: Database, intruder: sqlite3.Connection, seq: int) -> None:
    intruder.execute("UPDATE audit SET seq = 100 WHERE seq = ?", (seq,))
    assert not verified(trail).ok


@pytest.mark.parametrize("seq", range(2, N))
def test_a_row_that_is_missing_is_found(trail: Database, intruder: sqlite3.Connection, seq: int) -> None:
    intruder.execute("DELETE FROM audit WHERE seq = ?", (seq,))
    checked = verified(trail)
    assert checked.first_break == TrailBreak(
        seq + 1, f"Row {seq + 1} follows row {seq - 1}: what was between them is missing."
    )
    assert (checked.events, checked.end.seq) == (N - 1, N)


def test_two_rows_that_changed_places_are_found(trail: Database, intruder: sqlite3.Connection) -> None:
    for old, new in ((2, 100), (3, 2), (100, 3)):
        intruder.execute("UPDATE audit SET seq = ? WHERE seq = ?", (new, old))
    assert verified(trail).first_break == TrailBreak(2, "Row 2 does not match its digest: it was changed.")


def test_a_row_that_was_replaced_with_its_digest_is_found_at_the_next_one(
    trail: Database, intruder: sqlite3.Connection
) -> None:
    rewrite(intruder, 3, outcome="forbid")
    assert verified(trail).first_break == TrailBreak(4, "Row 4 does not continue row 3: one of them was exchanged.")


def test_a_kept_head_shows_an_end_that_was_cut_off_or_replaced(trail: Database, intruder: sqlite3.Connection) -> None:
    kept = verified(trail).end
    append(trail, [EVENT])
    assert verified(trail, kept).ok
    rewrite(intruder, N + 1, outcome="forbid")  # after what was kept: nobody can tell
    assert verified(trail, kept).ok
    intruder.execute("DELETE FROM audit WHERE seq >= ?", (N,))
    assert verified(trail).ok
    assert verified(trail, kept).first_break == TrailBreak(
        N, f"The trail ends with row {N - 1}; it went on to row {N}."
    )
    append(trail, [EVENT, EVENT])
    found = verified(trail, kept).first_break
    assert found is not None
    assert found.seq == N
    assert kept.digest in found.reason


def test_a_trail_begins_after_what_was_pruned_and_nowhere_else(
    trail: Database, call: Governing, clock: Clock, intruder: sqlite3.Connection
) -> None:
    last, root = listed(call)[2], call.with_actor(Actor("user_root", "req_root")).invocation()
    assert prune_before(root, NOW_MS + 4) == 3
    assert [row.seq for row in listed(call)] == [4, 5, 6, 7]
    assert events_in(trail)[-1] == AuditEvent(
        "retention",
        clock.ms(),
        "user_root",
        "audit.prune",
        "rows 1 to 3",
        "ok",
        "req_root",
        detail={"before_ms": NOW_MS + 4, "rows": 3, "last_seq": 3, "last_digest": last.digest},
    )
    assert verified(trail).ok
    assert prune_before(root, NOW_MS + 6) == 2
    assert [row.seq for row in listed(call)] == [6, 7, 8]
    assert verified(trail).ok
    intruder.execute("DELETE FROM audit WHERE seq = 6")
    assert verified(trail).first_break == TrailBreak(
        7, "The trail begins with row 7; by its last retention event it begins with row 6."
    )


def test_a_beginning_that_nobody_pruned_is_missed(trail: Database, intruder: sqlite3.Connection) -> None:
    intruder.execute("DELETE FROM audit WHERE seq <= 2")
    assert verified(trail).first_break == TrailBreak(
        3, "The trail begins with row 3; by its last retention event it begins with row 1."
    )


@pytest.mark.parametrize("detail", [{}, {"last_seq": "x", "last_digest": "00"}, {"last_seq": 2, "last_digest": None}])
def test_a_retention_event_that_names_no_row_excuses_nothing(
    trail: Database, intruder: sqlite3.Connection, detail: dict[str, str | int | bool | None]
) -> None:
    intruder.execute("DELETE FROM audit WHERE seq <= 2")
    append(trail, [structs.replace(EVENT, kind="retention", detail=detail)])
    assert not verified(trail).ok


def test_pruning_stops_at_the_first_row_that_is_young_enough(database: Database, call: Governing, clock: Clock) -> None:
    append(database, [structs.replace(EVENT, at_ms=at_ms) for at_ms in (1, 2, 9, 3, 4)])
    assert prune_before(call.invocation(), 5) == 2
    assert [event.at_ms for event in events_in(database)] == [9, 3, 4, clock.ms()]
    assert prune_before(call.invocation(), 5) == 0  # and no event that nothing was done
    assert len(events_in(database)) == 4


def test_pruning_everything_leaves_a_trail_that_goes_on(database: Database, call: Governing) -> None:
    append(database, [EVENT] * 4_100)  # more than are deleted at once
    assert prune_before(call.invocation(), 2**60) == 4_100
    append(database, [EVENT])
    assert [event.kind for event in events_in(database)] == ["retention"] * 3 + ["decision"]
    assert listed(call)[0].seq == 4_101
    assert verified(database).ok


def test_pruning_an_empty_trail_does_nothing(database: Database, call: Governing) -> None:
    assert prune_before(call.invocation(), 2**60) == 0
    assert events_in(database) == []


def test_the_trail_is_shortened_by_the_age_of_its_events(call: Governing, clock: Clock) -> None:
    call(users.create_user, users.NewUser("ann"))
    end = verified(call.database).end
    clock.now_s += 10 * 24 * 3600
    call(users.create_user, users.NewUser("bob"))
    assert call(list_events, AuditQuery(action="users.create")).total == 2
    assert verified(call.database, end).ok
    assert call(prune_trail, Pruning(11)).deleted == 0
    assert call(prune_trail, Pruning(10)).deleted == 0
    clock.now_s += 1
    assert call(prune_trail, Pruning(10)).deleted == 1
    assert [(event.kind, event.actor) for event in call.events()] == [
        ("change", "user_admin"),
        ("retention", "user_admin"),
    ]
    assert verified(call.database).ok
    for days in (0, -1, 10**9):
        with pytest.raises(InvalidInput, match="days to keep"):
            call(prune_trail, Pruning(days))


def test_processes_and_threads_that_append_at_once_make_one_chain(database: Database, tmp_path: Path) -> None:
    run_together(tmp_path, APPEND_BOTH_WAYS, 3)
    checked = verified(database)
    assert checked.ok
    assert (checked.events, checked.end.seq) == (210, 210)
    assert len({event.request_id for event in events_in(database)}) == 3 * 40 + 30


def test_events_are_found_by_what_they_say(database: Database, call: Governing) -> None:
    events = [
        EVENT,
        structs.replace(EVENT, at_ms=NOW_MS + 1, outcome="forbid", request_id="req_2"),
        AuditEvent("change", NOW_MS + 2, "user_root", "keys.revoke", "key_a", "ok"),
        AuditEvent("login", NOW_MS + 3, "user_root", "login", "user_root", "ok"),
    ]
    append(database, events)
    for wanted, found in (
        (AuditQuery(), [3, 2, 1, 0]),
        (AuditQuery(kind="decision"), [1, 0]),
        (AuditQuery(actor="user_root", action="login"), [3]),
        (AuditQuery(target="key_a"), [2]),
        (AuditQuery(outcome="forbid"), [1]),
        (AuditQuery(request_id="req_2"), [1]),
        (AuditQuery(since=moment(NOW_MS + 1), until=moment(NOW_MS + 3)), [2, 1]),
        (AuditQuery(target="\ud800"), []),
    ):
        page = call(list_events, wanted)
        assert [row.seq - 1 for row in page.items] == found
        assert page.total == len(found)
    page = call(list_events, AuditQuery(offset=1, limit=2))
    assert ([row.seq for row in page.items], page.total) == ([3, 2], 4)
    assert [row.seq for row in call(list_events, AuditQuery(search="REVOKE")).items] == [3]
    with pytest.raises(InvalidInput, match="since_ms"):
        call(list_events, AuditQuery(since=moment(-1)))


def test_an_event_that_no_row_can_hold_is_refused_with_its_neighbours(trail: Database) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append(trail, [EVENT, structs.replace(EVENT, actor="\ud800")])
    assert verified(trail).events == N
