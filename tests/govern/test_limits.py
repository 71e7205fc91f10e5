"""Limits: who is meant, what may be set, and what a change leaves behind."""

from typing import get_args

import msgspec
import pytest

from embedgate.core.access import LimitRule, Subject, SubjectKind
from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.govern import keys, limits, projects, users
from embedgate.govern.keys import KeyToMake, Rotation, WhichKey
from embedgate.govern.limits import Limit, LimitQuery, NewLimit, WhichLimit
from embedgate.govern.projects import NewProject
from embedgate.govern.users import NewUser
from governing import Governing


def limit(kind: SubjectKind, subject: str, **numbers: int) -> Limit:
    """A limit as it is answered, with null for what is not given."""
    unset = {"requests_per_minute": None, "tokens_per_minute": None, "max_parallel": None, "max_waiting": 0}
    return msgspec.convert({"kind": kind, "subject": subject, **unset, **numbers}, Limit)


def test_users_and_projects_are_meant_by_name_or_id_and_keys_by_id_or_secret(call: Governing) -> None:
    user = call(users.create_user, NewUser("ann"))
    project = call(projects.create_project, NewProject("search"))
    key = call(keys.create_key, KeyToMake("ann", "ci"))
    meant: list[tuple[SubjectKind, str, str]] = [
        ("user", "ann", user.id),
        ("user", user.id, user.id),
        ("project", "search", project.id),
        ("project", project.id, project.id),
        ("key", key.key.id, key.key.id),
        ("key", key.secret, key.key.id),
        ("user", "*", "*"),
        ("key", "*", "*"),
    ]
    for kind, named, subject_id in meant:
        made = call(limits.set_limit, NewLimit(kind, named, max_parallel=2, max_waiting=1))
        assert made == limit(kind, subject_id, max_parallel=2, max_waiting=1)
        assert call.every(limits.list_limits, LimitQuery()) == [made]
        call(limits.delete_limit, WhichLimit(kind, named))
        assert call.every(limits.list_limits, LimitQuery()) == []


def test_the_old_secret_of_a_key_means_the_key(call: Governing) -> None:
    call(users.create_user, NewUser("ann"))
    made = call(keys.create_key, KeyToMake("ann", "ci"))
    call(keys.rotate_key, Rotation(made.key.id, overlap_s=60))
    old = call(keys.show_key, WhichKey(made.secret))
    assert old.id != made.key.id
    for named in (made.secret, old.id):
        assert call(limits.set_limit, NewLimit("key", named, max_parallel=1)).subject == made.key.id


def test_whoever_is_not_there_gets_no_limit(call: Governing) -> None:
    kinds: tuple[SubjectKind, ...] = get_args(SubjectKind)
    for kind in kinds:
        for named in ("nobody", "\udcff"):
            with pytest.raises(UnknownEntity, match=rf"no (such )?{kind}"):
                call(limits.set_limit, NewLimit(kind, named, max_parallel=1))
        with pytest.raises(UnknownEntity, match="no limit"):
            call(limits.delete_limit, WhichLimit(kind, "*"))
    user = call(users.create_user, NewUser("ann"))
    with pytest.raises(UnknownEntity):
        call(limits.set_limit, NewLimit("key", user.id, max_parallel=1))
    with pytest.raises(msgspec.ValidationError, match="planet"):
        limits.set_limit.make({"kind": "planet", "subject": "*", "max_parallel": 1})


def test_a_limit_replaces_the_one_before(call: Governing) -> None:
    call(limits.set_limit, NewLimit("user", "*", requests_per_minute=60))
    call(limits.set_limit, NewLimit("user", "*", tokens_per_minute=1_000, max_parallel=2, max_waiting=3))
    with call.invocation().read() as reading:
        rule = LimitRule(Subject("user", "*"), tokens_per_minute=1_000, max_parallel=2, max_waiting=3)
        assert limits.read_limits(reading.connection) == (rule,)


@pytest.mark.parametrize(
    ("new", "param"),
    [
        (NewLimit("user", "*"), "requests_per_minute"),
        (NewLimit("user", "*", max_waiting=5), "requests_per_minute"),
        (NewLimit("user", "*", requests_per_minute=0), "requests_per_minute"),
        (NewLimit("user", "*", tokens_per_minute=-1), "tokens_per_minute"),
        (NewLimit("user", "*", tokens_per_minute=2**63), "tokens_per_minute"),
        (NewLimit("user", "*", max_parallel=0), "max_parallel"),
        (NewLimit("user", "*", max_parallel=1, max_waiting=-1), "max_waiting"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(call: Governing, new: NewLimit, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        call(limits.set_limit, new)
    assert caught.value.param == param
    assert call.every(limits.list_limits, LimitQuery()) == []


def test_each_change_leaves_one_event_and_touches_the_rules_alone(call: Governing) -> None:
    user = call(users.create_user, NewUser("ann"))
    before = len(call.events())
    invocation = call.invocation()
    limits.set_limit.run(invocation, NewLimit("user", "ann", tokens_per_minute=9))
    limits.set_limit.run(invocation, NewLimit("user", "ann", tokens_per_minute=8))
    limits.delete_limit.run(invocation, WhichLimit("user", "ann"))
    assert (invocation.touched.rules, invocation.touched.any_key) == (True, False)
    made, changed, deleted = call.events()[before:]
    assert [event.action for event in (made, changed, deleted)] == ["limits.set", "limits.set", "limits.delete"]
    assert {event.target for event in (made, changed, deleted)} == {user.id}
    assert made.detail == {
        "subject_kind": "user",
        "requests_per_minute": None,
        "tokens_per_minute": 9,
        "max_parallel": None,
        "max_waiting": 0,
        "is_new": True,
    }
    assert changed.detail == {**made.detail, "tokens_per_minute": 8, "is_new": False}
    assert deleted.detail == {"subject_kind": "user"}
