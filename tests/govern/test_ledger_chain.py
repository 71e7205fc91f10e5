"""Whatever is done to the ledger behind the gateway's back, verifying finds it: entries are a chain of digests."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from embedgate.core.errors import Conflict
from embedgate.core.types import LedgerEntry
from embedgate.govern.audit import VerifiedLedger, VerifyQuery, verify_trail
from embedgate.govern.entries import EntryQuery, every_entry, list_entries
from embedgate.govern.lists import Listed
from embedgate.storage.appender import Appender
from embedgate.storage.chain import LEDGER_COLUMNS, ORIGIN, digest_of
from embedgate.storage.database import DATABASE_FILE, open_database
from embedgate.storage.ledger import SqlLedger
from empty_database import write_empty_database
from governing import Governing, resources_for

ENTRY = LedgerEntry(
    request_id="",
    at_ms=1_700_000_000_000,
    dialect="openai",
    user_id="user_a",
    key_id="key_a",
    end_user="größe",
    model="m/m",
    space="m",
    provider="p",
    upstream_model="m",
    items=2,
    tokens=7,
    reused_tokens=3,
    tokens_estimated=True,
    price_picodollars=20_000,
    price_as_of=None,
    cost_picodollars=140_000,
    outcome="ok",
    total_ms=1.25,
    upstream_ms=0.1,
)


def entry(number: int) -> LedgerEntry:
    return replace(ENTRY, request_id=f"req_{number}", tokens=number, tokens_estimated=number % 2 == 0)


def write(folder: Path, *numbers: int) -> None:
    """Record entries, some of them at once, as the gateway does."""

    async def record() -> None:
        database = open_database(folder)
        ledger = SqlLedger(database)
        await asyncio.gather(*(ledger.record(entry(number)) for number in numbers))
        await asyncio.to_thread(ledger.close)
        database.close()

    asyncio.run(record())


def verified(folder: Path, kept: VerifyQuery | None = None) -> VerifiedLedger:
    database = open_database(folder)
    try:
        found = Governing(database, resources_for(folder))(verify_trail, kept or VerifyQuery())
    finally:
        database.close()
    assert found.ok == found.ledger.ok
    return found.ledger


def run(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / DATABASE_FILE, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger of eight entries: alone, in a group, and alone."""
    write_empty_database(tmp_path)
    write(tmp_path, 1)
    write(tmp_path, *range(2, 8))
    write(tmp_path, 8)
    return tmp_path


def test_what_the_gateway_wrote_is_whole(folder: Path) -> None:
    found = verified(folder)
    assert (found.ok, found.entries, found.begins_after, found.end.id) == (True, 8, 0, 8)
    run(folder, "VACUUM")
    assert verified(folder) == found


@pytest.mark.parametrize("column", LEDGER_COLUMNS)
def test_a_change_of_any_column_is_found(folder: Path, column: str) -> None:
    value = "'strange'" if column in ("request_id", "project_id", "action") else "987654"
    run(folder, f"UPDATE ledger SET {column} = {value} WHERE id = 4")
    found = verified(folder).first_break
    assert found is not None
    assert (found.id, "changed" in found.reason) == (4, True)


NO_TEXTS = ("CAST(X'ff41' AS TEXT)", "CAST(X'eda080' AS TEXT)", "X'ff'", "9e999", "'zz'")
"""Bytes that are no UTF-8, half a character, a blob, infinity, another text."""


@pytest.mark.parametrize("column", [*LEDGER_COLUMNS, "digest"])
def test_a_value_that_cannot_be_read_is_found_at_its_entry(folder: Path, column: str) -> None:
    for value in NO_TEXTS:
        run(folder, f"UPDATE ledger SET {column} = {value} WHERE id = 4")
        found = verified(folder).first_break
        assert found is not None
        assert found.id == 4
    run(folder, "UPDATE ledger_chain SET begins_after = 'nowhere'")
    assert not verified(folder).ok


@pytest.mark.parametrize("column", LEDGER_COLUMNS)
def test_a_list_names_the_entry_that_cannot_be_read(folder: Path, column: str) -> None:
    database = open_database(folder)
    call = Governing(database, resources_for(folder))
    for value in ("CAST(X'ff41' AS TEXT)", *(["X'00'"] if column != "tokens_estimated" else [])):
        run(folder, f"UPDATE ledger SET {column} = {value} WHERE id = 4")
        for query in (EntryQuery(), EntryQuery(sort="at")):
            with pytest.raises(Conflict, match="^Entry 4 cannot be read: .* `embedgate audit verify`"):
                call(list_entries, query)
        with pytest.raises(Conflict, match="^Entry 4 cannot be read"):
            list(every_entry(call.invocation()))
        page = call(list_entries, EntryQuery(limit=2, sort="tokens", offset=5))
        assert isinstance(page, Listed)
        assert {item.request_id for item in page.items} <= {f"req_{number}" for number in range(5, 9)}
    database.close()


