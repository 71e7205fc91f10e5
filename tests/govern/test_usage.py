"""Sums and entries of the ledger are what was written, exactly, however they are grouped and narrowed."""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from msgspec.structs import replace

from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.core.types import LedgerEntry
from embedgate.govern import entries, keys, projects, usage, users
from embedgate.govern.change import Actor
from embedgate.govern.entries import (
    EVERY_ENTRY,
    Entry,
    EntryQuery,
    LedgerFilter,
    OwnEntryQuery,
    every_entry,
    find_entry,
)
from embedgate.govern.operation import File, no_file
from embedgate.govern.usage import Dimension, GroupSum, OwnUsageQuery, UsageQuery, UsageSum, sum_up
from embedgate.govern.values import moment, moment_or_none
from embedgate.storage.appender import Appender
from embedgate.storage.database import Database
from embedgate.storage.schema import ledger as table
from forms import scaled
from governing import Governing

USER_A, USER_B = f"user_{'a' * 16}", f"user_{'b' * 16}"
KEY_A, KEY_B = f"key_{'a' * 16}", f"key_{'b' * 16}"
PROJECT_A, PROJECT_B = f"project_{'a' * 16}", f"project_{'b' * 16}"
MODEL = "openai/text-embedding-3-small"
NEW_YEAR_MS = 1_767_225_600_000  # 2026-01-01T00:00Z, a Thursday
DAY_MS = 86_400_000
ENTRY = LedgerEntry(
    request_id="r",
    at_ms=NEW_YEAR_MS,
    dialect="openai",
    user_id=USER_A,
    key_id=KEY_A,
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
    "end_user", "outcome",
)  # fmt: skip

ENTRIES = st.builds(
    structs.replace,
    st.just(ENTRY),
    at_ms=st.integers(NEW_YEAR_MS - 40 * DAY_MS, NEW_YEAR_MS + 40 * DAY_MS)
    | st.sampled_from([NEW_YEAR_MS + k * DAY_MS + d for k in (-31, -3, 0, 4, 31) for d in (-1, 0)]),
    user_id=st.sampled_from([USER_A, USER_B]),
    key_id=st.sampled_from([KEY_A, KEY_B]),
    project_id=st.sampled_from([None, PROJECT_A, PROJECT_B]),
    model=st.sampled_from(["openai/m", "cohere/n"]),
    upstream_model=st.sampled_from(["m", "n"]),
    provider=st.sampled_from(["openai", "cohere"]),
    items=st.integers(1, 10),
    tokens=st.integers(0, 10**15),
    reused_tokens=st.integers(0, 10**15),
    cost_picodollars=st.integers(0, 2**63 - 1),
    outcome=st.sampled_from(["ok", "upstream_error"]),
    end_user=st.sampled_from([None, "", "ann"]),
    action=st.sampled_from(["embedding", "completion"]),
    output_tokens=st.integers(0, 10**15),
)
FILTERS = st.builds(
    LedgerFilter,
    since_ms=st.none() | st.integers(NEW_YEAR_MS - 2 * DAY_MS, NEW_YEAR_MS),
    until_ms=st.none() | st.integers(NEW_YEAR_MS, NEW_YEAR_MS + 20 * DAY_MS),
    user_id=st.sampled_from([None, USER_A]),
    project_id=st.sampled_from([None, PROJECT_A]),
    key_id=st.sampled_from([None, KEY_B]),
    model=st.sampled_from([None, "cohere/n"]),
    provider=st.sampled_from([None, "openai"]),
)


