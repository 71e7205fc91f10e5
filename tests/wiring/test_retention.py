"""Old events of the audit trail are deleted while a gateway runs, and the trail stays whole."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from embedgate.core.access import AuditEvent
from embedgate.govern.change import GATEWAY, Invocation
from embedgate.observe import metrics
from embedgate.storage.appender import Appender
from embedgate.storage.database import Database, open_database
from embedgate.wiring.retention import AuditRetention
from governing import events_in, resources_for, verified
from program import FAKE_ONLY
from running import gateway
from waiting import until, wait_until
from wire import call

DAY_MS = 86_400_000
NOW_MS = 100 * DAY_MS
EVENT = AuditEvent("decision", 0, "key_a", "embedding", "model", "permit", "req_1")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path, busy_timeout_s=0.05)
    yield opened
    opened.close()


def append(database: Database, *ages_ms: int) -> None:
    """Events of these ages, oldest first."""
    with database.write() as connection:
        events = [structs.replace(EVENT, at_ms=NOW_MS - age_ms) for age_ms in ages_ms]
        Appender(database.dialect)(connection.exec_driver_sql, events)


def retention(database: Database, keep_days: int | None) -> AuditRetention:
    resources = resources_for(database.path.parent if database.path else Path(), lambda: NOW_MS)
    return AuditRetention(lambda: Invocation(database, resources, GATEWAY), keep_days, lambda: NOW_MS)


def retired() -> float:
    found = re.search(
        r'^embedgate_retired_records_total\{record="audit"\} (\S+)$', metrics.text(None).decode(), re.MULTILINE
    )
    return float(found[1]) if found else 0.0


async def test_what_is_older_than_the_days_goes_and_the_trail_tells_of_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedgate")
    append(database, 9 * DAY_MS, 2 * DAY_MS + 1, 2 * DAY_MS, 0)
    before = retired()
    keeper = retention(database, 2)
    keeper.start()
    await until(lambda: [record.message for record in caplog.records] == ["audit_pruned"])
    await keeper.aclose()
    found = events_in(database)
    assert [NOW_MS - event.at_ms for event in found[:2]] == [2 * DAY_MS, 0]
    assert [(event.kind, event.actor, event.action) for event in found[2:]] == [("retention", "gateway", "audit.prune")]
    assert retired() == before + 2
    checked = verified(database)
    assert (checked.ok, checked.begins_after) == (True, 2)


async def test_nothing_goes_without_days(database: Database) -> None:
    append(database, 99 * DAY_MS)
    keeper = retention(database, None)
    keeper.start()
    await keeper.aclose()
    assert events_in(database)[0].at_ms == NOW_MS - 99 * DAY_MS
    assert verified(database).begins_after == 0


async def test_what_is_left_when_a_gateway_ends_goes_with_the_next(database: Database) -> None:
    append(database, *[9 * DAY_MS] * 4_100)  # three pieces
    before = retired()
    keeper = retention(database, 2)
    keeper.start()
    await until(lambda: retired() > before)
    await keeper.aclose()
    assert verified(database).ok
    keeper = retention(database, 2)
    keeper.start()
    await until(lambda: retired() == before + 4_100)
    await keeper.aclose()
    assert {event.kind for event in events_in(database)} == {"retention"}
    assert verified(database).ok


async def test_a_database_that_cannot_be_written_is_told_and_left(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    append(database, 9 * DAY_MS)
    keeper = retention(database, 2)
    with database.write():
        keeper.start()
        await until(lambda: [record.message for record in caplog.records] == ["audit_not_pruned"])
    await keeper.aclose()
    assert len(events_in(database)) == 1


def test_a_gateway_deletes_what_its_settings_say(tmp_path: Path) -> None:
    opened = open_database(tmp_path)
    append(opened, 0, 0)  # 1970
    opened.close()
    with gateway(tmp_path, f"{FAKE_ONLY}\n[storage]\naudit_keep_days = 30") as running:
        counted = b'embedgate_retired_records_total{record="audit"} 2.0'
        wait_until("they are deleted", lambda: counted in call(running.url, "/metrics").body)
