"""Keys as requests look them up, and as the command line manages them."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.core.access import Caller, Subject, caller_of
from embedgate.core.errors import Conflict, InternalError, InvalidInput, Overloaded, UnknownEntity
from embedgate.core.keys import digest, is_well_formed
from embedgate.core.pages import MAX_PAGE_ITEMS
from embedgate.storage.database import Database, open_database
from embedgate.storage.key_management import SqlKeys
from embedgate.storage.keys import SqlKeyAdmin, SqlKeyStore
from embedgate.storage.projects import SqlProjects
from embedgate.storage.roles import SqlRoles
from embedgate.storage.users import SqlUsers


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def admin(database: Database) -> SqlKeyAdmin:
    return SqlKeyAdmin(database, "eg")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> Iterator[SqlKeyStore]:
    store = SqlKeyStore(database, max_cached=2, max_lookups=3, clock=clock)
    yield store
    store.close()


def test_a_key_belongs_to_the_user_named_or_given_by_id(admin: SqlKeyAdmin) -> None:
    ann, bob = admin.create_user("Ann", is_admin=True), admin.create_user("bob")
    first, secret = admin.create_key("Ann", "laptop")
    second, _ = admin.create_key(bob.id, "laptop")
    assert is_well_formed(secret, "eg")
    assert (first.user_id, first.user_name, first.is_admin, first.hint) == (ann.id, "Ann", True, secret[-4:])
    assert (second.user_id, second.is_admin) == (bob.id, False)
    assert {user.id for user in admin.list_users()} == {ann.id, bob.id}
    assert {key.id for key in admin.list_keys()} == {first.id, second.id}
    assert admin.list_keys("bob") == [second]
    with pytest.raises(UnknownEntity, match="no user 'eve'"):
        admin.create_key("eve", "laptop")
    with pytest.raises(UnknownEntity, match="no user"):
        admin.list_keys("\udcff")


@pytest.mark.parametrize("name", ["", " ", "a" * 65, "a\nb", " a", "\udcff", "user_0123456789abcdef"])
def test_names_that_would_confuse_are_refused(admin: SqlKeyAdmin, name: str) -> None:
    with pytest.raises(InvalidInput):
        admin.create_user(name)
    assert admin.list_users() == []


def test_a_taken_name_is_refused(admin: SqlKeyAdmin) -> None:
    admin.create_user("zoë")
    with pytest.raises(Conflict, match="already a user named 'zoë'"):
        admin.create_user("zoë")


def test_no_file_holds_a_secret(admin: SqlKeyAdmin, database: Database, tmp_path: Path) -> None:
    admin.create_user("ann")
    _, secret = admin.create_key("ann", "k")
    admin.revoke_key(secret)

    def written() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.iterdir())

    with_log = written()
    database.close()
    for raw in (with_log, written()):
        assert secret.encode() not in raw
        assert secret.removeprefix("eg_").encode() not in raw
        assert digest(secret) in raw


def test_revoking_is_by_id_or_by_secret_and_lasts(admin: SqlKeyAdmin) -> None:
    admin.create_user("ann")
    by_id, _ = admin.create_key("ann", "a")
    by_secret, secret = admin.create_key("ann", "b")
    other, _ = admin.create_key("ann", "c")
    once = admin.revoke_key(by_id.id)
    assert once.revoked_at_ms is not None
    assert admin.revoke_key(by_id.id) == once
    assert admin.revoke_key(secret).id == by_secret.id
    assert [key for key in admin.list_keys() if key.revoked_at_ms is None] == [other]


@pytest.mark.parametrize("given", ["key_0123456789abcdef", "eg_0123456789ab4def8123456789abcdef", "\udcff", ""])
def test_revoking_what_is_no_key_repeats_nothing_of_it(admin: SqlKeyAdmin, given: str) -> None:
    with pytest.raises(UnknownEntity) as caught:
        admin.revoke_key(given)
    assert not given or given not in caught.value.message


async def test_a_key_is_found_by_its_digest_alone(admin: SqlKeyAdmin, store: SqlKeyStore) -> None:
    admin.create_user("ann", is_admin=True)
    record, secret = admin.create_key("ann", "k")
    assert await store.find(digest(secret)) == record
    assert await store.find(digest(secret + "0")) is None


async def test_a_revocation_elsewhere_is_seen_after_a_second(
    admin: SqlKeyAdmin, store: SqlKeyStore, clock: Clock, tmp_path: Path
) -> None:
    admin.create_user("ann")
    record, secret = admin.create_key("ann", "k")
    assert await store.find(digest(secret)) == record
    elsewhere = open_database(tmp_path)
    revoked = SqlKeyAdmin(elsewhere, "eg").revoke_key(record.id)
    elsewhere.close()
    clock.now_s = 0.99
    assert await store.find(digest(secret)) == record
    clock.now_s = 1.0
    assert await store.find(digest(secret)) == revoked


async def test_a_new_key_that_was_tried_too_early_is_known_after_a_second(
    admin: SqlKeyAdmin, store: SqlKeyStore, clock: Clock, database: Database
) -> None:
    admin.create_user("ann")
    record, secret = admin.create_key("ann", "k")
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE keys SET digest = zeroblob(32)")
    assert await store.find(digest(secret)) is None
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE keys SET digest = ?", (digest(secret),))
    assert await store.find(digest(secret)) is None
    clock.now_s = 1.0
    assert await store.find(digest(secret)) == record


async def test_a_forgotten_key_is_read_anew(admin: SqlKeyAdmin, store: SqlKeyStore) -> None:
    admin.create_user("ann")
    _, secret = admin.create_key("ann", "k")
    await store.find(digest(secret))
    revoked = admin.revoke_key(secret)
    store.forget(lambda _: True)
    assert await store.find(digest(secret)) == revoked


async def test_a_look_up_that_began_before_forgetting_is_not_cached(admin: SqlKeyAdmin, store: SqlKeyStore) -> None:
    admin.create_user("ann")
    record, secret = admin.create_key("ann", "k")
    early = asyncio.ensure_future(store.find(digest(secret)))
    await asyncio.sleep(0)
    store.forget(lambda _: True)
    assert await early == record
    assert await store.find(digest(secret)) is not await early


async def test_concurrent_look_ups_of_one_digest_are_one(admin: SqlKeyAdmin, store: SqlKeyStore) -> None:
    admin.create_user("ann")
    _, secret = admin.create_key("ann", "k")
    first = asyncio.ensure_future(store.find(digest(secret)))
    others = [asyncio.ensure_future(store.find(digest(secret))) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()  # whoever asked first may leave
    found = await asyncio.gather(*others)
    assert found[0] is not None
    assert all(record is found[0] for record in found)


async def test_caches_and_look_ups_are_bounded(admin: SqlKeyAdmin, store: SqlKeyStore) -> None:
    admin.create_user("ann")
    digests = [digest(admin.create_key("ann", f"k{i}")[1]) for i in range(4)]
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


async def test_a_failing_database_is_an_internal_error_and_is_not_cached(
    admin: SqlKeyAdmin, store: SqlKeyStore, database: Database
) -> None:
    admin.create_user("ann")
    record, secret = admin.create_key("ann", "k")
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE keys RENAME TO elsewhere")
    with pytest.raises(InternalError, match="no such table: keys"):
        await store.find(digest(secret))
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO keys")
    assert await store.find(digest(secret)) == record


async def test_everything_is_forgotten_after_a_change_of_the_user(
    admin: SqlKeyAdmin, store: SqlKeyStore, database: Database
) -> None:
    admin.create_user("ann")
    record, secret = admin.create_key("ann", "k")
    assert await store.find(digest(secret)) == record
    assert await store.find(digest("guess")) is None
    early = asyncio.ensure_future(store.find(digest("another guess")))
    await asyncio.sleep(0)
    users = SqlUsers(database)
    users.update("ann", is_disabled=True)
    store.forget_all()
    assert await store.find(digest(secret)) == replace(record, user_is_disabled=True)
    assert await early is None


async def test_a_found_key_brings_all_that_is_known_of_its_caller(store: SqlKeyStore, database: Database) -> None:
    roles, projects = SqlRoles(database), SqlProjects(database)
    for role in ("writers", "an,odd name", "unused"):
        roles.create(role)
    project = projects.create("search")
    user = SqlUsers(database).create(
        "bot", email="bot@host", tenant="acme", is_agent=True, roles=("writers", "an,odd name")
    )
    keys = SqlKeys(database, "eg", clock=lambda: 1)
    record, secret = keys.create("bot", "k", project="search", expires_at_ms=10)
    projects.update(project.id, is_disabled=True)
    found = await store.find(digest(secret))
    assert found is not None
    assert found == replace(record, project_is_disabled=True)
    assert (found.project_name, found.expires_at_ms, found.is_disabled) == ("search", 10, False)
    assert caller_of(found) == Caller(
        user_id=user.id,
        user_name="bot",
        key_id=record.id,
        project_id=project.id,
        email="bot@host",
        tenant="acme",
        is_agent=True,
        roles=("an,odd name", "writers"),
        subjects=(Subject("key", record.id), Subject("user", user.id), Subject("project", project.id)),
    )


def test_the_command_line_lists_more_than_a_page(admin: SqlKeyAdmin) -> None:
    admin.create_user("ann")
    made = [admin.create_key("ann", f"k{i}")[0].id for i in range(MAX_PAGE_ITEMS + 1)]
    assert sorted(key.id for key in admin.list_keys("ann")) == sorted(made)
