"""Keys as requests look them up: by digest, at most a second old."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.core.access import Caller, KeyRecord, Subject, caller_of
from embedgate.core.clock import utc_ms
from embedgate.core.errors import InternalError, Overloaded
from embedgate.core.keys import digest
from embedgate.govern import keys, projects, roles, users
from embedgate.govern.values import milliseconds, moment
from embedgate.storage import schema
from embedgate.storage.database import Database, open_database
from embedgate.storage.key_lookup import SqlKeyStore
from embedgate.storage.key_rows import KEYS, key_records
from governing import Governing, resources_for
from waiting import until


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def call(database: Database, tmp_path: Path) -> Governing:
    """Runs operations of administration, such as a process on the same folder does. There is a user `ann`."""
    call = Governing(database, resources_for(tmp_path))
    call(users.create_user, users.NewUser("ann", is_admin=True))
    return call


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> Iterator[SqlKeyStore]:
    store = SqlKeyStore(database, max_cached=2, max_lookups=3, clock=clock)
    yield store
    store.close()


def made(call: Governing, name: str = "k") -> tuple[KeyRecord, str]:
    """A new key of ann, as stored, and its secret."""
    secret = call(keys.create_key, keys.KeyToMake("ann", name)).secret
    return stored(call.database, secret), secret


def stored(database: Database, secret: str) -> KeyRecord:
    """The key that a secret is of, without a cache."""
    with database.read() as connection:
        rows = connection.execute(KEYS.where(schema.keys.c.digest == digest(secret)))
        (record,) = key_records(connection, rows)
    return record


async def test_a_key_is_found_by_its_digest_alone(call: Governing, store: SqlKeyStore) -> None:
    record, secret = made(call)
    assert await store.find(digest(secret)) == record
    assert (record.user_name, record.is_admin, record.hint) == ("ann", True, secret[-4:])
    assert await store.find(digest(secret + "0")) is None


async def test_a_revocation_elsewhere_is_seen_after_a_second(
    call: Governing, store: SqlKeyStore, clock: Clock, tmp_path: Path
) -> None:
    record, secret = made(call)
    assert await store.find(digest(secret)) == record
    elsewhere = open_database(tmp_path)
    Governing(elsewhere, call.resources)(keys.revoke_key, keys.WhichKey(record.id))
    elsewhere.close()
    clock.now_s = 0.99
    assert await store.find(digest(secret)) == record
    clock.now_s = 1.0
    revoked = await store.find(digest(secret))
    assert revoked is not None
    assert revoked.revoked_at_ms is not None
    assert revoked == replace(record, revoked_at_ms=revoked.revoked_at_ms)


async def test_a_new_key_that_was_tried_too_early_is_known_after_a_second(
    call: Governing, store: SqlKeyStore, clock: Clock, database: Database
) -> None:
    record, secret = made(call)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE keys SET digest = zeroblob(32)")
    assert await store.find(digest(secret)) is None
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE keys SET digest = ?", (digest(secret),))
    assert await store.find(digest(secret)) is None
    clock.now_s = 1.0
    assert await store.find(digest(secret)) == record


async def test_a_forgotten_key_is_read_anew(call: Governing, store: SqlKeyStore) -> None:
    _, secret = made(call)
    await store.find(digest(secret))
    call(keys.revoke_key, keys.WhichKey(secret))
    store.forget(lambda _: True)
    assert await store.find(digest(secret)) == stored(call.database, secret)


async def test_a_look_up_that_began_before_forgetting_is_not_cached(call: Governing, store: SqlKeyStore) -> None:
    record, secret = made(call)
    early = asyncio.ensure_future(store.find(digest(secret)))
    await asyncio.sleep(0)
    store.forget(lambda _: True)
    assert await early == record
    assert await store.find(digest(secret)) is not await early


async def test_concurrent_look_ups_of_one_digest_are_one(call: Governing, store: SqlKeyStore) -> None:
    _, secret = made(call)
    first = asyncio.ensure_future(store.find(digest(secret)))
    others = [asyncio.ensure_future(store.find(digest(secret))) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()  # whoever asked first may leave
    found = await asyncio.gather(*others)
    assert found[0] is not None
    assert all(record is found[0] for record in found)


async def test_caches_and_look_ups_are_bounded(call: Governing, store: SqlKeyStore) -> None:
    digests = [digest(made(call, f"k{i}")[1]) for i in range(4)]
    first = await store.find(digests[0])
    for i in range(10):
        assert await store.find(digest(f"guess {i}")) is None
    assert await store.find(digests[0]) is first  # guesses push no key out
    for other in digests[1:3]:
        await store.find(other)
    again = await store.find(digests[0])
    assert again == first
    assert again is not first
    results = await asyncio.gather(*(store.find(digest(f"new {i}")) for i in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 3 + [Overloaded] * 2


async def test_guesses_keep_no_known_key_out(call: Governing, store: SqlKeyStore, clock: Clock) -> None:
    record, secret = made(call)
    assert await store.find(digest(secret)) == record
    clock.now_s += 10
    guesses = [asyncio.ensure_future(store.find(digest(f"guess {i}"))) for i in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await store.find(digest("guess 4"))
    assert await store.find(digest(secret)) == record
    assert await asyncio.gather(*guesses) == [None] * 3


async def test_a_failing_database_is_an_internal_error_and_is_not_cached(
    call: Governing, store: SqlKeyStore, database: Database
) -> None:
    record, secret = made(call)
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE keys RENAME TO elsewhere")
    with pytest.raises(InternalError, match="no such table: keys"):
        await store.find(digest(secret))
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO keys")
    assert await store.find(digest(secret)) == record


async def test_everything_is_forgotten_after_a_change_of_the_user(
    call: Governing, store: SqlKeyStore, database: Database
) -> None:
    record, secret = made(call)
    assert await store.find(digest(secret)) == record
    assert await store.find(digest("guess")) is None
    early = asyncio.ensure_future(store.find(digest("another guess")))
    await asyncio.sleep(0)
    call(users.create_user, users.NewUser("root", is_admin=True))
    call(users.change_user, users.UserChange("ann", is_disabled=True))
    store.forget_all()
    assert await store.find(digest(secret)) == replace(record, user_is_disabled=True)
    assert await early is None


async def test_a_found_key_brings_all_that_is_known_of_its_caller(call: Governing, store: SqlKeyStore) -> None:
    for role in ("writers", "an,odd name", "unused"):
        call(roles.create_role, roles.NewRole(role))
    project = call(projects.create_project, projects.NewProject("search"))
    user = call(
        users.create_user,
        users.NewUser("bot", email="bot@host", tenant="acme", is_agent=True, roles=("writers", "an,odd name")),
    )
    ends = moment(utc_ms() + 60_000)
    made = call(keys.create_key, keys.KeyToMake("bot", "k", project="search", expires_at=ends))
    key, secret = made.key, made.secret
    call(projects.change_project, projects.ProjectChange(project.id, is_disabled=True))
    found = await store.find(digest(secret))
    assert found is not None
    assert (found.id, found.name, found.hint, found.project_is_disabled) == (key.id, "k", secret[-4:], True)
    assert (found.project_name, found.is_disabled) == ("search", False)
    assert found.expires_at_ms == milliseconds(ends)
    assert caller_of(found) == Caller(
        user_id=user.id,
        user_name="bot",
        key_id=key.id,
        project_id=project.id,
        email="bot@host",
        tenant="acme",
        is_agent=True,
        roles=("an,odd name", "writers"),
        subjects=(Subject("key", key.id), Subject("user", user.id), Subject("project", project.id)),
    )


async def test_uses_are_stored_while_the_gateway_runs_and_again_when_that_fails(
    call: Governing, database: Database
) -> None:
    store = SqlKeyStore(database, store_uses_after_s=0.0)
    secrets = [made(call, name)[1] for name in ("one", "two")]

    def last_uses() -> list[object]:
        return [call(keys.show_key, keys.WhichKey(secret)).last_used_at for secret in secrets]

    with database.write() as connection:
        connection.exec_driver_sql("CREATE TRIGGER no BEFORE UPDATE ON keys BEGIN SELECT RAISE(ABORT, 'no'); END")
    store.note_use(digest(secrets[0]), 5)
    for _ in range(100):
        await asyncio.sleep(0)
    assert last_uses() == [None, None]
    with database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER no")
    store.note_use(digest(secrets[1]), 7)
    await until(lambda: last_uses() == [moment(5), moment(7)])
    store.close()


async def test_uses_that_wait_to_be_stored_are_bounded(call: Governing, store: SqlKeyStore) -> None:
    secrets = [made(call, name)[1] for name in ("one", "two", "three")]
    for secret in secrets:
        store.note_use(digest(secret), 5)
    store.close()
    found = [call(keys.show_key, keys.WhichKey(secret)).last_used_at for secret in secrets]
    assert found == [moment(5), moment(5), None]