def write(database: Database, entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Make these the only entries, each with a request id of its own."""
    numbered = [replace(entry, request_id=f"r{i}") for i, entry in enumerate(entries)]
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
        case "model" | "upstream_model" | "provider" | "action" | "outcome":
            return str(getattr(entry, dimension))
        case "end_user":
            return entry.end_user
        case _:
            value: str | None = getattr(entry, f"{dimension}_id")
            return value


def is_meant(entry: LedgerEntry, filter_by: LedgerFilter) -> bool:
    wanted = {name: value for name, value in asdict(filter_by).items() if value is not None}
    return (
        wanted.pop("since_ms", 0) <= entry.at_ms < wanted.pop("until_ms", 2**63)
        and all(getattr(entry, name) == value for name, value in wanted.items())
    )  # fmt: skip


def slow_sums(entries: Sequence[LedgerEntry], by: Sequence[Dimension]) -> list[GroupSum]:
    groups: dict[tuple[str | None, ...], list[LedgerEntry]] = defaultdict(list)
    for entry in entries:
        groups[tuple(label(entry, dimension) for dimension in by)].append(entry)
    if not by:
        groups[()] = list(entries)
    return [
        GroupSum(
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


def read(call: Governing, by: Sequence[Dimension] = (), filter_by: LedgerFilter = EVERY_ENTRY) -> list[GroupSum]:
    with call.invocation().read() as reading:
        return sum_up(reading, by, filter_by)


def found(call: Governing, request_id: str, user_id: str | None = None) -> LedgerEntry | None:
    with call.invocation().read() as reading:
        try:
            return find_entry(reading, request_id, user_id)
        except UnknownEntity:
            return None


def listed(call: Governing, query: EntryQuery) -> tuple[list[str], int]:
    """The ids of a page of entries, and how many there are."""
    page = no_file(call(entries.list_entries, query))
    return [entry.request_id for entry in page.items], page.total


def as_csv(answer: object) -> list[list[str]]:
    assert isinstance(answer, File)
    return list(csv.reader(io.StringIO(b"".join(answer.pieces).decode(), newline="")))


@pytest.mark.hostile
@settings(max_examples=scaled(40, 300), deadline=None)
@given(st.lists(ENTRIES, max_size=12), st.lists(st.sampled_from(DIMENSIONS), max_size=3), FILTERS)
def test_sums_equal_those_made_by_hand(
    call: Governing, database: Database, made: list[LedgerEntry], by: list[Dimension], filter_by: LedgerFilter
) -> None:
    written = write(database, made)
    meant = [entry for entry in written if is_meant(entry, filter_by)]
    assert read(call, by, filter_by) == slow_sums(meant, by)
    assert list(every_entry(call.invocation(), filter_by)) == meant
    newest_first = sorted(meant, key=lambda entry: (-entry.at_ms, -int(entry.request_id[1:])))
    assert listed(call, query_of(filter_by)) == ([entry.request_id for entry in newest_first], len(meant))
    for entry in written:
        assert found(call, entry.request_id) == entry
        assert found(call, entry.request_id, entry.user_id) == entry
        assert found(call, entry.request_id, "user_c") is None
    assert found(call, "absent") is None


def test_an_empty_ledger_adds_up_to_nothing(call: Governing) -> None:
    assert read(call) == [GroupSum((), 0, 0, 0, 0, 0, 0)]
    assert read(call, ["day"]) == []


def test_weeks_are_those_of_iso_and_begin_on_monday(call: Governing, database: Database) -> None:
    monday = NEW_YEAR_MS + 4 * DAY_MS
    write(database, [replace(ENTRY, at_ms=at_ms) for at_ms in (0, monday - 1, monday)])
    assert [row.group for row in read(call, ["week"])] == [("1970-W01",), ("2026-W01",), ("2026-W02",)]


def test_entries_come_page_by_page(call: Governing, database: Database) -> None:
    written = write(database, [replace(ENTRY, at_ms=i, tokens=i % 3, model=f"m{i % 2}") for i in range(2_500)])
    assert list(every_entry(call.invocation())) == written
    ids = [entry.request_id for entry in written]
    assert listed(call, EntryQuery(offset=10, limit=5)) == (ids[2_489:2_484:-1], 2_500)
    assert listed(call, EntryQuery(sort="-tokens", limit=1))[0] == ids[2_498:2_499]
    assert listed(call, EntryQuery(search="R2499"))[0] == ids[2_499:]
    with pytest.raises(InvalidInput, match="limit"):
        listed(call, EntryQuery(limit=0))


def test_entries_of_one_time_are_in_the_order_of_their_writing(call: Governing, database: Database) -> None:
    write(database, [ENTRY] * 3)
    assert listed(call, EntryQuery(sort="at"))[0] == ["r0", "r1", "r2"]
    assert listed(call, EntryQuery())[0] == ["r2", "r1", "r0"]


def test_a_time_before_1970_is_refused(call: Governing) -> None:
    before = datetime(1969, 12, 31, tzinfo=UTC)
    for query in (UsageQuery(since=before), UsageQuery(until=before)):
        with pytest.raises(InvalidInput, match="_ms is"):
            call(usage.show_usage, query)


@pytest.fixture
def used(call: Governing, database: Database) -> dict[str, str]:
    """Ids by name: of `ann`, her key `ci` in the project `search`, which was used twice, and `gone`, used once."""
    user, gone = (call(users.create_user, users.NewUser(name)) for name in ("ann", "gone"))
    project = call(projects.create_project, projects.NewProject("search"))
    key = call(keys.create_key, keys.KeyToMake("ann", "ci", project="search")).key
    of_ann = replace(ENTRY, user_id=user.id, key_id=key.id, project_id=project.id, model=MODEL, at_ms=0, items=1)
    write(database, [of_ann, replace(of_ann, at_ms=DAY_MS), replace(ENTRY, user_id=gone.id, model="no/more", at_ms=0)])
    call(users.delete_user, users.WhichUser("gone"))
    return {"ann": user.id, "gone": gone.id, "search": project.id, "ci": key.id}


def test_filters_take_names_ids_and_what_was_deleted(call: Governing, used: dict[str, str]) -> None:
    expected: list[tuple[dict[str, Any], int]] = [
        ({}, 3),
        ({"user": "ann"}, 2),
        ({"user": used["ann"]}, 2),
        ({"user": used["gone"]}, 1),
        ({"project": "search"}, 2),
        ({"key": used["ci"]}, 2),
        ({"key": "ci"}, 2),
        ({"model": "text-embedding-3-small"}, 2),
        ({"model": "no/more"}, 1),
        ({"provider": "openai", "since": moment(1)}, 1),
        ({"until": moment(1), "user": "ann"}, 1),
    ]
    for asked, n in expected:
        (total,) = sums(call, **asked)
        assert total.requests == n, asked
        assert listed(call, EntryQuery(**asked))[1] == n, asked
    for unknown in ({"user": "gone"}, {"project": "x"}, {"key": "cd"}):
        with pytest.raises(UnknownEntity):
            sums(call, **unknown)


def test_sums_have_the_names_of_what_they_are_grouped_by(call: Governing, used: dict[str, str]) -> None:
    by_all = sums(call, by="user,project,key")
    named = {"user": "ann", "project": "search", "key": "ci"}
    assert [each.requests for each in by_all if each.group == {kind: used[name] for kind, name in named.items()}] == [2]
    assert [each.names for each in by_all if each.group["user"] == used["ann"]] == [named]
    assert [each.names for each in by_all if each.group["user"] == used["gone"]] == [{}]
    assert [each.names for each in sums(call, by="day")] == [{}, {}]


def test_sums_are_grouped_by_what_there_is_and_once(call: Governing) -> None:
    with pytest.raises(InvalidInput, match="'planet'.*day, week"):
        sums(call, by="planet")
    with pytest.raises(InvalidInput, match="twice"):
        call(usage.show_usage, UsageQuery(by="day,day", format="csv"))


def test_sums_are_written_as_csv(call: Governing, used: dict[str, str]) -> None:
    head, *rows = as_csv(call(usage.show_usage, UsageQuery(by="day,project", user="ann", format="csv")))
    assert head == [
        "day", "project", "requests", "items", "tokens", "reused_tokens", "cost_usd", "errors", "output_tokens",
        "estimated_tokens", "estimated_usd",
    ]  # fmt: skip
    project = used["search"]
    assert rows == [[f"1970-01-0{n}", project, "1", "1", "7", "3", "0.00000014", "0", "0", "0", "0"] for n in (1, 2)]
    (gone,) = as_csv(call(usage.show_usage, UsageQuery(by="project", model="no/more", format="csv")))[1:]
    assert gone[0] == ""


def test_entries_are_written_as_csv_with_every_field(call: Governing, database: Database) -> None:
    odd = replace(ENTRY, at_ms=NEW_YEAR_MS + 1, end_user="=HYPERLINK(1)", tokens_estimated=True)
    write(database, [odd, ENTRY])
    head, row, _ = as_csv(call(entries.list_entries, EntryQuery(format="csv", limit=1, sort="-at")))
    assert len(head) == len(row) == len(LedgerEntry.__struct_fields__)
    cells = dict(zip(head, row, strict=True))
    assert cells["at"] == "2026-01-01T00:00:00.001Z"
    assert cells["end_user"] == "'=HYPERLINK(1)"
    assert (cells["price_usd"], cells["cost_usd"]) == ("0.00000002", "0.00000014")
    assert (cells["tokens_estimated"], cells["price_as_of"], cells["total_ms"]) == ("true", "", "1.25")
    entry: Entry = no_file(call(entries.list_entries, EntryQuery(sort="-at"))).items[0]
    assert (entry.end_user, entry.cost_usd, entry.price_as_of) == ("=HYPERLINK(1)", "0.00000014", None)
    assert set(head) == set(Entry.__struct_fields__)


def test_a_user_sees_its_own_usage_and_nobody_elses(call: Governing, database: Database) -> None:
    call(projects.create_project, projects.NewProject("search"))
    made, spent = {}, []
    for name, n in (("ann", 1), ("bob", 2)):
        call(users.create_user, users.NewUser(name))
        made[name] = call(keys.create_key, keys.KeyToMake(name, f"key of {name}", project="search")).key
        of_key = replace(
            ENTRY, user_id=made[name].user_id, key_id=made[name].id, project_id=made[name].project_id, model="m"
        )
        spent += [of_key] * n
    write(database, spent)
    mine, other = made["ann"], made["bob"]
    own = call.with_actor(Actor(mine.user_id))
    assert own(usage.show_own_usage, OwnUsageQuery()).items[0].requests == 1
    assert [entry.request_id for entry in own(entries.list_own_entries, OwnEntryQuery()).items] == ["r0"]
    (each,) = own(usage.show_own_usage, OwnUsageQuery(by="user,project,key,model")).items
    assert list(each.group.values()) == [mine.user_id, mine.project_id, mine.id, "m"]
    assert each.names == {"user": "ann", "project": "search", "key": "key of ann"}
    assert own(usage.show_own_usage, OwnUsageQuery(by="user", key=other.id)).items == ()
    assert own(entries.list_own_entries, OwnEntryQuery(key=other.id)).total == 0
    assert own(entries.list_own_entries, OwnEntryQuery(project=other.project_id)).total == 1
    with pytest.raises(InvalidInput, match="day, week"):
        own(usage.show_own_usage, OwnUsageQuery(by="planet"))


def sums(call: Governing, **asked: Any) -> tuple[UsageSum, ...]:
    return no_file(call(usage.show_usage, UsageQuery(**asked))).items


def query_of(filter_by: LedgerFilter) -> EntryQuery:
    """The query of an administrator for the same entries."""
    return EntryQuery(
        limit=500,
        since=moment_or_none(filter_by.since_ms),
        until=moment_or_none(filter_by.until_ms),
        user=None if filter_by.user_id is None else USER_A,
        project=None if filter_by.project_id is None else PROJECT_A,
        key=None if filter_by.key_id is None else KEY_B,
        model=filter_by.model,
        provider=filter_by.provider,
    )


def test_usage_by_end_user_tenant_and_outcome_at_once(call: Governing, database: Database) -> None:
    ann = call(users.create_user, users.NewUser("ann", tenant="north")).id
    entries = [
        replace(ENTRY, user_id=ann, end_user="e1"),
        replace(ENTRY, user_id=ann, end_user="e1", outcome="upstream_error"),
        replace(ENTRY, user_id=ann, end_user=None),
        replace(ENTRY, user_id="user_of_nobody", end_user="e1"),
    ]
    write(database, entries)
    by = "end_user,tenant,outcome"
    found = {tuple(each.group.values()): each.requests for each in sums(call, by=by)}
    assert found == {
        ("e1", "north", "ok"): 1,
        ("e1", "north", "upstream_error"): 1,
        (None, "north", "ok"): 1,
        ("e1", None, "ok"): 1,
    }
