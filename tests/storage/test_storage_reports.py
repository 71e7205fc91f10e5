"""Reports add up to what was written, exactly, however they are grouped and narrowed."""

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from embedgate.core.access import Subject
from embedgate.core.errors import InternalError, InvalidInput, Overloaded
from embedgate.core.pages import PageQuery
from embedgate.core.types import LedgerEntry
from embedgate.storage.appender import Appender
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from embedgate.storage.reports import Dimension, LedgerFilter, LedgerSpending, SqlReports, UsageRow
from embedgate.storage.schema import ledger as table

NEW_YEAR_MS = 1_767_225_600_000  # 2026-01-01T00:00Z, a Thursday
DAY_MS = 86_400_000
ENTRY = LedgerEntry(
    request_id="r",
    at_ms=NEW_YEAR_MS,
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
DIMENSIONS: tuple[Dimension, ...] = (
    "day", "week", "month", "model", "upstream_model", "provider", "user", "project", "key", "action",
)  # fmt: skip

ENTRIES = st.builds(
    replace,
    st.just(ENTRY),
    at_ms=st.integers(NEW_YEAR_MS - 40 * DAY_MS, NEW_YEAR_MS + 40 * DAY_MS)
    | st.sampled_from([NEW_YEAR_MS + k * DAY_MS + d for k in (-31, -3, 0, 4, 31) for d in (-1, 0)]),
    user_id=st.sampled_from(["user_a", "user_b"]),
    key_id=st.sampled_from(["key_a", "key_b"]),
    project_id=st.sampled_from([None, "project_a", "project_b"]),
    model=st.sampled_from(["openai/m", "cohere/n"]),
    upstream_model=st.sampled_from(["m", "n"]),
    provider=st.sampled_from(["openai", "cohere"]),
    items=st.integers(1, 10),
    tokens=st.integers(0, 10**15),
    reused_tokens=st.integers(0, 10**15),
    cost_picodollars=st.integers(0, 2**63 - 1),
    outcome=st.sampled_from(["ok", "upstream_error"]),
    action=st.sampled_from(["embedding", "completion"]),
    output_tokens=st.integers(0, 10**15),
)
FILTERS = st.builds(
    LedgerFilter,
    since_ms=st.none() | st.integers(NEW_YEAR_MS - 2 * DAY_MS, NEW_YEAR_MS),
    until_ms=st.none() | st.integers(NEW_YEAR_MS, NEW_YEAR_MS + 20 * DAY_MS),
    user_id=st.sampled_from([None, "user_a"]),
    project_id=st.sampled_from([None, "project_a"]),
    key_id=st.sampled_from([None, "key_b"]),
    model=st.sampled_from([None, "cohere/n"]),
    provider=st.sampled_from([None, "openai"]),
)


def write(database: Database, entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Make these the only entries, each with a request id of its own."""
    numbered = [structs.replace(entry, request_id=f"r{i}") for i, entry in enumerate(entries)]
    with database.write() as connection:
        connection.execute(table.delete())
        Appender(database.dialect)(connection.exec_driver_sql, numbered)
    return numbered


def label(entry: LedgerEntry, dimension: Dimension) -> str | None:
    at = datetime.fromtimestamp(entry.at_ms // 1000, UTC)
    match dimension:
        case "day":
            return f"{at:%Y-%m-%d}"
        case "week":
            return f"{at:%G-W%V}"
        case "month":
            return f"{at:%Y-%m}"
        case "model" | "upstream_model" | "provider" | "action":
            return str(getattr(entry, dimension))
        case _:
            value: str | None = getattr(entry, f"{dimension}_id")
            return value


def is_meant(entry: LedgerEntry, filter_by: LedgerFilter) -> bool:
    wanted = {name: value for name, value in asdict(filter_by).items() if value is not None}
    return (
        wanted.pop("since_ms", 0) <= entry.at_ms < wanted.pop("until_ms", 2**63)
        and all(getattr(entry, name) == value for name, value in wanted.items())
    )  # fmt: skip


def slow_usage(entries: Sequence[LedgerEntry], by: Sequence[Dimension]) -> list[UsageRow]:
    groups: dict[tuple[str | None, ...], list[LedgerEntry]] = defaultdict(list)
    for entry in entries:
        groups[tuple(label(entry, dimension) for dimension in by)].append(entry)
    if not by:
        groups[()] = list(entries)
    return [
        UsageRow(
            group,
            len(groups[group]),
            sum(entry.items for entry in groups[group]),
            sum(entry.tokens for entry in groups[group]),
            sum(entry.reused_tokens for entry in groups[group]),
            sum(entry.cost_picodollars for entry in groups[group]),
            sum(entry.outcome != "ok" for entry in groups[group]),
            sum(entry.output_tokens for entry in groups[group]),
        )
        for group in sorted(groups, key=lambda group: [name or "" for name in group])
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ENTRIES, max_size=12), st.lists(st.sampled_from(DIMENSIONS), max_size=3), FILTERS)
def test_reports_equal_sums_made_by_hand(
    database: Database, entries: list[LedgerEntry], by: list[Dimension], filter_by: LedgerFilter
) -> None:
    written = write(database, entries)
    meant = [entry for entry in written if is_meant(entry, filter_by)]
    reports = SqlReports(database)
    assert reports.usage(by, filter_by) == slow_usage(meant, by)
    assert list(reports.every_entry(filter_by)) == meant
    page = reports.entries(filter_by, PageQuery(limit=500))
    assert list(page.items) == sorted(meant, key=lambda entry: (-entry.at_ms, -int(entry.request_id[1:])))
    assert page.total == len(meant)
    for entry in written:
        assert reports.entry(entry.request_id) == entry
        assert reports.entry(entry.request_id, entry.user_id) == entry
        assert reports.entry(entry.request_id, "user_c") is None
    assert reports.entry("absent") is None


def test_an_empty_ledger_adds_up_to_nothing(database: Database) -> None:
    reports = SqlReports(database)
    assert reports.usage() == [UsageRow((), 0, 0, 0, 0, 0, 0)]
    assert reports.usage(["day"]) == []
    assert reports.spent(Subject("user", "user_a"), 0) == 0


def test_weeks_are_those_of_iso_and_begin_on_monday(database: Database) -> None:
    monday = NEW_YEAR_MS + 4 * DAY_MS
    write(database, [structs.replace(ENTRY, at_ms=at_ms) for at_ms in (0, monday - 1, monday)])
    rows = SqlReports(database).usage(["week"])
    assert [row.group for row in rows] == [("1970-W01",), ("2026-W01",), ("2026-W02",)]


@pytest.mark.parametrize("kind", ["key", "user", "project"])
def test_what_a_subject_has_spent_is_exact_and_read_from_its_index(
    tmp_path: Path, database: Database, kind: Literal["key", "user", "project"]
) -> None:
    theirs = structs.replace(
        ENTRY, key_id="key_b", user_id="user_b", project_id="project_b", cost_picodollars=2**63 - 1
    )
    write(database, [*(structs.replace(theirs, at_ms=at_ms) for at_ms in (1, 2, 3, 4)), ENTRY])
    reports = SqlReports(database)
    subject = Subject(kind, f"{kind}_b")
    assert reports.spent(subject, 0) == 4 * (2**63 - 1)  # more than SQLite adds up by itself
    assert reports.spent(subject, 2, ["r3", "unknown"]) == 2 * (2**63 - 1)
    assert reports.spent(Subject(kind, "*"), 0) == 0
    queries: list[str] = []
    with database.read() as connection:
        sa.event.listen(connection.engine, "before_cursor_execute", lambda *args: queries.append(args[2]))
    reports.spent(subject, 2)
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as reader:
        plan = reader.execute(f"EXPLAIN QUERY PLAN {queries[-1]}", ("x", 2)).fetchall()
    assert f"ix_ledger_{kind}_id_at_ms ({kind}_id=? AND at_ms>?)" in str(plan)


def test_entries_come_page_by_page(database: Database) -> None:
    entries = write(database, [structs.replace(ENTRY, at_ms=i, tokens=i % 3, model=f"m{i % 2}") for i in range(2_500)])
    reports = SqlReports(database)
    assert list(reports.every_entry()) == entries
    page = reports.entries(query=PageQuery(offset=10, limit=5))
    assert (list(page.items), page.total) == (entries[2_489:2_484:-1], 2_500)
    assert reports.entries(query=PageQuery(sort="-tokens", limit=1)).items == (entries[2_498],)
    assert reports.entries(query=PageQuery(search="R2499")).items == (entries[2_499],)
    with pytest.raises(InvalidInput, match="limit"):
        reports.entries(query=PageQuery(limit=0))


def test_a_time_that_no_column_holds_is_refused(database: Database) -> None:
    for filter_by in (LedgerFilter(since_ms=2**63), LedgerFilter(until_ms=-1)):
        with pytest.raises(InvalidInput, match="_ms is"):
            SqlReports(database).usage(filter_by=filter_by)


async def test_spending_is_added_up_aside(database: Database) -> None:
    write(database, [ENTRY, structs.replace(ENTRY, at_ms=1)])
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
