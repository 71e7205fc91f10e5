"""Sessions: how long tokens last, and what becomes of one that was used before."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedgate.core.access import UserRecord
from embedgate.core.errors import UnknownEntity
from embedgate.storage.database import Database, open_database
from embedgate.storage.sessions import Refreshed, SqlSessions
from embedgate.storage.users import SqlUsers


class Clock:
    """UTC milliseconds that pass when told."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(database: Database, clock: Clock) -> SqlSessions:
    return SqlSessions(database, access_s=10, refresh_s=100, clock=clock)


@pytest.fixture
def ann(database: Database) -> UserRecord:
    return SqlUsers(database).create("ann")


def test_an_access_token_is_its_users_until_its_end(sessions: SqlSessions, ann: UserRecord, clock: Clock) -> None:
    tokens = sessions.open(ann.id)
    assert re.fullmatch(r"egs_[A-Za-z0-9_-]{43}", tokens.access)
    assert re.fullmatch(r"egr_[A-Za-z0-9_-]{43}", tokens.refresh)
    assert tokens.access not in repr(tokens)
    assert tokens.refresh not in repr(tokens)
    found = sessions.find(tokens.access)
    assert found is not None
    assert (found.id, found.user, found.created_at_ms) == (tokens.session_id, ann, clock.now_ms)
    assert found.access_expires_at_ms == tokens.access_expires_at_ms == clock.now_ms + 10_000
    for other in (tokens.refresh, tokens.access + "x", "", "\udcff", found.id):
        assert sessions.find(other) is None
    clock.now_ms += 9_999
    assert sessions.find(tokens.access) is not None
    clock.now_ms += 1
    assert sessions.find(tokens.access) is None
    with pytest.raises(UnknownEntity):
        sessions.open("user_0")


def test_a_refresh_renews_both_tokens_and_voids_the_old_pair(
    sessions: SqlSessions, ann: UserRecord, clock: Clock
) -> None:
    old = sessions.open(ann.id)
    clock.now_ms += 50_000
    new = sessions.refresh(old.refresh).tokens
    assert new is not None
    assert (new.session_id, new.refresh_expires_at_ms) == (old.session_id, clock.now_ms + 100_000)
    assert sessions.find(old.access) is None
    assert sessions.find(new.access) is not None
    assert len({old.access, old.refresh, new.access, new.refresh}) == 4


def test_a_refresh_token_used_twice_ends_the_session(sessions: SqlSessions, ann: UserRecord) -> None:
    stolen, untouched = sessions.open(ann.id), sessions.open(ann.id)
    second = sessions.refresh(stolen.refresh).tokens
    assert second is not None
    third = sessions.refresh(second.refresh).tokens
    assert third is not None
    assert sessions.refresh(stolen.refresh) == Refreshed(ended_user_id=ann.id)
    assert sessions.find(third.access) is None
    assert sessions.refresh(third.refresh) == Refreshed()
    assert sessions.refresh(stolen.refresh) == Refreshed()
    assert sessions.find(untouched.access) is not None


def test_of_two_who_refresh_at_once_at_most_one_gets_tokens(
    sessions: SqlSessions, ann: UserRecord, clock: Clock, tmp_path: Path
) -> None:
    elsewhere = open_database(tmp_path)
    both = (sessions, SqlSessions(elsewhere, clock=clock))
    for _ in range(5):
        token = sessions.open(ann.id).refresh
        with ThreadPoolExecutor(2) as workers:
            results = list(workers.map(lambda found, token=token: found.refresh(token), both))
        assert [result.tokens is None for result in results].count(False) == 1
        assert [result.ended_user_id for result in results].count(ann.id) == 1
    elsewhere.close()


def test_an_id_is_not_enough_to_end_somebody_elses_session(sessions: SqlSessions, ann: UserRecord) -> None:
    tokens = sessions.open(ann.id)
    made_up = "egr_" + tokens.session_id.removeprefix("session_").ljust(43, "A")
    for token in (made_up, tokens.session_id, tokens.access, "egr_", "egr_" + "é" * 43, tokens.refresh + "\n", ""):
        assert sessions.refresh(token) == Refreshed()
    assert sessions.find(tokens.access) is not None


def test_a_refresh_token_ends_with_its_time_or_its_user(
    sessions: SqlSessions, ann: UserRecord, clock: Clock, database: Database
) -> None:
    tokens = sessions.open(ann.id)
    clock.now_ms = tokens.refresh_expires_at_ms
    assert sessions.refresh(tokens.refresh) == Refreshed()
    clock.now_ms -= 1
    assert sessions.refresh(tokens.refresh) == Refreshed()  # over is over
    tokens = sessions.open(ann.id)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE users SET is_disabled = 1")
    assert sessions.find(tokens.access) is None
    assert sessions.refresh(tokens.refresh) == Refreshed()


def test_sessions_are_closed_and_old_ones_purged(
    sessions: SqlSessions, ann: UserRecord, clock: Clock, database: Database
) -> None:
    first = sessions.open(ann.id)
    clock.now_ms += 60_000
    second = sessions.open(ann.id)
    assert sessions.close(second.session_id)
    assert not sessions.close(second.session_id)
    assert sessions.find(second.access) is None
    sessions.open(ann.id)
    assert sessions.purge() == 0
    clock.now_ms = first.refresh_expires_at_ms
    assert sessions.purge() == 1
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM sessions").scalar() == 1
