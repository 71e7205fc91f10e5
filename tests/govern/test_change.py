"""Transactions of administration: a change and its events are kept both, or neither."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from embedgate.core.errors import InternalError, UnknownEntity
from embedgate.govern import keys, users
from embedgate.govern.change import differences
from embedgate.govern.projects import Project
from embedgate.govern.values import moment
from embedgate.storage import schema
from embedgate.storage.database import Database, open_database
from governing import Governing

COUNT = sa.select(sa.func.count()).select_from(schema.users)


def test_a_change_without_an_event_does_not_happen(call: Governing, database: Database) -> None:
    call(users.create_user, users.NewUser("ann"))
    key = call(keys.create_key, keys.KeyToMake("ann", "ci")).key
    with database.write() as connection:
        connection.execute(sa.text("DROP TABLE audit"))
    with pytest.raises(InternalError):
        call(keys.revoke_key, keys.WhichKey(key.id))
    with pytest.raises(InternalError):
        call(users.set_password, users.NewPassword("ann", "correct horse battery"))
    assert call(keys.show_key, keys.WhichKey(key.id)).revoked_at is None
    assert not call(users.show_user, users.WhichUser("ann")).has_password


def test_a_change_that_does_not_say_what_it_was_is_undone(call: Governing) -> None:
    invocation = call.invocation()
    with pytest.raises(InternalError, match="did not say what it changed"), invocation.change() as change:
        users.add_user(change, users.NewUser("ann"))
        change.touched.users.add("user_1")
    with pytest.raises(UnknownEntity):
        call(users.show_user, users.WhichUser("ann"))
    assert not invocation.touched.any_key


def test_other_connections_see_a_change_and_its_event_together(call: Governing, tmp_path: Path) -> None:
    other = open_database(tmp_path)
    try:
        with call.invocation().change() as change:
            users.add_user(change, users.NewUser("ann"))
            change.note("users.create", "user_1")
            assert change.connection.execute(COUNT).scalar_one() == 1
            with other.read() as connection:
                assert connection.execute(COUNT).scalar_one() == 0
        with other.read() as connection:
            assert connection.execute(COUNT).scalar_one() == 1
            assert connection.execute(sa.select(schema.audit.c.action)).scalars().all() == ["users.create"]
    finally:
        other.close()


def test_other_writers_are_locked_out_from_the_first_statement_on(call: Governing, tmp_path: Path) -> None:
    other = open_database(tmp_path, busy_timeout_s=0)
    try:
        with call.invocation().change() as change:
            with other.write() as connection:
                connection.execute(sa.text("SELECT 1"))
            users.add_user(change, users.NewUser("ann"))
            change.is_noted = True
            with pytest.raises(InternalError), other.write():
                pass
    finally:
        other.close()


def test_differences_are_the_changed_fields_with_what_they_are_now() -> None:
    before = Project("project_1", "a", is_disabled=False, created_at=moment(5))
    renamed = Project("project_1", "b", is_disabled=False, created_at=moment(5))
    disabled = Project("project_1", "b", is_disabled=True, created_at=moment(5))
    assert differences(before, before) == {}
    assert differences(before, disabled) == {"name": "b", "is_disabled": True}
    assert differences(before, renamed, unsaid=("name",)) == {"name": "changed"}
