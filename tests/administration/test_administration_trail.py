"""Every change leaves one event, in the transaction of the change, and no secret in it."""

import inspect
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from embedgate.administration import Administration, Stores
from embedgate.administration.trail import differences
from embedgate.core.access import AuditEvent, ProjectRecord
from embedgate.core.errors import Conflict, InternalError, UnknownEntity
from embedgate.storage.database import DATABASE_FILE, Database, open_database

PASSWORD = "correct horse battery"
IMPORTED = "eg_0123456789ab4def8123456789abcdef"
Happened = Callable[[], list[AuditEvent]]


@dataclass
class Desk:
    """An administration, and what was made in it before."""

    it: Administration
    user: str = ""
    key: str = ""
    project: str = ""
    secrets: list[str] = field(default_factory=list)


@pytest.fixture
def desk(administration: Administration) -> Desk:
    it = administration
    user = it.users.create("ann", email="ann@example.org")
    it.users.set_password("ann", PASSWORD)
    it.roles.create("analyst")
    project = it.projects.create("search")
    key = it.keys.create("ann", "ci")
    return Desk(it, user.id, key.record.id, project.id, [PASSWORD, key.secret, "ann@example.org"])


CHANGES: dict[str, tuple[Callable[[Desk], Any], str, dict[str, object]]] = {
    "users.create": (
        lambda d: d.it.users.create("bob", is_admin=True, roles=["analyst"], email="bob@example.org"),
        "?",
        {"name": "bob", "is_admin": True, "roles": "analyst"},
    ),
    "users.update": (
        lambda d: d.it.users.update("ann", is_disabled=True, email="a@b", roles=["analyst"], name="anna"),
        "{user}",
        {"name": "anna", "is_disabled": True, "email": "changed", "roles": "analyst"},
    ),
    "users.give_role": (lambda d: d.it.users.give_role("ann", "analyst"), "{user}", {"role": "analyst"}),
    "users.take_role": (lambda d: d.it.users.take_role("ann", "analyst"), "{user}", {"role": "analyst"}),
    "users.set_password": (lambda d: d.it.users.set_password("ann", PASSWORD + "!"), "{user}", {}),
    "users.delete": (lambda d: d.it.users.delete("ann"), "{user}", {"name": "ann"}),
    "roles.create": (lambda d: d.it.roles.create("engineer", "builds"), "engineer", {}),
    "roles.delete": (lambda d: d.it.roles.delete("analyst"), "analyst", {"users": 0}),
    "projects.create": (lambda d: d.it.projects.create("ads"), "?", {"name": "ads"}),
    "projects.update": (
        lambda d: d.it.projects.update("search", is_disabled=True),
        "{project}",
        {"is_disabled": True},
    ),
    "projects.delete": (lambda d: d.it.projects.delete("search"), "{project}", {"name": "search"}),
    "keys.create": (
        lambda d: d.secrets.append(d.it.keys.create("ann", "b", project="search", expires_at_ms=2**42).secret),
        "?",
        {"user": "{user}", "name": "b", "project": "{project}", "expires_at_ms": 2**42},
    ),
    "keys.import": (
        lambda d: d.it.keys.take_over("ann", "old", IMPORTED),
        "?",
        {"user": "{user}", "name": "old", "project": None, "expires_at_ms": None},
    ),
    "keys.rotate": (
        lambda d: d.secrets.append(d.it.keys.rotate(d.key, overlap_s=60).secret),
        "{key}",
        {"overlap_s": 60},
    ),
    "keys.revoke": (lambda d: d.it.keys.revoke(d.key), "{key}", {}),
    "keys.disable": (lambda d: d.it.keys.disable(d.key), "{key}", {}),
    "keys.enable": (lambda d: d.it.keys.enable(d.key), "{key}", {}),
    "keys.expire": (lambda d: d.it.keys.expire(d.key, 7), "{key}", {"expires_at_ms": 7}),
    "keys.delete": (lambda d: d.it.keys.delete(d.key), "{key}", {"user": "{user}", "name": "ci"}),
}
READS = {
    *(f"{subject}.list" for subject in ("users", "roles", "projects", "keys")),
    *(f"{subject}.get" for subject in ("users", "projects", "keys")),
}
OTHER_NAMES = {"keys.take_over": "keys.import"}
SUBJECTS = ("users", "roles", "projects", "keys")


