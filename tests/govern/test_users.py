"""Users, their roles, and the administrator that must always be left."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import sqlalchemy as sa

from embedgate.core.access import Subject
from embedgate.core.errors import Conflict, InvalidCredentials, InvalidInput, UnknownEntity
from embedgate.govern import keys, roles
from embedgate.govern.change import Plain, Touched
from embedgate.govern.logins import Login, Refresh, Session, log_in, refresh, user_of_login
from embedgate.govern.operation import Operation
from embedgate.govern.roles import NewRole, RoleQuery, WhichRole
from embedgate.govern.users import (
    NewPassword,
    NewUser,
    RoleOfUser,
    User,
    UserChange,
    UserQuery,
    WhichUser,
    change_user,
    create_user,
    delete_user,
    give_role,
    list_users,
    set_password,
    show_user,
    take_role,
)
from embedgate.storage import schema
from embedgate.storage.database import Database, open_database
from governing import Governing

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R")
PASSWORD = "correct horse battery"


def made(call: Governing, name: str, *, is_admin: bool = False, roles: tuple[str, ...] = ()) -> User:
    return call(create_user, NewUser(name, is_admin=is_admin, roles=roles))


def shown(call: Governing, name: str) -> User:
    return call(show_user, WhichUser(name))


def names(call: Governing) -> list[str]:
    """Of all users, sorted: several are made at the same moment."""
    return [user.name for user in call.every(list_users, UserQuery(sort="name"))]


def logged_in(call: Governing, name: str) -> Session:
    call(set_password, NewPassword(name, PASSWORD))
    return call(log_in, Login(name, PASSWORD))


def test_every_field_can_be_set_changed_and_taken_away(call: Governing) -> None:
    for name in ("a", "b"):
        call(roles.create_role, NewRole(name))
    made(call, "root", is_admin=True)
    new = NewUser("ann", email="ann@host", tenant="acme", is_agent=True, roles=("b", "a", "b"))
    user = call(create_user, new)
    assert user.roles == ("a", "b")
    assert shown(call, "ann") == shown(call, user.id) == user
    assert call(change_user, UserChange("ann")) == user
    wanted = UserChange(user.id, "Anna", is_admin=True, is_disabled=True, email="", tenant="", is_agent=False)
    changed = call(change_user, wanted)
    assert changed == msgspec.structs.replace(
        user, name="Anna", is_admin=True, is_disabled=True, email="", tenant=None, is_agent=False
    )
    assert shown(call, "Anna") == changed
    enabled = call(change_user, UserChange("Anna", is_disabled=False, roles=()))
    assert enabled == msgspec.structs.replace(changed, is_disabled=False, roles=())
    assert shown(call, "Anna").roles == ()


@pytest.mark.parametrize("name", ["", " ", "a" * 65, "a\nb", " a", "\udcff", "user_0123456789abcdef"])
def test_names_that_would_confuse_are_refused(call: Governing, name: str) -> None:
    with pytest.raises(InvalidInput):
        made(call, name)
    assert names(call) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", " x"), ("name", "user_0123456789abcdef"), ("email", "no address"), ("email", "@"), ("tenant", "a\nb")],
)
def test_unfit_fields_are_refused_by_name(call: Governing, field: str, value: str) -> None:
    made(call, "ann")
    with pytest.raises(InvalidInput) as caught:
        call(change_user, msgspec.structs.replace(UserChange("ann"), **{field: value}))
    assert caught.value.param == field
    with pytest.raises(InvalidInput):
        call(create_user, msgspec.structs.replace(NewUser("bob"), **{field: value}))
    assert names(call) == ["ann"]


def test_taken_names_and_what_is_not_there_are_refused(call: Governing) -> None:
    for name in ("zoë", "bob"):
        made(call, name)
    with pytest.raises(Conflict, match="already a user named 'zoë'"):
        made(call, "zoë")
    with pytest.raises(Conflict, match="already a user named 'zoë'"):
        call(change_user, UserChange("bob", "zoë"))
    with pytest.raises(UnknownEntity, match="no role 'chief'"):
        made(call, "eve", roles=("chief",))
    with pytest.raises(UnknownEntity, match="no role"):
        call(give_role, RoleOfUser("zoë", "\udcff"))
    with pytest.raises(UnknownEntity, match="no user 'eve'"):
        call(delete_user, WhichUser("eve"))
    assert names(call) == ["bob", "zoë"]


def test_one_enabled_administrator_is_always_left(call: Governing) -> None:
    made(call, "ann", is_admin=True)
    made(call, "bob", is_admin=True)
    made(call, "eve")
    call(change_user, UserChange("ann", is_disabled=True))
    with pytest.raises(Conflict, match="'bob' is the last enabled administrator"):
        call(change_user, UserChange("bob", is_disabled=True))
    with pytest.raises(Conflict, match="last enabled"):
        call(change_user, UserChange("bob", is_admin=False))
    with pytest.raises(Conflict, match="last enabled"):
        call(delete_user, WhichUser("bob"))
    call(delete_user, WhichUser("ann"))  # disabled already
    call(delete_user, WhichUser("eve"))
    assert names(call) == ["bob"]


def test_two_who_delete_each_other_leave_one(call: Governing, tmp_path: Path) -> None:
    elsewhere = open_database(tmp_path)
    both = (call, replace(call, database=elsewhere))
    for attempt in range(5):
        pair = (f"a{attempt}", f"b{attempt}")
        for name in pair:
            made(call, name, is_admin=True)
        for user in call.every(list_users, UserQuery()):
            if user.name not in pair:
                call(delete_user, WhichUser(user.id))
        with ThreadPoolExecutor(2) as workers:
            deletions = [
                workers.submit(each, delete_user, WhichUser(name)) for each, name in zip(both, pair, strict=True)
            ]
        assert [type(deletion.exception()) for deletion in deletions].count(Conflict) == 1
        assert len(names(call)) == 1
    elsewhere.close()


def test_a_deleted_user_leaves_nothing_that_works(call: Governing, database: Database) -> None:
    call(roles.create_role, NewRole("writers"))
    ann, bob = made(call, "ann", roles=("writers",)), made(call, "bob", roles=("writers",))
    key = call(keys.create_key, keys.KeyToMake("ann", "k")).key
    call(keys.rotate_key, keys.Rotation(key.id, 60))
    kept = call(keys.create_key, keys.KeyToMake("bob", "k")).key
    session = logged_in(call, "ann")
    for subject in (Subject("key", key.id), Subject("user", ann.id), Subject("user", bob.id), Subject("user", "*")):
        add_rules(database, subject)
    invocation = call.invocation()
    delete_user.run(invocation, WhichUser("ann"))
    assert invocation.touched.rules
    assert call.every(keys.list_keys, keys.KeyQuery()) == [kept]
    with pytest.raises(InvalidCredentials):
        user_of_login(call.invocation(), session.access_token)
    left = [("user", "*"), ("user", bob.id)]
    assert subjects_with_rules(database, schema.limits) == subjects_with_rules(database, schema.budgets) == left
    assert call.every(roles.list_roles, RoleQuery())[0].users == 1


def add_rules(database: Database, subject: Subject) -> None:
    """A limit and a budget."""
    of_it = {"subject_kind": subject.kind, "subject_id": subject.id}
    with database.write() as connection:
        connection.execute(schema.limits.insert().values(**of_it, max_parallel=1, max_waiting=0))
        connection.execute(schema.budgets.insert().values(**of_it, period="day", cap_picodollars=1))


def subjects_with_rules(database: Database, table: sa.Table) -> list[tuple[str, str]]:
    with database.read() as connection:
        rows = connection.execute(table.select()).all()
    return sorted((row.subject_kind, row.subject_id) for row in rows)


def test_a_disabled_user_is_logged_out_for_good(call: Governing) -> None:
    made(call, "ann")
    session = logged_in(call, "ann")
    call(change_user, UserChange("ann", is_disabled=True))
    call(change_user, UserChange("ann", is_disabled=False))
    with pytest.raises(InvalidCredentials):
        user_of_login(call.invocation(), session.access_token)
    with pytest.raises(InvalidCredentials):
        call(refresh, Refresh(session.refresh_token))


def test_roles_are_given_taken_counted_and_deleted(call: Governing) -> None:
    call(roles.create_role, NewRole("writers", "may write\nanything"))
    call(roles.create_role, NewRole("readers"))
    with pytest.raises(Conflict, match="already a role 'readers'"):
        call(roles.create_role, NewRole("readers"))
    with pytest.raises(InvalidInput, match="zero byte"):
        call(roles.create_role, NewRole("x", "a\0b"))
    for name in ("ann", "bob"):
        made(call, name)
        assert call(give_role, RoleOfUser(name, "writers")).roles == ("writers",)
    assert call(give_role, RoleOfUser("ann", "readers")).roles == ("readers", "writers")
    assert call(give_role, RoleOfUser("ann", "readers")).roles == ("readers", "writers")
    assert call(take_role, RoleOfUser("bob", "readers")).roles == ("writers",)
    by_users = call(roles.list_roles, RoleQuery(sort="-users")).items
    assert [(role.name, role.users) for role in by_users] == [("writers", 2), ("readers", 1)]
    found = call(roles.list_roles, RoleQuery(search="ANYTHING")).items
    assert [(role.name, role.description) for role in found] == [("writers", "may write\nanything")]
    call(roles.delete_role, WhichRole("writers"))
    assert [user.roles for user in call(list_users, UserQuery(sort="name")).items] == [("readers",), ()]
    with pytest.raises(UnknownEntity):
        call(roles.delete_role, WhichRole("writers"))


def test_every_change_leaves_one_event_and_touches_what_it_changed(call: Governing) -> None:
    call(roles.create_role, NewRole("analyst"))
    assert call.last_event() == ("roles.create", "analyst", {})
    new = NewUser("ann", is_admin=True, roles=("analyst",), email="ann@example.org")
    ann = call(create_user, new)
    facts: dict[str, Plain] = {"name": "ann", "is_admin": True, "roles": "analyst"}
    assert call.last_event() == ("users.create", ann.id, facts)
    made(call, "root", is_admin=True)
    role, changed = RoleOfUser("ann", "analyst"), UserChange("ann", "anna", is_disabled=True, email="a@b", roles=())
    check_event(call, give_role, role, ("users.give_role", ann.id, {"role": "analyst"}))
    check_event(call, take_role, role, ("users.take_role", ann.id, {"role": "analyst"}))
    call(give_role, role)
    check_event(call, set_password, NewPassword("ann", PASSWORD), ("users.set_password", ann.id, {}), is_touched=False)
    differences: dict[str, Plain] = {"name": "anna", "is_disabled": True, "email": "changed", "roles": ""}
    check_event(call, change_user, changed, ("users.update", ann.id, differences))
    check_event(call, delete_user, WhichUser("anna"), ("users.delete", ann.id, {"name": "anna"}))
    call(roles.delete_role, WhichRole("analyst"))
    assert call.last_event() == ("roles.delete", "analyst", {"users": 0})
    trail = repr(call.events())
    assert not [secret for secret in (PASSWORD, "ann@example.org", "a@b") if secret in trail]


def check_event(
    call: Governing,
    operation: Operation[P, R],
    parameters: P,
    expected: tuple[str, str, dict[str, Plain]],
    *,
    is_touched: bool = True,
) -> None:
    """That one event is left, and only what is cached of this user's keys is touched, or nothing."""
    n_events, invocation = len(call.events()), call.invocation()
    operation.run(invocation, parameters)
    (event,) = call.events()[n_events:]
    assert (event.action, event.target, event.detail) == expected
    assert (event.kind, event.actor, event.request_id, event.outcome) == ("change", "user_admin", "req_1", "ok")
    assert invocation.touched == Touched(users={event.target} if is_touched else set())


def test_a_change_that_fails_leaves_no_event(call: Governing) -> None:
    user = made(call, "ann")
    before = call.events()
    with pytest.raises(Conflict):
        made(call, "ann")
    with pytest.raises(UnknownEntity):
        call(change_user, UserChange("ann", "anna", roles=("nothing",)))
    assert call.events() == before
    assert shown(call, user.id).name == "ann"
