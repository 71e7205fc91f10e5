"""Keys made, taken over, rotated, stopped and deleted; what rotation must never do."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from embedgate.core.access import KeyRecord, Subject, caller_of
from embedgate.core.errors import Conflict, InvalidInput, MalformedRequest, UnknownEntity
from embedgate.core.keys import digest, is_well_formed
from embedgate.govern import audit, entries, limits, projects, usage, users
from embedgate.govern.change import Actor, Plain
from embedgate.govern.keys import (
    MAX_OVERLAP_S,
    Key,
    KeyChange,
    KeyQuery,
    KeyState,
    KeyToImport,
    KeyToMake,
    Rotation,
    WhichKey,
    change_key,
    create_key,
    delete_key,
    find_key,
    import_key,
    list_keys,
    revoke_key,
    rotate_key,
    show_key,
    state_at,
)
from embedgate.govern.operation import Given, no_file
from embedgate.govern.values import moment
from embedgate.storage import schema
from embedgate.storage.database import Database, open_database
from embedgate.storage.key_lookup import SqlKeyStore
from embedgate.storage.key_uses import store_uses
from governing import Clock, Governing, rules_in

OLD_KEY = "eg_0123456789ab4def8123456789abcdef"


@pytest.fixture(autouse=True)
def ann(call: Governing) -> None:
    """A user to own keys."""
    call(users.create_user, users.NewUser("ann"))


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


async def looks_like(store: SqlKeyStore, secret: str, key: Key) -> bool:
    """Whether a request with this key is told what is answered of it."""
    record = await found(store, secret)
    same = [name for name in key.__struct_fields__ if hasattr(record, name)]
    times = (moment(record.created_at_ms), *(None if ms is None else moment(ms) for ms in ends_of(record)))
    return all(getattr(record, name) == getattr(key, name) for name in same) and times == (
        key.created_at,
        key.expires_at,
        key.revoked_at,
    )


def ends_of(record: KeyRecord) -> tuple[int | None, int | None]:
    return record.expires_at_ms, record.revoked_at_ms


def made(call: Governing, name: str = "k", *, expires_at: datetime | None = None) -> tuple[Key, str]:
    """A new key of ann, and its secret."""
    answer = call(create_key, KeyToMake("ann", name, expires_at=expires_at))
    return answer.key, answer.secret


def shown(call: Governing, key: str) -> Key:
    return call(show_key, WhichKey(key))


def rotated(call: Governing, key: str, overlap_s: int = 0) -> tuple[Key, str]:
    answer = call(rotate_key, Rotation(key, overlap_s))
    return answer.key, answer.secret


def listed(call: Governing, query: KeyQuery | None = None) -> list[Key]:
    return call.every(list_keys, query or KeyQuery())


def add_budget(database: Database, key_id: str) -> None:
    row = {"subject_kind": "key", "subject_id": key_id, "period": "total", "cap_picodollars": 5}
    with database.write() as connection:
        connection.execute(schema.budgets.insert().values(row))


def add_ledger_entry(database: Database, key_id: str, at_ms: int) -> None:
    """An entry in which only key and time matter."""
    table = schema.ledger
    plain = {column.name: "" if isinstance(column.type, sa.String) else 0 for column in table.c}
    del plain["id"], plain["digest"]
    entry = plain | {"request_id": f"req_{at_ms}", "key_id": key_id, "at_ms": at_ms}
    with database.write() as connection:
        connection.execute(table.insert().values(entry))


async def test_a_rotated_key_keeps_its_id_and_all_that_hangs_on_it(
    call: Governing, store: SqlKeyStore, database: Database, clock: Clock
) -> None:
    project = call(projects.create_project, projects.NewProject("search"))
    ends = moment(clock.ms() + 10_000_000)
    answer = call(create_key, KeyToMake("ann", "k", project="search", expires_at=ends))
    before, old = answer.key, answer.secret
    add_budget(database, before.id)
    rules = rules_in(database)
    clock.now_s += 5
    asked_before = await found(store, old)
    after, new = rotated(call, before.id, overlap_s=60)
    assert after == msgspec.structs.replace(before, hint=new[-4:], created_at=moment(clock.ms()))
    assert await looks_like(store, new, after)
    retired = shown(call, old)
    assert (retired.replaced_by, retired.expires_at) == (before.id, moment(clock.ms() + 60_000))
    assert (retired.hint, retired.created_at) == (before.hint, before.created_at)
    assert retired.project_id == project.id
    callers = [caller_of(await found(store, old)), caller_of(await found(store, new))]
    assert callers == [caller_of(asked_before)] * 2  # so it is held to the same budget
    assert callers[0].subjects[0] == Subject("key", before.id)
    assert rules_in(database) == rules


async def test_without_an_overlap_the_old_secret_is_revoked_at_once(call: Governing, store: SqlKeyStore) -> None:
    before, old = made(call)
    _, new = rotated(call, old)
    assert (await found(store, old)).revoked_at_ms is not None
    assert (await found(store, new)).revoked_at_ms is None
    assert (await found(store, new)).id == before.id


async def test_an_old_secret_never_outlives_its_key(call: Governing, store: SqlKeyStore, clock: Clock) -> None:
    key, old = made(call, expires_at=moment(clock.ms() + 1_000))
    rotated(call, key.id, overlap_s=MAX_OVERLAP_S)
    assert (await found(store, old)).expires_at_ms == clock.ms() + 1_000
    call(change_key, KeyChange(key.id, expires_at=None))
    assert (await found(store, old)).expires_at_ms == clock.ms() + MAX_OVERLAP_S * 1000
    call(change_key, KeyChange(key.id, is_disabled=True))
    assert (await found(store, old)).is_disabled
    call(revoke_key, WhichKey(key.id))
    assert (await found(store, old)).revoked_at_ms == clock.ms()


async def test_an_old_secret_can_be_ended_before_its_time(call: Governing, store: SqlKeyStore) -> None:
    key, old = made(call)
    _, new = rotated(call, key.id, overlap_s=60)
    assert call(revoke_key, WhichKey(old)).replaced_by == key.id
    assert (await found(store, new)).revoked_at_ms is None
    call(delete_key, WhichKey(old))
    assert [each.id for each in listed(call)] == [key.id]


Step = Literal["rotate", "rotate at once", "revoke", "disable", "enable", "expire", "wait"]


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.sampled_from(get_args(Step)), max_size=8))
def test_every_secret_of_a_key_is_valid_as_long_as_the_rules_say(
    call: Governing, clock: Clock, steps: list[Step]
) -> None:
    """Against a model: the key's own state, and for each old secret the time at which it ends."""
    key, newest = made(call)
    old_ends_ms: dict[str, int] = {}
    is_revoked, is_disabled, ends_ms = False, False, None
    for step in steps:
        try:
            if step in ("rotate", "rotate at once"):
                overlap_s = 2 if step == "rotate" else 0
                _, newer = rotated(call, key.id, overlap_s)
                old_ends_ms[newest] = clock.ms() + overlap_s * 1000
                newest = newer
            elif step == "revoke":
                call(revoke_key, WhichKey(key.id))
                is_revoked = True
            elif step in ("disable", "enable"):
                call(change_key, KeyChange(key.id, is_disabled=step == "disable"))
                is_disabled = step == "disable"
            elif step == "expire":
                call(change_key, KeyChange(key.id, expires_at=moment(clock.ms() + 3_000)))
                ends_ms = clock.ms() + 3_000
            else:
                clock.now_s += 1
        except Conflict:
            assert is_revoked or (ends_ms is not None and ends_ms <= clock.ms())
        key_is_valid = not is_revoked and not is_disabled and (ends_ms is None or clock.ms() < ends_ms)
        assert (shown(call, newest).state == "active") is key_is_valid
        for secret, end_ms in old_ends_ms.items():
            assert (shown(call, secret).state == "active") is (key_is_valid and clock.ms() < end_ms)
        shown_keys = [shown(call, secret) for secret in (newest, *old_ends_ms)]
        assert {each.replaced_by or each.id for each in shown_keys} == {key.id}


