"""Keys made, taken over, rotated, stopped and deleted; what rotation must never do."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedgate.core.access import BudgetRule, KeyRecord, LimitRule, Subject, caller_of
from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.core.keys import digest, is_well_formed
from embedgate.core.pages import PageQuery
from embedgate.storage import schema
from embedgate.storage.database import Database, open_database
from embedgate.storage.key_management import MAX_OVERLAP_S, SqlKeys
from embedgate.storage.key_rows import KeyState
from embedgate.storage.keys import SqlKeyStore
from embedgate.storage.limits import SqlLimits
from embedgate.storage.projects import SqlProjects
from embedgate.storage.rules import SqlRules
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
def keys(database: Database, clock: Clock) -> SqlKeys:
    """The keys of a database that has a user `ann`."""
    SqlUsers(database).create("ann")
    return SqlKeys(database, "eg", clock)


@pytest.fixture
def store(database: Database) -> Iterator[SqlKeyStore]:
    store = SqlKeyStore(database)
    yield store
    store.close()


async def found(store: SqlKeyStore, secret: str) -> KeyRecord:
    """What a request with this key is told of it now."""
    store.forget_all()
    record = await store.find(digest(secret))
    assert record is not None
    return record


def is_valid(key: KeyRecord, now_ms: int) -> bool:
    has_expired = key.expires_at_ms is not None and key.expires_at_ms <= now_ms
    return key.revoked_at_ms is None and not key.is_disabled and not has_expired


def add_ledger_entry(database: Database, key_id: str, at_ms: int) -> None:
    """An entry in which only key and time matter."""
    table = schema.ledger
    plain = {column.name: "" if isinstance(column.type, sa.String) else 0 for column in table.c if column.name != "id"}
    entry = plain | {"request_id": f"req_{at_ms}", "key_id": key_id, "at_ms": at_ms}
    with database.write() as connection:
        connection.execute(table.insert().values(entry))


async def test_a_rotated_key_keeps_its_id_and_all_that_hangs_on_it(
    keys: SqlKeys, store: SqlKeyStore, database: Database, clock: Clock
) -> None:
    project = SqlProjects(database).create("search")
    before, old = keys.create("ann", "k", project="search", expires_at_ms=clock.now_ms + 10_000_000)
    limits, subject = SqlLimits(database), Subject("key", before.id)
    limits.set_limit(LimitRule(subject, requests_per_minute=1))
    limits.set_budget(BudgetRule(subject, "total", 5))
    rules = SqlRules(database).load()
    clock.now_ms += 5
    after, new = keys.rotate(before.id, overlap_s=60)
    assert after == replace(before, hint=new[-4:], created_at_ms=clock.now_ms)
    assert await found(store, new) == after
    retired = await found(store, old)
    assert (retired.replaced_by, retired.expires_at_ms) == (before.id, clock.now_ms + 60_000)
    assert (retired.hint, retired.created_at_ms) == (before.hint, before.created_at_ms)
    assert retired.project_id == project.id
    assert caller_of(retired) == caller_of(after) == caller_of(before)  # so it is held to the same budget
    assert SqlRules(database).load() == rules


async def test_without_an_overlap_the_old_secret_is_revoked_at_once(keys: SqlKeys, store: SqlKeyStore) -> None:
    before, old = keys.create("ann", "k")
    _, new = keys.rotate(old)
    assert (await found(store, old)).revoked_at_ms is not None
    assert (await found(store, new)).revoked_at_ms is None
    assert (await found(store, new)).id == before.id


async def test_an_old_secret_never_outlives_its_key(keys: SqlKeys, store: SqlKeyStore, clock: Clock) -> None:
    key, old = keys.create("ann", "k", expires_at_ms=clock.now_ms + 1_000)
    keys.rotate(key.id, overlap_s=MAX_OVERLAP_S)
    assert (await found(store, old)).expires_at_ms == clock.now_ms + 1_000
    keys.set_expiry(key.id, None)
    assert (await found(store, old)).expires_at_ms == clock.now_ms + MAX_OVERLAP_S * 1000
    keys.set_disabled(key.id, True)
    assert (await found(store, old)).is_disabled
    keys.set_disabled(key.id, False)
    assert not (await found(store, old)).is_disabled
    keys.revoke(key.id)
    assert (await found(store, old)).revoked_at_ms == clock.now_ms


async def test_an_old_secret_can_be_ended_before_its_time(keys: SqlKeys, store: SqlKeyStore) -> None:
    key, old = keys.create("ann", "k")
    _, new = keys.rotate(key.id, overlap_s=60)
    assert keys.revoke(old).replaced_by == key.id
    assert (await found(store, new)).revoked_at_ms is None
    assert keys.delete(old).replaced_by == key.id
    assert [record.id for record in keys.list().items] == [key.id]


Step = Literal["rotate", "rotate at once", "revoke", "disable", "enable", "expire", "wait"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(get_args(Step)), max_size=8))
def test_every_secret_of_a_key_is_valid_as_long_as_the_rules_say(
    keys: SqlKeys, clock: Clock, steps: list[Step]
) -> None:
    """Against a model: the key's own state, and for each old secret the time at which it ends."""
    key, newest = keys.create("ann", "k")
    old_ends_ms: dict[str, int] = {}
    is_revoked, is_disabled, ends_ms = False, False, None
    for step in steps:
        try:
            if step in ("rotate", "rotate at once"):
                overlap_s = 2 if step == "rotate" else 0
                _, newer = keys.rotate(key.id, overlap_s=overlap_s)
                old_ends_ms[newest] = clock.now_ms + overlap_s * 1000
                newest = newer
            elif step == "revoke":
                keys.revoke(key.id)
                is_revoked = True
            elif step in ("disable", "enable"):
                keys.set_disabled(key.id, step == "disable")
                is_disabled = step == "disable"
            elif step == "expire":
                keys.set_expiry(key.id, clock.now_ms + 3_000)
                ends_ms = clock.now_ms + 3_000
            else:
                clock.now_ms += 1_000
        except Conflict:
            assert is_revoked or (ends_ms is not None and ends_ms <= clock.now_ms)
        key_is_valid = not is_revoked and not is_disabled and (ends_ms is None or clock.now_ms < ends_ms)
        assert is_valid(keys.get(newest), clock.now_ms) is key_is_valid
        for secret, end_ms in old_ends_ms.items():
            assert is_valid(keys.get(secret), clock.now_ms) is (key_is_valid and clock.now_ms < end_ms)
        assert {caller_of(keys.get(secret)).key_id for secret in (newest, *old_ends_ms)} == {key.id}