@pytest.mark.parametrize(
    ("statements", "at"),
    [
        (["DELETE FROM ledger WHERE id = 4"], 5),
        (["DELETE FROM ledger WHERE id = 1"], 2),
        (["UPDATE ledger SET digest = NULL WHERE id = 4"], 4),
        (["UPDATE ledger SET digest = zeroblob(32) WHERE id = 4"], 4),
        (["UPDATE ledger SET digest = 5 WHERE id = 4"], 4),
        (["UPDATE ledger SET id = 99 WHERE id = 4", "UPDATE ledger SET id = 4 WHERE id = 5"], 4),
        (["UPDATE ledger SET id = 100 WHERE id = 8"], 100),
        (
            [
                "CREATE TEMP TABLE copy AS SELECT * FROM ledger WHERE id = 8",
                "UPDATE copy SET id = 9, request_id = 'forged', cost_picodollars = 0",
                "INSERT INTO ledger SELECT * FROM copy",
            ],
            9,
        ),
        (["UPDATE ledger SET tokens_estimated = 2 WHERE id = 4"], 4),
        (
            [
                "CREATE TEMP TABLE copy AS SELECT * FROM ledger WHERE id = 8",
                "UPDATE copy SET id = 0, request_id = 'forged', digest = NULL",
                "INSERT INTO ledger SELECT * FROM copy",
            ],
            0,
        ),
        (["UPDATE ledger_chain SET begins_after = 99", "UPDATE ledger SET digest = NULL"], 9),
        (["DELETE FROM ledger_chain", "UPDATE ledger SET tokens = 0 WHERE id = 4"], 4),
        (["UPDATE ledger_chain SET begins_after = 4"], 1),
        (["UPDATE ledger_chain SET begins_after = 4", "UPDATE ledger SET digest = NULL WHERE id <= 4"], 5),
    ],
)
def test_what_is_missing_moved_or_forged_is_found(folder: Path, statements: list[str], at: int) -> None:
    run(folder, *statements)
    found = verified(folder).first_break
    assert found is not None
    assert found.id == at


def test_an_end_that_was_cut_off_is_found_by_who_has_kept_it(folder: Path) -> None:
    end = verified(folder).end
    kept = VerifyQuery(ledger_id=end.id, ledger_digest=end.digest)
    write(folder, 9)
    assert verified(folder, kept).ok
    run(folder, "DELETE FROM ledger WHERE id >= 8")
    assert verified(folder).ok
    cut = verified(folder, kept).first_break
    assert cut is not None
    assert "it went on to entry 8" in cut.reason
    write(folder, 8, 9)
    assert verified(folder, kept).ok  # the same entry at the same place is the same link
    run(folder, "DELETE FROM ledger WHERE id >= 8")
    write(folder, 10)
    other = verified(folder, kept).first_break
    assert other is not None
    assert other.id == 8


def test_a_chain_whose_beginning_was_moved_is_found_by_who_has_kept_an_end(folder: Path) -> None:
    end = verified(folder).end
    run(folder, "UPDATE ledger_chain SET begins_after = 8", "UPDATE ledger SET digest = NULL, cost_picodollars = 0")
    moved = verified(folder, VerifyQuery(ledger_id=end.id, ledger_digest=end.digest)).first_break
    assert moved is not None
    assert "entry 8 was in it" in moved.reason


def test_an_entry_that_is_written_again_leaves_the_chain_whole(folder: Path) -> None:
    write(folder, 8)
    write(folder, 9, 3, 9, 10)
    database = open_database(folder)
    append = Appender(database.dialect)
    with database.write() as connection:
        append(connection.exec_driver_sql, [entry(number) for number in (10, 11, 1, 11, 12)])
    database.close()
    found = verified(folder)
    assert (found.ok, found.entries) == (True, 12)


def as_before_the_chain(folder: Path) -> None:
    """Make the entries those of the version before, as the migration leaves them."""
    run(
        folder,
        "UPDATE ledger SET digest = NULL",
        "UPDATE ledger_chain SET begins_after = (SELECT max(id) FROM ledger)",
    )


def test_entries_from_before_the_chain_are_told_apart(folder: Path) -> None:
    as_before_the_chain(folder)
    write(folder, 9, 10)
    found = verified(folder)
    assert (found.ok, found.entries, found.begins_after, found.end.id) == (True, 10, 8, 10)
    run(folder, "UPDATE ledger SET cost_picodollars = 0 WHERE id = 9")
    assert not verified(folder).ok


def test_a_column_that_is_added_later_changes_no_digest() -> None:
    values = list(range(27))
    before = digest_of(ORIGIN.digest, 1, values)
    assert digest_of(ORIGIN.digest, 1, [*values, 0, None, ""]) == before
    assert digest_of(ORIGIN.digest, 1, [*values, 0, 1]) != digest_of(ORIGIN.digest, 1, [*values, 1, 0]) != before