def test_what_is_over_or_was_replaced_cannot_be_rotated(call: Governing, clock: Clock) -> None:
    key, old = made(call, expires_at=moment(clock.ms() + 1_000))
    rotated(call, key.id, overlap_s=60)
    with pytest.raises(Conflict, match=f"old secret of {key.id}"):
        rotated(call, old)
    clock.now_s += 1
    with pytest.raises(Conflict, match="expired"):
        rotated(call, key.id)
    call(revoke_key, WhichKey(key.id))
    with pytest.raises(Conflict, match="revoked for good"):
        rotated(call, key.id)
    with pytest.raises(Conflict, match="revoked for good"):
        call(change_key, KeyChange(key.id, is_disabled=False))
    with pytest.raises(Conflict, match="revoked for good"):
        call(change_key, KeyChange(key.id, expires_at=None))
    with pytest.raises(InvalidInput, match="must be 0 to 2592000"):
        rotated(call, key.id, overlap_s=MAX_OVERLAP_S + 1)


@pytest.mark.parametrize("secret", ["ziri-ann-0123456789abcdef", OLD_KEY])
async def test_a_key_from_elsewhere_works_here(call: Governing, store: SqlKeyStore, secret: str) -> None:
    key = call(import_key, KeyToImport("ann", "old", secret))
    assert key.hint == "cdef"
    assert await looks_like(store, secret, key)
    hex_digest = hashlib.sha256(secret.encode()).hexdigest()
    with pytest.raises(Conflict, match="known here already"):
        call(import_key, KeyToImport("ann", "again", hex_digest.upper()))
    call(delete_key, WhichKey(key.id))
    by_digest = call(import_key, KeyToImport("ann", "old", hex_digest, hint="cdef"))
    assert await looks_like(store, secret, by_digest)
    assert by_digest.hint == "cdef"


