"""Keys that users make for themselves: within the bounds, and nobody gets at another's."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from embedgate.core.errors import Conflict, GatewayError, InvalidInput, NotPermitted, UnknownEntity
from embedgate.govern import keys, limits, projects, users
from embedgate.govern.change import Actor
from embedgate.govern.keys import KeyWithSecret, Rotation, WhichKey
from embedgate.govern.logins import ACCESS_PREFIX
from embedgate.govern.operation import NoParameters
from embedgate.govern.own_keys import (
    OwnKeyToMake,
    create_my_key,
    revoke_my_key,
    rotate_my_key,
    show_my_bounds,
)
from embedgate.govern.values import moment
from embedgate.settings import OwnKeySettings
from governing import Clock, Governing

SMALL, LARGE = "openai/text-embedding-3-small", "openai/text-embedding-3-large"


@pytest.fixture
def logged_in(call: Governing) -> Callable[..., Governing]:
    """Runs operations as a user who has logged in, under bounds."""

    def as_user(name: str = "ann", **bounds: object) -> Governing:
        user = next((each for each in call.every(users.list_users, users.UserQuery()) if each.name == name), None)
        user = user or call(users.create_user, users.NewUser(name))
        own = OwnKeySettings(**{"max_active": 2, **bounds})
        me = call.with_actor(Actor(user.id)).with_secret(f"{ACCESS_PREFIX}token")
        return replace(me, resources=replace(call.resources, own_keys=own))

    return as_user


def made(me: Governing, name: str = "mine", **more: object) -> KeyWithSecret:
    return me(create_my_key, OwnKeyToMake(name, **more))  # type: ignore[arg-type]  # of any field


def refusal(me: Governing, name: str = "mine", **more: object) -> GatewayError:
    n_events = len(me.events())
    with pytest.raises(GatewayError) as raised:
        made(me, name, **more)
    assert len(me.events()) == n_events
    return raised.value


def test_a_user_makes_rotates_and_revokes_a_key(logged_in: Callable[..., Governing], clock: Clock) -> None:
    me = logged_in(max_days=30)
    mine = made(me)
    assert mine.secret not in repr(mine)
    assert (mine.key.user_name, mine.key.expires_at) == ("ann", moment(clock.ms()) + timedelta(days=30))
    action, target, detail = me.last_event()
    assert (action, target, detail["name"]) == ("keys.create", mine.key.id, "mine")
    assert me.events()[-1].actor == me.actor.id
    assert me(rotate_my_key, Rotation("mine", 60)).key.id == mine.key.id
    assert me(revoke_my_key, WhichKey("mine")).state == "revoked"
    assert me.last_event()[:2] == ("keys.revoke", mine.key.id)


def test_users_make_no_keys_unless_that_is_set_and_none_with_a_key(logged_in: Callable[..., Governing]) -> None:
    assert "keys.own.max_active" in refusal(logged_in(max_active=0)).message
    with_a_key = logged_in().with_secret("eg_0123456789ab4def8123456789abcdef")
    assert isinstance(refusal(with_a_key), NotPermitted)


def test_keys_in_use_and_keys_of_a_day_are_bounded(logged_in: Callable[..., Governing], clock: Clock) -> None:
    me = logged_in(max_active=2, max_per_day=3, max_days=1)
    for name in ("a", "b"):
        made(me, name)
    assert isinstance(refusal(me), Conflict)
    me(rotate_my_key, Rotation("a", 60))  # an old secret is no key of its own
    me(revoke_my_key, WhichKey("a"))
    made(me, "c")
    me(revoke_my_key, WhichKey("b"))
    assert "within 24 hours" in refusal(me).message
    bounds = me(show_my_bounds, NoParameters())
    assert (bounds.active, bounds.max_active, bounds.made_today, bounds.max_per_day) == (1, 2, 3, 3)
    clock.now_s += 86_401  # the others have expired
    assert made(me, "d").key.state == "active"
    assert me(show_my_bounds, NoParameters()).active == 1


def test_life_project_models_and_limits_are_those_allowed_at_most(
    call: Governing, logged_in: Callable[..., Governing], clock: Clock
) -> None:
    for name in ("search", "secret"):
        call(projects.create_project, projects.NewProject(name))
    me = logged_in(
        max_active=9, max_days=10, projects=("search",), models=(SMALL,), requests_per_minute=60, tokens_per_minute=900
    )
    late = moment(clock.ms()) + timedelta(days=11)
    soon = moment(clock.ms()) + timedelta(days=9)
    assert isinstance(refusal(me, expires_at=late), InvalidInput)
    assert refusal(me, project="secret").message == refusal(me, project="secreT").message.replace("secreT", "secret")
    assert isinstance(refusal(me, models=(SMALL, LARGE)), NotPermitted)
    assert isinstance(refusal(me, requests_per_minute=61), InvalidInput)
    key = made(
        me, "less", expires_at=soon, project="search", models=("text-embedding-3-small",), tokens_per_minute=5
    ).key
    assert (key.expires_at, key.project_name, key.models) == (soon, "search", (SMALL,))
    most = made(me, "most").key
    assert (most.project_name, most.models) == (None, (SMALL,))
    rules = {rule.subject: rule for rule in call(limits.list_limits, limits.LimitQuery()).items}
    assert (rules[key.id].requests_per_minute, rules[key.id].tokens_per_minute) == (60, 5)
    assert (rules[most.id].requests_per_minute, rules[most.id].tokens_per_minute) == (60, 900)
    free = logged_in(max_active=9, projects=("*",))
    assert made(free, "any", project="secret", models=(LARGE,)).key.models == (LARGE,)


def test_nobody_gets_at_the_key_of_another(call: Governing, logged_in: Callable[..., Governing]) -> None:
    ann, bob = logged_in("ann"), logged_in("bob")
    theirs = made(bob, "laptop")
    made(ann, "phone")
    n_events, messages = len(ann.events()), set()
    for named in ("laptop", theirs.key.id, theirs.secret, "key_0123456789abcdef", "no such"):
        with pytest.raises(UnknownEntity) as raised:
            ann(rotate_my_key, Rotation(named))
        messages.add(raised.value.message)
        with pytest.raises(UnknownEntity) as raised:
            ann(revoke_my_key, WhichKey(named))
        messages.add(raised.value.message)
    assert (len(messages), len(ann.events())) == (1, n_events)
    assert call(keys.show_key, WhichKey(theirs.secret)).state == "active"
    made(ann, "laptop")  # of the same name as another's
    assert ann(revoke_my_key, WhichKey("laptop")).user_name == "ann"
    assert bob(rotate_my_key, Rotation("laptop")).key.id == theirs.key.id