@pytest.mark.parametrize("action", CHANGES)
def test_every_change_leaves_one_event(desk: Desk, happened: Happened, action: str) -> None:
    change, target, detail = CHANGES[action]
    before = happened()
    change(desk)
    event = happened()[-1]
    assert len(happened()) == len(before) + 1
    assert (event.kind, event.actor, event.request_id, event.outcome) == ("change", "user_admin", "req_1", "ok")
    assert event.action == action
    assert target == "?" or event.target == target.format(**vars(desk))
    expected = {name: value.format(**vars(desk)) if isinstance(value, str) else value for name, value in detail.items()}
    assert {name: "?" if expected.get(name) == "?" else said for name, said in event.detail.items()} == expected


def test_every_method_that_changes_something_is_tried_above(administration: Administration) -> None:
    methods = {
        f"{subject}.{name}"
        for subject in SUBJECTS
        for name, _ in inspect.getmembers(getattr(administration, subject), inspect.ismethod)
        if not name.startswith("_")
    }
    assert {OTHER_NAMES.get(name, name) for name in methods - READS} == set(CHANGES)


def test_no_secret_comes_into_the_trail(desk: Desk, happened: Happened, tmp_path: Path) -> None:
    for action in ("keys.create", "keys.import", "keys.rotate", "users.set_password"):
        CHANGES[action][0](desk)
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as connection:
        trail = repr(connection.execute("SELECT * FROM audit").fetchall())
    secrets = [*desk.secrets, IMPORTED]
    assert len(secrets) == 6
    assert [secret for secret in secrets if secret in trail] == []


def test_a_change_that_fails_leaves_no_event(desk: Desk, happened: Happened) -> None:
    before = happened()
    with pytest.raises(Conflict):
        desk.it.users.create("ann")
    with pytest.raises(UnknownEntity):
        desk.it.keys.revoke("key_0")
    with pytest.raises(UnknownEntity):
        desk.it.users.update("ann", name="anna", roles=["nothing"])
    assert happened() == before
    assert desk.it.users.get(desk.user).name == "ann"


def test_a_change_without_an_event_does_not_happen(desk: Desk, database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("DROP TABLE audit"))
    with pytest.raises(InternalError):
        desk.it.keys.revoke(desk.key)
    with pytest.raises(InternalError):
        desk.it.users.set_password("ann", PASSWORD + "!")
    assert desk.it.keys.get(desk.key).revoked_at_ms is None


def test_a_change_that_does_not_say_what_it_was_is_undone(stores: Stores, administration: Administration) -> None:
    trail = administration.users._trail
    with pytest.raises(InternalError, match="things.change"), trail.change("things.change"):
        stores.users.create("ann")
    with pytest.raises(UnknownEntity):
        stores.users.get("ann")


def test_other_connections_see_a_change_and_its_event_together(stores: Stores, tmp_path: Path) -> None:
    other = open_database(tmp_path)
    try:
        with stores.database.together(), stores.database.together():
            stores.users.create("ann")
            assert stores.users.list().total == 1
            with other.read() as connection:
                assert connection.execute(sa.text("SELECT count(*) FROM users")).scalar_one() == 0
        with other.read() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM users")).scalar_one() == 1
    finally:
        other.close()


def test_nobody_waits_for_a_password_to_be_hashed(stores: Stores, tmp_path: Path) -> None:
    """The transaction begins with the first write, not with the change."""
    other = open_database(tmp_path, busy_timeout_s=0)
    try:
        with stores.database.together():
            with other.write() as connection:
                connection.execute(sa.text("SELECT 1"))
            stores.users.create("ann")
            with pytest.raises(InternalError), other.write():
                pass
    finally:
        other.close()


def test_differences_are_the_changed_fields_with_what_they_are_now() -> None:
    before = ProjectRecord("project_1", "a", 5)
    assert differences(before, before) == {}
    assert differences(before, ProjectRecord("project_1", "b", 5, True)) == {"name": "b", "is_disabled": True}
    assert differences(before, ProjectRecord("project_1", "b", 5), unsaid=("name",)) == {"name": "changed"}