def test_what_is_over_or_was_replaced_cannot_be_rotated(keys: SqlKeys, clock: Clock) -> None:
    key, old = keys.create("ann", "k", expires_at_ms=clock.now_ms + 1_000)
    keys.rotate(key.id, overlap_s=60)
    with pytest.raises(Conflict, match=f"old secret of {key.id}"):
        keys.rotate(old)
    clock.now_ms += 1_000
    with pytest.raises(Conflict, match="expired"):
        keys.rotate(key.id)
    keys.revoke(key.id)
    with pytest.raises(Conflict, match="revoked for good"):
        keys.rotate(key.id)
    with pytest.raises(Conflict, match="revoked for good"):
        keys.set_disabled(key.id, False)
    with pytest.raises(Conflict, match="revoked for good"):
        keys.set_expiry(key.id, None)
    with pytest.raises(InvalidInput, match="must be 0 to 2592000"):
        keys.rotate(key.id, overlap_s=MAX_OVERLAP_S + 1)


@pytest.mark.parametrize("secret", ["ziri-ann-0123456789abcdef", "eg_0123456789ab4def8123456789abcdef"])
async def test_a_key_from_elsewhere_works_here(keys: SqlKeys, store: SqlKeyStore, secret: str) -> None:
    record = keys.take_over("ann", "old", secret)
    assert record.hint == "cdef"
    assert await found(store, secret) == record
    hex_digest = hashlib.sha256(secret.encode()).hexdigest()
    with pytest.raises(Conflict, match="known here already"):
        keys.take_over("ann", "again", hex_digest.upper())
    keys.delete(record.id)
    by_digest = keys.take_over("ann", "old", hex_digest, hint="cdef")
    assert await found(store, secret) == by_digest
    assert by_digest.hint == "cdef"


@pytest.mark.parametrize("given", ["", "eg_1", "ziri-ann-xyz", "ab" * 31, "sk_0123456789ab4def8123456789abcdef"])
def test_what_is_no_key_is_not_taken_over(keys: SqlKeys, given: str) -> None:
    with pytest.raises(InvalidInput, match="neither") as caught:
        keys.take_over("ann", "k", given)
    assert not given or given not in caught.value.message
    with pytest.raises(InvalidInput, match="hint"):
        keys.take_over("ann", "k", "ab" * 32, hint="12345")


