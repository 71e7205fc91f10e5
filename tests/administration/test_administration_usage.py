"""Reports by names instead of ids, as files, and beside a bill; and the trail read, verified and shortened."""

import json
from collections.abc import Callable
from typing import Protocol

import pytest

from embedgate.administration import Administration, UsageFilter
from embedgate.core.access import AuditEvent
from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.storage.audit import AuditFilter

MODEL = "openai/text-embedding-3-small"
DAY_MS = 86_400_000


class Clock(Protocol):
    """The clock of this folder."""

    now_s: float


@pytest.fixture
def used(administration: Administration, spend: Callable[..., None]) -> dict[str, str]:
    """Ids by name: of `ann`, her key `ci` in the project `search`, which was used twice, and `gone`, used once."""
    user, gone = administration.users.create("ann"), administration.users.create("gone")
    project = administration.projects.create("search")
    key = administration.keys.create("ann", "ci", project="search").record
    spend(request_id="a", user_id=user.id, key_id=key.id, project_id=project.id)
    spend(request_id="b", user_id=user.id, key_id=key.id, project_id=project.id, at_ms=DAY_MS)
    spend(request_id="c", user_id=gone.id, model="no/more")
    administration.users.delete("gone")
    return {"ann": user.id, "gone": gone.id, "search": project.id, "ci": key.id}


def test_filters_take_names_ids_and_what_was_deleted(administration: Administration, used: dict[str, str]) -> None:
    usage = administration.usage
    expected = {
        UsageFilter(): 3,
        UsageFilter(user="ann"): 2,
        UsageFilter(user=used["ann"]): 2,
        UsageFilter(user=used["gone"]): 1,
        UsageFilter(project="search"): 2,
        UsageFilter(key=used["ci"]): 2,
        UsageFilter(model="text-embedding-3-small"): 2,
        UsageFilter(model="no/more"): 1,
        UsageFilter(provider="openai", since_ms=1): 1,
        UsageFilter(until_ms=1, user="ann"): 1,
    }
    assert {asked: usage.report((), asked).rows[0].requests for asked in expected} == expected
    assert {asked: usage.entries(asked).total for asked in expected} == expected
    for unknown in (UsageFilter(user="gone"), UsageFilter(project="x"), UsageFilter(key="ci")):
        with pytest.raises(UnknownEntity):
            usage.report((), unknown)


def test_a_report_says_the_names_of_what_it_is_grouped_by(administration: Administration, used: dict[str, str]) -> None:
    report = administration.usage.report(["user", "project", "key"])
    assert report.by == ("user", "project", "key")
    assert [row.requests for row in report.rows if row.group == (used["ann"], used["search"], used["ci"])] == [2]
    assert report.names == {used["ann"]: "ann", used["search"]: "search", used["ci"]: "ci"}
    assert administration.usage.report(["day"]).names == {}


def test_a_report_is_grouped_by_what_there_is_and_once(administration: Administration) -> None:
    with pytest.raises(InvalidInput, match="'planet'.*day, week"):
        administration.usage.report(["planet"])
    with pytest.raises(InvalidInput, match="twice"):
        administration.usage.export("json", ["day", "day"])


def test_reports_and_entries_are_written_as_csv_and_json(administration: Administration, used: dict[str, str]) -> None:
    usage, of_ann = administration.usage, UsageFilter(user="ann")
    lines = b"".join(usage.export("csv", ["day", "model"], of_ann)).decode().splitlines()
    assert lines[0] == "day,model,requests,items,tokens,reused_tokens,cost_usd,errors,output_tokens"
    assert lines[1:] == [f"1970-01-0{n},{MODEL},1,1,10,0,0.0000002,0,0" for n in (1, 2)]
    rows = json.loads(b"".join(usage.export_entries("json", of_ann)))
    assert [row["request_id"] for row in rows] == ["a", "b"]
    assert b"".join(usage.export_entries("csv")).count(b"\n") == 4
    for export in (usage.export, usage.export_entries):
        with pytest.raises(InvalidInput, match="csv, json"):
            export("xml")  # type: ignore[arg-type]  # as a caller may


def test_a_bill_is_compared_with_the_ledger(administration: Administration, used: dict[str, str]) -> None:
    bill = "date,model,tokens\n1970-01-01,m,25\n1970-01-02,m,10\n"
    found = administration.usage.reconcile("openai", bill, "csv")
    assert [row.compared.token_difference for row in found.rows] == [5, 0]
    written = b"".join(administration.usage.export_reconciliation("csv", found)).decode()
    assert written.splitlines()[1].startswith("1970-01-01,m,20,25,5,")
    with pytest.raises(InvalidInput, match="no rows"):
        administration.usage.reconcile("openai", "", "csv")
    with pytest.raises(InvalidInput, match="csv, json"):
        administration.usage.reconcile("openai", bill, "xml")  # type: ignore[arg-type]  # as a caller may


def test_the_trail_is_read_verified_and_shortened(
    administration: Administration, clock: Clock, happened: Callable[[], list[AuditEvent]]
) -> None:
    administration.users.create("ann")
    head = administration.audit.verify().head
    clock.now_s += 10 * 24 * 3600
    administration.users.create("bob")
    assert administration.audit.events(AuditFilter(action="users.create")).total == 2
    assert administration.audit.verify(head).is_intact
    assert administration.audit.prune(11) == 0
    assert administration.audit.prune(10) == 0
    clock.now_s += 1
    assert administration.audit.prune(10) == 1
    assert [(event.kind, event.actor) for event in happened()] == [
        ("change", "user_admin"), ("retention", "user_admin")
    ]  # fmt: skip
    assert administration.audit.verify().is_intact
    for days in (0, -1, 10**9):
        with pytest.raises(InvalidInput, match="days to keep"):
            administration.audit.prune(days)
