"""What a user may do about itself, and that it gets at nothing of anybody else."""

import pytest

from embedgate.core.errors import UnknownEntity
from embedgate.govern import keys, projects, users
from embedgate.govern.change import Actor
from embedgate.govern.keys import KeyWithSecret, OwnKeyQuery, Rotation
from embedgate.govern.me import show_me
from embedgate.govern.operation import NoParameters
from embedgate.govern.own_keys import list_my_keys, rotate_my_key
from governing import Governing


@pytest.fixture
def made(call: Governing) -> dict[str, KeyWithSecret]:
    """A key each of `ann` and `bob`."""
    call(projects.create_project, projects.NewProject("search"))
    made = {}
    for name in ("ann", "bob"):
        call(users.create_user, users.NewUser(name))
        made[name] = call(keys.create_key, keys.KeyToMake(name, f"key of {name}", project="search"))
    return made


@pytest.fixture
def me(call: Governing, made: dict[str, KeyWithSecret]) -> Governing:
    """Runs operations as ann."""
    return call.with_actor(Actor(made["ann"].key.user_id))


def test_a_user_sees_itself_and_its_keys(me: Governing, made: dict[str, KeyWithSecret]) -> None:
    assert me(show_me, NoParameters()).name == "ann"
    assert me.every(list_my_keys, OwnKeyQuery()) == [made["ann"].key]
    assert me(list_my_keys, OwnKeyQuery(state="revoked")).total == 0


def test_a_user_rotates_its_own_key_and_no_other(
    call: Governing, me: Governing, made: dict[str, KeyWithSecret]
) -> None:
    mine, other = made["ann"], made["bob"]
    rotated = me(rotate_my_key, Rotation(mine.key.id, 60))
    assert rotated.key.id == mine.key.id
    assert rotated.secret not in repr(rotated)
    assert call(keys.show_key, keys.WhichKey(rotated.secret)).id == mine.key.id
    assert me.last_event() == ("keys.rotate", mine.key.id, {"overlap_s": 60})
    n_events = len(me.events())
    messages = []
    for not_mine in (other.key.id, other.secret, "key_0123456789abcdef", ""):
        with pytest.raises(UnknownEntity) as raised:
            me(rotate_my_key, Rotation(not_mine))
        messages.append(raised.value.message)
    assert len(set(messages)) == 1
    assert len(me.events()) == n_events
    assert call(keys.show_key, keys.WhichKey(other.secret)).id == other.key.id


def test_a_user_who_is_no_more_sees_nothing(call: Governing, me: Governing) -> None:
    call(users.delete_user, users.WhichUser("ann"))
    with pytest.raises(UnknownEntity):
        me(show_me, NoParameters())
    with pytest.raises(UnknownEntity):
        me(list_my_keys, OwnKeyQuery())