def test_unfit_fields_are_refused(keys: SqlKeys, clock: Clock) -> None:
    with pytest.raises(InvalidInput, match="must be 1000001 to"):
        keys.create("ann", "k", expires_at_ms=clock.now_ms)
    with pytest.raises(InvalidInput, match="expiry"):
        keys.create("ann", "k", expires_at_ms=2**70)
    with pytest.raises(InvalidInput, match="key name"):
        keys.create("ann", "")
    with pytest.raises(UnknownEntity, match="no project 'x'"):
        keys.create("ann", "k", project="x")
    assert keys.list().total == 0
    key, _ = keys.create("ann", "k")
    with pytest.raises(InvalidInput, match="expiry"):
        keys.set_expiry(key.id, -1)
    for method in (keys.get, keys.rotate, keys.revoke, keys.delete):
        with pytest.raises(UnknownEntity, match="no such key"):
            method("key_0")
    with pytest.raises(InvalidInput, match="state is 'gone'"):
        keys.list(state="gone")  # type: ignore[arg-type] # what a query string may hold


def test_deleting_a_key_takes_its_secrets_and_rules_along(keys: SqlKeys, database: Database) -> None:
    key, _ = keys.create("ann", "k")
    other, _ = keys.create("ann", "other")
    keys.rotate(key.id, overlap_s=60)
    limits = SqlLimits(database)
    for key_id in (key.id, other.id):
        limits.set_budget(BudgetRule(Subject("key", key_id), "day", 5))
    revision = SqlRules(database).revision()
    assert keys.delete(key.id).id == key.id
    rules = SqlRules(database).load()
    assert [budget.subject.id for budget in rules.budgets] == [other.id]
    assert rules.revision == revision + 1
    assert [record.id for record in keys.list().items] == [other.id]


def test_keys_are_listed_by_user_project_and_state(keys: SqlKeys, database: Database, clock: Clock) -> None:
    users, projects = SqlUsers(database), SqlProjects(database)
    users.create("bob")
    projects.create("search")
    projects.create("off")
    ids = {}
    for name, user, project in (
        ("active", "ann", None),
        ("disabled", "ann", "search"),
        ("of a project that is off", "ann", "off"),
        ("expired", "bob", None),
        ("revoked", "bob", None),
    ):
        ids[name] = keys.create(user, name, project=project)[0].id
    keys.set_disabled(ids["disabled"], True)
    projects.update("off", is_disabled=True)
    keys.set_expiry(ids["expired"], clock.now_ms)
    keys.revoke(ids["revoked"])

    def names(state: KeyState | None = None, user: str | None = None, project: str | None = None) -> set[str]:
        return {key.name for key in keys.list(state=state, user=user, project=project).items}

    assert names("active") == {"active"}
    assert names("disabled") == {"disabled", "of a project that is off"}
    assert names("expired") == {"expired"}
    assert names("revoked") == {"revoked"}
    assert names(user="bob") == {"expired", "revoked"}
    assert names(project="search") == {"disabled"}
    assert names("revoked", user="ann") == set()
    users.update("ann", is_disabled=True)
    assert names("active") == set()
    assert keys.list(PageQuery(search="BOB", sort="-name")).items[0].name == "revoked"


def test_the_last_use_of_a_key_is_its_newest_ledger_entry(keys: SqlKeys, database: Database) -> None:
    used, secret = keys.create("ann", "used")
    unused, _ = keys.create("ann", "unused")
    for at_ms in (7, 9, 8):
        add_ledger_entry(database, used.id, at_ms)
    assert keys.get(secret).last_used_at_ms == 9
    assert keys.get(unused.id).last_used_at_ms is None
    for sort in ("last_used_at_ms", "-last_used_at_ms"):  # what was never used comes last either way
        assert [key.last_used_at_ms for key in keys.list(PageQuery(sort=sort)).items] == [9, None]


def test_rotations_at_the_same_time_lose_no_secret(keys: SqlKeys, tmp_path: Path, clock: Clock) -> None:
    key, first = keys.create("ann", "k")
    elsewhere = open_database(tmp_path)
    both = (keys, SqlKeys(elsewhere, "eg", clock))
    with ThreadPoolExecutor(4) as workers:
        rotations = [workers.submit(both[i % 2].rotate, key.id, overlap_s=60) for i in range(12)]
        secrets = [first, *(rotation.result()[1] for rotation in rotations)]
    elsewhere.close()
    records = [keys.get(secret) for secret in secrets]
    assert [record.replaced_by for record in records].count(None) == 1
    assert {caller_of(record).key_id for record in records} == {key.id}
    assert all(is_well_formed(secret, "eg") and is_valid(keys.get(secret), clock.now_ms) for secret in secrets)
    assert keys.list().total == len(secrets) == 13
