"""What a user may do about itself, and that it gets at nothing of anybody else."""

from collections.abc import Callable

import pytest

from embedgate.administration import Administration, NewKey
from embedgate.core.access import AuditEvent
from embedgate.core.errors import UnknownEntity


@pytest.fixture
def keys(administration: Administration, spend: Callable[..., None]) -> dict[str, NewKey]:
    """A key each of `ann` and `bob`, which have both been used: by ann once, by bob twice."""
    administration.projects.create("search")
    made = {}
    for name, n in (("ann", 1), ("bob", 2)):
        administration.users.create(name)
        made[name] = administration.keys.create(name, f"key of {name}", project="search")
        key = made[name].record
        for i in range(n):
            spend(request_id=f"{name}{i}", user_id=key.user_id, key_id=key.id, project_id=key.project_id, model="m")
    return made


def test_a_user_sees_itself_and_its_keys(administration: Administration, keys: dict[str, NewKey]) -> None:
    mine = keys["ann"].record
    me = administration.me(mine.user_id)
    assert me.profile().name == "ann"
    assert [key.id for key in me.keys().items] == [mine.id]
    assert me.keys(state="revoked").total == 0


def test_a_user_rotates_its_own_key_and_no_other(
    administration: Administration, keys: dict[str, NewKey], happened: Callable[[], list[AuditEvent]]
) -> None:
    me = administration.me(keys["ann"].record.user_id)
    rotated = me.rotate_key(keys["ann"].record.id, overlap_s=60)
    assert rotated.record.id == keys["ann"].record.id
    assert rotated.secret not in repr(rotated)
    assert administration.keys.get(rotated.secret).id == rotated.record.id
    n_events = len(happened())
    messages = []
    for not_mine in (keys["bob"].record.id, keys["bob"].secret, "key_0123456789abcdef", ""):
        with pytest.raises(UnknownEntity) as raised:
            me.rotate_key(not_mine)
        messages.append(raised.value.message)
    assert len(set(messages)) == 1
    assert len(happened()) == n_events
    assert administration.keys.get(keys["bob"].secret).id == keys["bob"].record.id


def test_a_user_who_is_no_more_sees_nothing(administration: Administration, keys: dict[str, NewKey]) -> None:
    me = administration.me(keys["ann"].record.user_id)
    administration.users.delete("ann")
    for see in (me.profile, me.keys):
        with pytest.raises(UnknownEntity):
            see()