@pytest.mark.parametrize("given", ["", "eg_1", "ziri-ann-xyz", "ab" * 31, "sk_0123456789ab4def8123456789abcdef"])
def test_what_is_no_key_is_not_taken_over(call: Governing, given: str) -> None:
    with pytest.raises(InvalidInput, match="neither") as caught:
        call(import_key, KeyToImport("ann", "k", given))
    assert not given or given not in caught.value.message
    with pytest.raises(InvalidInput, match="hint"):
        call(import_key, KeyToImport("ann", "k", "ab" * 32, hint="12345"))


def test_unfit_fields_are_refused(call: Governing, clock: Clock) -> None:
    with pytest.raises(InvalidInput, match=f"must be {clock.ms() + 1} to"):
        made(call, expires_at=moment(clock.ms()))
    with pytest.raises(InvalidInput, match="key name"):
        made(call, "")
    with pytest.raises(UnknownEntity, match="no project 'x'"):
        call(create_key, KeyToMake("ann", "k", project="x"))
    assert listed(call) == []
    key, _ = made(call)
    with pytest.raises(InvalidInput, match="expiry"):
        call(change_key, KeyChange(key.id, expires_at=moment(-1)))
    for attempt in (
        lambda: shown(call, "key_0"),
        lambda: rotated(call, "key_0"),
        lambda: call(revoke_key, WhichKey("key_0")),
        lambda: call(delete_key, WhichKey("key_0")),
    ):
        with pytest.raises(UnknownEntity, match="no such key"):
            attempt()
    with pytest.raises(MalformedRequest, match="gone"):
        list_keys.answer(call.invocation(), Given({}, b"state=gone", b""))


def test_deleting_a_key_takes_its_secrets_and_rules_along(call: Governing, database: Database) -> None:
    key, _ = made(call)
    other, _ = made(call, "other")
    rotated(call, key.id, overlap_s=60)
    for key_id in (key.id, other.id):
        add_budget(database, key_id)
    revision = rules_in(database).revision
    call(delete_key, WhichKey(key.id))
    rules = rules_in(database)
    assert [budget.subject.id for budget in rules.budgets] == [other.id]
    assert rules.revision == revision + 1
    assert [each.id for each in listed(call)] == [other.id]


