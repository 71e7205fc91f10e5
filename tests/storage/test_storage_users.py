"""Users, their roles, and the administrator that must always be left."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.core.access import Subject
from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.core.pages import PageQuery
from embedgate.govern.budgets import NewBudget, set_budget
from embedgate.govern.limits import NewLimit, set_limit
from embedgate.storage.database import Database, open_database
from embedgate.storage.key_management import SqlKeys
from embedgate.storage.roles import SqlRoles
from embedgate.storage.sessions import SqlSessions
from embedgate.storage.users import SqlUsers
from governing import Governing, resources_for, rules_in


@pytest.fixture
def users(database: Database) -> SqlUsers:
    return SqlUsers(database)


@pytest.fixture
def roles(database: Database) -> SqlRoles:
    return SqlRoles(database)


def test_every_field_can_be_set_changed_and_taken_away(users: SqlUsers, roles: SqlRoles) -> None:
    for name in ("a", "b"):
        roles.create(name)
    users.create("root", is_admin=True)
    user = users.create("ann", email="ann@host", tenant="acme", is_agent=True, roles=["b", "a", "b"])
    assert user.roles == ("a", "b")
    assert users.get("ann") == users.get(user.id) == user
    assert users.update("ann") == user
    changed = users.update(user.id, name="Anna", is_admin=True, is_disabled=True, email="", tenant="", is_agent=False)
    assert changed == replace(user, name="Anna", is_admin=True, is_disabled=True, email="", tenant=None, is_agent=False)
    assert users.get("Anna") == changed
    assert users.update("Anna", is_disabled=False, roles=()) == replace(changed, is_disabled=False, roles=())
    assert users.get("Anna").roles == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", " x"), ("name", "user_0123456789abcdef"), ("email", "no address"), ("email", "@"), ("tenant", "a\nb")],
)
def test_unfit_fields_are_refused_by_name(users: SqlUsers, field: str, value: str) -> None:
    users.create("ann")
    with pytest.raises(InvalidInput) as caught:
        users.update("ann", **{field: value})  # type: ignore[arg-type] # one of the text fields
    assert caught.value.param == field
    with pytest.raises(InvalidInput):
        users.create(**{"name": "bob", field: value})  # type: ignore[arg-type] # one of the text fields
    assert users.list().total == 1


def test_taken_names_and_what_is_not_there_are_refused(users: SqlUsers) -> None:
    users.create("ann")
    users.create("bob")
    with pytest.raises(Conflict, match="already a user named 'ann'"):
        users.update("bob", name="ann")
    with pytest.raises(UnknownEntity, match="no role 'chief'"):
        users.create("eve", roles=["chief"])
    with pytest.raises(UnknownEntity, match="no role"):
        users.give_role("ann", "\udcff")
    with pytest.raises(UnknownEntity, match="no user 'eve'"):
        users.delete("eve")
    assert [user.name for user in users.list().items] == ["ann", "bob"]


def test_one_enabled_administrator_is_always_left(users: SqlUsers) -> None:
    users.create("ann", is_admin=True)
    users.create("bob", is_admin=True)
    users.create("eve")
    users.update("ann", is_disabled=True)
    with pytest.raises(Conflict, match="'bob' is the last enabled administrator"):
        users.update("bob", is_disabled=True)
    with pytest.raises(Conflict, match="last enabled"):
        users.update("bob", is_admin=False)
    with pytest.raises(Conflict, match="last enabled"):
        users.delete("bob")
    users.delete("ann")  # disabled already
    users.delete("eve")
    assert [user.name for user in users.list().items] == ["bob"]


def test_two_who_delete_each_other_leave_one(users: SqlUsers, database: Database, tmp_path: Path) -> None:
    elsewhere = open_database(tmp_path)
    for attempt in range(5):
        names = (f"a{attempt}", f"b{attempt}")
        for name in names:
            users.create(name, is_admin=True)
        for user in users.list().items:
            if user.name not in names:
                users.delete(user.id)
        with ThreadPoolExecutor(2) as workers:
            deletions = [
                workers.submit(SqlUsers(connected).delete, name)
                for connected, name in zip((database, elsewhere), names, strict=True)
            ]
        assert [type(deletion.exception()) for deletion in deletions].count(Conflict) == 1
        assert users.list().total == 1
    elsewhere.close()


def test_a_deleted_user_leaves_nothing_that_works(users: SqlUsers, roles: SqlRoles, database: Database) -> None:
    roles.create("writers")
    ann, bob = users.create("ann", roles=["writers"]), users.create("bob", roles=["writers"])
    keys, sessions = SqlKeys(database, "eg"), SqlSessions(database)
    call = Governing(database, resources_for(Path("unused")))
    key, _ = keys.create("ann", "k")
    keys.rotate(key.id, overlap_s=60)
    kept, _ = keys.create("bob", "k")
    access = sessions.open(ann.id).access
    for subject in (Subject("key", key.id), Subject("user", ann.id), Subject("user", bob.id), Subject("user", "*")):
        call(set_limit, NewLimit(subject.kind, subject.id, max_parallel=1))
        call(set_budget, NewBudget(subject.kind, subject.id, "day", "1"))
    assert users.delete("ann") == ann
    assert [record.id for record in keys.list().items] == [kept.id]
    assert sessions.find(access) is None
    rules = rules_in(database)
    left = [Subject("user", "*"), Subject("user", bob.id)]
    assert [rule.subject for rule in rules.limits] == [rule.subject for rule in rules.budgets] == left
    assert roles.list().items[0].users == 1


def test_a_disabled_user_is_logged_out_for_good(users: SqlUsers, database: Database) -> None:
    ann, sessions = users.create("ann"), SqlSessions(database)
    tokens = sessions.open(ann.id)
    users.update("ann", is_disabled=True)
    users.update("ann", is_disabled=False)
    assert sessions.find(tokens.access) is None
    assert sessions.refresh(tokens.refresh).tokens is None


def test_roles_are_given_taken_counted_and_deleted(users: SqlUsers, roles: SqlRoles) -> None:
    roles.create("writers", "may write\nanything")
    roles.create("readers")
    with pytest.raises(Conflict, match="already a role 'readers'"):
        roles.create("readers")
    with pytest.raises(InvalidInput, match="zero byte"):
        roles.create("x", "a\0b")
    users.create("ann")
    users.create("bob")
    for name in ("ann", "bob"):
        assert users.give_role(name, "writers").roles == ("writers",)
    assert users.give_role("ann", "readers").roles == ("readers", "writers")
    assert users.give_role("ann", "readers").roles == ("readers", "writers")
    assert users.take_role("bob", "readers").roles == ("writers",)
    assert [(role.name, role.users) for role in roles.list(PageQuery(sort="-users")).items] == [
        ("writers", 2),
        ("readers", 1),
    ]
    assert [role.name for role in roles.list(PageQuery(search="ANYTHING")).items] == ["writers"]
    deleted = roles.delete("writers")
    assert (deleted.description, deleted.users) == ("may write\nanything", 2)
    assert [user.roles for user in users.list(PageQuery(sort="name")).items] == [("readers",), ()]
    with pytest.raises(UnknownEntity):
        roles.delete("writers")