def test_keys_are_listed_by_user_project_and_state(call: Governing, clock: Clock) -> None:
    call(users.create_user, users.NewUser("bob"))
    for project in ("search", "off"):
        call(projects.create_project, projects.NewProject(project))
    ids = {}
    for name, user, project_name in (
        ("active", "ann", None),
        ("disabled", "ann", "search"),
        ("of a project that is off", "ann", "off"),
        ("expired", "bob", None),
        ("revoked", "bob", None),
    ):
        ids[name] = call(create_key, KeyToMake(user, name, project=project_name)).key.id
    call(change_key, KeyChange(ids["disabled"], is_disabled=True))
    call(projects.change_project, projects.ProjectChange("off", is_disabled=True))
    call(change_key, KeyChange(ids["expired"], expires_at=moment(clock.ms())))
    call(revoke_key, WhichKey(ids["revoked"]))

    def names(state: KeyState | None = None, user: str | None = None, project: str | None = None) -> set[str]:
        found = listed(call, KeyQuery(state=state, user=user, project=project))
        assert state is None or {key.state for key in found} <= {state}
        return {key.name for key in found}

    assert names("active") == {"active"}
    assert names("disabled") == {"disabled", "of a project that is off"}
    assert names("expired") == {"expired"}
    assert names("revoked") == {"revoked"}
    assert names(user="bob") == {"expired", "revoked"}
    assert names(project="search") == {"disabled"}
    assert names("revoked", user="ann") == set()
    call(users.change_user, users.UserChange("ann", is_disabled=True))
    assert names("active") == set()
    assert listed(call, KeyQuery(search="BOB", sort="-name"))[0].name == "revoked"


def test_the_state_of_a_key_at_another_time_is_what_its_end_says(call: Governing, clock: Clock) -> None:
    ends = moment(clock.ms() + 1_000)
    key, _ = made(call, expires_at=ends)
    assert key.state == "active"
    assert state_at(key, ends) == "expired"
    assert state_at(key, ends - timedelta(milliseconds=1)) == "active"


def test_the_last_use_of_a_key_is_its_newest_ledger_entry(call: Governing, database: Database) -> None:
    used, secret = made(call, "used")
    unused, _ = made(call, "unused")
    for at_ms in (7, 9, 8):
        add_ledger_entry(database, used.id, at_ms)
    assert shown(call, secret).last_used_at == moment(9)
    assert shown(call, unused.id).last_used_at is None
    for sort in ("last_used_at", "-last_used_at"):  # what was never used comes last either way
        assert [key.last_used_at for key in listed(call, KeyQuery(sort=sort))] == [moment(9), None]


def test_rotations_at_the_same_time_lose_no_secret(call: Governing, tmp_path: Path) -> None:
    key, first = made(call)
    elsewhere = open_database(tmp_path)
    both = (call, Governing(elsewhere, call.resources, call.actor))
    with ThreadPoolExecutor(4) as workers:
        rotations = [workers.submit(rotated, both[i % 2], key.id, 60) for i in range(12)]
        secrets = [first, *(rotation.result()[1] for rotation in rotations)]
    elsewhere.close()
    keys = [shown(call, secret) for secret in secrets]
    assert [each.replaced_by for each in keys].count(None) == 1
    assert {each.replaced_by or each.id for each in keys} == {key.id}
    assert all(is_well_formed(secret, "eg") for secret in secrets)
    assert {each.state for each in keys} == {"active"}
    assert len(listed(call)) == len(secrets) == 13


def test_a_key_is_found_by_a_name_that_it_alone_has(call: Governing) -> None:
    key, secret = made(call, "ci")
    rotated(call, key.id, overlap_s=60)
    twins = [made(call, "twin")[0].id for _ in range(2)]
    with call.invocation().read() as reading:
        assert find_key(reading, "ci").id == find_key(reading, key.id).id == key.id
        assert find_key(reading, secret).replaced_by == key.id
        with pytest.raises(Conflict, match=", ".join(sorted(twins))):
            find_key(reading, "twin")
        for unknown in ("c", "CI", "", "x" * 65, "a\nb", "\udcff"):
            with pytest.raises(UnknownEntity, match="no such key"):
                find_key(reading, unknown)


def test_of_several_keys_of_a_name_the_one_that_is_not_revoked_is_meant(call: Governing) -> None:
    old, _ = made(call, "ci")
    call(revoke_key, WhichKey("ci"))
    assert shown(call, "ci").id == old.id
    new, _ = made(call, "ci")
    assert shown(call, "ci").id == new.id
    call(revoke_key, WhichKey("ci"))
    with pytest.raises(Conflict, match="2 keys have the name 'ci'"):
        shown(call, "ci")


def test_a_renamed_key_is_found_by_its_new_name_and_its_old_secret_has_it_too(call: Governing) -> None:
    key, secret = made(call, "ci")
    rotated(call, "ci", overlap_s=60)
    renamed = call(change_key, KeyChange("ci", "nightly"))
    assert (renamed.id, renamed.name) == (key.id, "nightly")
    assert (shown(call, "nightly").id, shown(call, secret).name) == (key.id, "nightly")
    with pytest.raises(UnknownEntity):
        shown(call, "ci")
    with pytest.raises(Conflict, match="Rename that one"):
        call(change_key, KeyChange(secret, "other"))
    with pytest.raises(InvalidInput):
        call(change_key, KeyChange("nightly", " "))
    assert ("keys.rename", key.id) in [(event.action, event.target) for event in events_of(call, "nightly")]


def events_of(call: Governing, key: str) -> list[audit.Event]:
    return list(call(audit.list_events, audit.AuditQuery(target=key)).items)


def test_everything_that_is_kept_of_keys_is_found_by_name(
    call: Governing, database: Database, spend: Callable[..., None]
) -> None:
    key, _ = made(call, "ci")
    spend(request_id="of ci", key_id=key.id, user_id=key.user_id)
    spend(request_id="of another", key_id="key_other", user_id=key.user_id)
    entries_of = call(entries.list_entries, entries.EntryQuery(key="ci"))
    assert [entry.request_id for entry in no_file(entries_of).items] == ["of ci"]
    assert no_file(call(usage.show_usage, usage.UsageQuery(key="ci"))).items[0].requests == 1
    call(limits.set_limit, limits.NewLimit("key", "ci", requests_per_minute=5))
    assert [limit.subject for limit in call(limits.list_limits, limits.LimitQuery()).items] == [key.id]
    assert [event.action for event in events_of(call, "ci")] == ["limits.set", "keys.create"]
    own = Governing(database, call.resources, Actor(key.user_id))
    mine = own(entries.list_own_entries, entries.OwnEntryQuery(key="ci"))
    assert [entry.request_id for entry in mine.items] == ["of ci"]
    call(users.create_user, users.NewUser("bob"))
    other = Governing(database, call.resources, Actor(call(users.show_user, users.WhichUser("bob")).id))
    with pytest.raises(UnknownEntity):
        other(entries.list_own_entries, entries.OwnEntryQuery(key="ci"))


async def test_each_secret_of_a_rotated_key_has_a_last_use_of_its_own(
    call: Governing, store: SqlKeyStore, database: Database, clock: Clock
) -> None:
    key, old = made(call, "ci")
    add_ledger_entry(database, key.id, clock.ms() + 5)
    before = shown(call, old).last_used_at
    assert before == moment(clock.ms() + 5)
    clock.now_s += 10
    _, new = rotated(call, "ci", overlap_s=60)
    assert (shown(call, new).last_used_at, shown(call, old).last_used_at) == (None, before)
    clock.now_s += 10
    store.note_use(digest(old), clock.ms())
    store.note_use(digest(old), clock.ms() + 1)
    store.close()  # what was noted is stored
    add_ledger_entry(database, key.id, clock.ms() + 2)  # the ledger has the key, not the secret
    assert (shown(call, new).last_used_at, shown(call, old).last_used_at) == (None, moment(clock.ms() + 1))
    store_uses(database, {digest(old): clock.ms() - 5, digest(new): clock.ms() + 3, bytes(32): 1})
    assert shown(call, old).last_used_at == moment(clock.ms() + 1)  # an earlier use changes nothing
    assert shown(call, new).last_used_at == moment(clock.ms() + 3)
    call(delete_key, WhichKey(old))
    assert shown(call, new).last_used_at == moment(clock.ms() + 3)


def test_no_file_holds_a_secret(call: Governing, database: Database, tmp_path: Path) -> None:
    answer = call(create_key, KeyToMake("ann", "k"))
    secret = answer.secret
    call(revoke_key, WhichKey(secret))
    assert secret not in repr(answer)

    def written() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.iterdir())

    with_log = written()
    database.close()
    for raw in (with_log, written()):
        assert secret.encode() not in raw
        assert secret.removeprefix("eg_").encode() not in raw
        assert digest(secret) in raw


def test_a_key_belongs_to_the_user_named_or_given_by_id(call: Governing) -> None:
    ann = call(users.show_user, users.WhichUser("ann"))
    bob = call(users.create_user, users.NewUser("bob"))
    first, secret = made(call, "laptop")
    second = call(create_key, KeyToMake(bob.id, "laptop")).key
    assert is_well_formed(secret, "eg")
    assert (first.user_id, first.user_name, first.hint) == (ann.id, "ann", secret[-4:])
    assert second.user_id == bob.id
    assert {key.id for key in listed(call)} == {first.id, second.id}
    assert listed(call, KeyQuery(user="bob")) == [second]
    with pytest.raises(UnknownEntity, match="no user 'eve'"):
        call(create_key, KeyToMake("eve", "laptop"))
    with pytest.raises(UnknownEntity, match="no user"):
        listed(call, KeyQuery(user="\udcff"))


def test_revoking_is_by_id_or_by_secret_and_lasts(call: Governing, clock: Clock) -> None:
    by_id, _ = made(call, "a")
    by_secret, secret = made(call, "b")
    other, _ = made(call, "c")
    once = call(revoke_key, WhichKey(by_id.id))
    assert once.revoked_at is not None
    clock.now_s += 1
    assert call(revoke_key, WhichKey(by_id.id)) == once
    assert call(revoke_key, WhichKey(secret)).id == by_secret.id
    assert listed(call, KeyQuery(state="active")) == [other]


@pytest.mark.parametrize("given", ["key_0123456789abcdef", OLD_KEY, "\udcff", ""])
def test_revoking_what_is_no_key_repeats_nothing_of_it(call: Governing, given: str) -> None:
    with pytest.raises(UnknownEntity) as caught:
        call(revoke_key, WhichKey(given))
    assert not given or given not in caught.value.message


def test_every_change_leaves_its_event_and_touches_this_key_alone(call: Governing, clock: Clock) -> None:
    user = call(users.show_user, users.WhichUser("ann"))
    key, secret = made(call, "ci")
    detail: dict[str, Plain] = {"user": user.id, "name": "ci", "project": None, "expires_at_ms": None}
    assert call.last_event() == ("keys.create", key.id, detail)
    ends_ms = clock.ms() + 1_000
    for operation, parameters, expected in (
        (rotate_key, Rotation(key.id, 60), [("keys.rotate", {"overlap_s": 60})]),
        (
            change_key,
            KeyChange(key.id, is_disabled=True, expires_at=moment(ends_ms)),
            [("keys.expire", {"expires_at_ms": ends_ms}), ("keys.disable", {})],
        ),
        (change_key, KeyChange(key.id, is_disabled=False), [("keys.enable", {})]),
        (change_key, KeyChange(key.id, expires_at=None), [("keys.expire", {"expires_at_ms": None})]),
        (revoke_key, WhichKey(secret), [("keys.revoke", {})]),
    ):
        n_events, invocation = len(call.events()), call.invocation()
        operation.run(invocation, parameters)  # type: ignore[arg-type]  # each with the parameters of its own
        target = shown(call, parameters.key).id
        assert [(event.action, event.detail) for event in call.events()[n_events:]] == expected
        assert {(event.kind, event.actor, event.target) for event in call.events()[n_events:]} == {
            ("change", "user_admin", target)
        }
        assert (invocation.touched.keys, invocation.touched.rules) == ({target}, False)
        assert not invocation.touched.every_key
    n_events = len(call.events())
    call(change_key, KeyChange(secret))
    assert len(call.events()) == n_events  # nothing was to be different
    call(delete_key, WhichKey(key.id))
    assert call.last_event() == ("keys.delete", key.id, {"user": user.id, "name": "ci"})
    imported = call.with_actor(Actor("user_other"))(import_key, KeyToImport("ann", "old", OLD_KEY))
    assert call.last_event() == ("keys.import", imported.id, {**detail, "name": "old"})
    with call.database.read() as connection:
        trail = repr(connection.execute(schema.audit.select()).all())
    assert not [given for given in (secret, OLD_KEY) if given in trail]
