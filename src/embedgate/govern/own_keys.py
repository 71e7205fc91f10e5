"""Keys that users make, rotate and revoke for themselves, within the bounds that the settings `keys.own` set.

A key that is somebody else's is as unknown here as one that does not exist. Only who has logged in with a password
makes keys, and rotates others than the one that asks: a key that has leaked must not get at other secrets, which may
be for more and outlive its revocation.
"""

from datetime import datetime, timedelta
from typing import Annotated

import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.errors import Conflict, InvalidInput, NotPermitted, UnknownEntity
from embedgate.govern.aliases import model_ids
from embedgate.govern.change import Change, Invocation, Reading
from embedgate.govern.keys import (
    Expiry,
    Key,
    KeyToMake,
    KeyWithSecret,
    OwnKeyQuery,
    Rotation,
    WhichKey,
    add_key,
    find_key,
    note_made,
    page_of_keys,
    rotate,
    stop,
)
from embedgate.govern.limits import NewLimit, put_limit
from embedgate.govern.lists import Listed
from embedgate.govern.logins import ACCESS_PREFIX
from embedgate.govern.operation import Facts, NoParameters, changes, reads, runs
from embedgate.govern.projects import find_project
from embedgate.govern.users import find_user
from embedgate.govern.values import moment
from embedgate.settings import OwnKeySettings
from embedgate.storage import schema

_EVERY = "*"
_DAY_MS = 86_400_000
_TABLE = schema.keys


class OwnKeyToMake(Struct, forbid_unknown_fields=True):
    """A key for yourself. What is absent is as your administrator's bounds say."""

    name: str
    project: Annotated[str | None, Meta(description="Bill it under this project, by name or id.")] = None
    expires_at: Expiry = None
    models: Annotated[
        tuple[str, ...] | None, Meta(description="The only models that it may use; absent: all that it may.")
    ] = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class OwnKeyRules(Struct, frozen=True):
    """The bounds within which you may make keys, and how many you may still make. Null: no bound of that sort."""

    max_active: Annotated[int, Meta(description="Keys in use at once; 0: you make none.")]
    active: Annotated[int, Meta(description="Your keys that are in use.")]
    max_per_day: Annotated[int, Meta(description="Keys that may be made within 24 hours.")]
    made_today: Annotated[int, Meta(description="Your keys that were made within the last 24 hours.")]
    max_days: Annotated[int, Meta(description="Longest life of one, in days.")]
    projects: Annotated[tuple[str, ...], Meta(description="What they may be billed under; `*`: every project.")]
    models: Annotated[tuple[str, ...] | None, Meta(description="The models that they may use at most.")]
    requests_per_minute: int | None
    tokens_per_minute: int | None


@reads("me.keys", "GET", "/api/me/keys", Facts("listMyKeys", who="user"))
def list_my_keys(reading: Reading, query: OwnKeyQuery) -> Listed[Key]:
    """List your keys."""
    return page_of_keys(reading, query, user_id=find_user(reading, reading.actor.id).id)


@reads("me.key_bounds", "GET", "/api/me/key-bounds", Facts("showMyKeyBounds", who="user"))
def show_my_bounds(reading: Reading, _: NoParameters) -> OwnKeyRules:
    """Show what keys you may make."""
    bounds = reading.resources.own_keys
    active, made_today = _numbers(reading)
    return OwnKeyRules(
        max_active=bounds.max_active,
        active=active,
        max_per_day=bounds.max_per_day,
        made_today=made_today,
        max_days=bounds.max_days,
        projects=bounds.projects,
        models=_most_models(reading, bounds),
        requests_per_minute=bounds.requests_per_minute,
        tokens_per_minute=bounds.tokens_per_minute,
    )


@runs(
    "me.create_key",
    "POST",
    "/api/me/keys",
    Facts(
        "createMyKey",
        status=201,
        who="user",
        example={"name": "laptop", "expires_at": "2027-01-01T00:00:00Z"},
        raises=(NotPermitted, UnknownEntity),
    ),
    is_change=True,
)
def create_my_key(invocation: Invocation, new: OwnKeyToMake) -> KeyWithSecret:
    """Make a key for yourself.

    For who has logged in, and as far as your administrator allows. The answer has the secret; nobody can show it again.
    """
    if not _has_logged_in(invocation):
        raise NotPermitted("Keys are made by who has logged in with a password, not with another key. Log in first.")
    with invocation.change() as change:
        return _make(change, new, change.resources.own_keys)


@runs(
    "me.rotate_key",
    "POST",
    "/api/me/keys/{key}/rotate",
    Facts("rotateMyKey", who="user", example={"overlap_s": 3600}, raises=(NotPermitted,)),
    is_change=True,
)
def rotate_my_key(invocation: Invocation, rotation: Rotation) -> KeyWithSecret:
    """Give a key of yours a new secret.

    Its id, limits, budgets and all it has spent stay. A key does so for itself alone; for any, log in.
    """
    with invocation.change() as change:
        found, secret = _mine(change, rotation.key), invocation.secret
        if secret and not _has_logged_in(invocation) and find_key(change, secret).id != found.id:
            raise NotPermitted(
                "A key gets a new secret for itself alone. Log in with a password to rotate another one."
            )
        return rotate(change, found, rotation.overlap_s)


@changes("me.revoke_key", "POST", "/api/me/keys/{key}/revoke", Facts("revokeMyKey", who="user"))
def revoke_my_key(change: Change, which: WhichKey) -> Key:
    """Revoke a key of yours.

    From the moment of the answer on it is refused here, and so are its old secrets.
    """
    found = _mine(change, which.key)
    stop(change, found)
    change.note("keys.revoke", found.id)
    return find_key(change, found.id)


def _has_logged_in(invocation: Invocation) -> bool:
    return invocation.secret.startswith(ACCESS_PREFIX)


def _make(change: Change, new: OwnKeyToMake, bounds: OwnKeySettings) -> KeyWithSecret:
    _check_numbers(change, bounds)
    user = find_user(change, change.actor.id)
    project = _project(change, new.project, bounds)
    latest = moment(change.now_ms) + timedelta(days=bounds.max_days)
    made = add_key(
        change,
        KeyToMake(
            user.id,
            new.name,
            project,
            _end(new.expires_at, latest),
            _models(change, new.models, bounds, project),
        ),
    )
    note_made(change, made.key)
    requests = _within(new.requests_per_minute, bounds.requests_per_minute, "requests_per_minute")
    tokens = _within(new.tokens_per_minute, bounds.tokens_per_minute, "tokens_per_minute")
    if requests is not None or tokens is not None:
        put_limit(change, NewLimit("key", made.key.id, requests_per_minute=requests, tokens_per_minute=tokens))
    return made


def _check_numbers(change: Change, bounds: OwnKeySettings) -> None:
    if bounds.max_active == 0:
        raise NotPermitted("Users make no keys here. Ask your administrator for a key, or to set keys.own.max_active.")
    active, made_today = _numbers(change)
    if active >= bounds.max_active:
        raise Conflict(
            f"You have {active} keys in use, and may have {bounds.max_active}. Revoke one that you do not need, or ask "
            "your administrator.",
            param="name",
        )
    if made_today >= bounds.max_per_day:
        raise Conflict(
            f"{made_today} keys of yours were made within 24 hours; {bounds.max_per_day} may be. Use one of them, or "
            "wait.",
            param="name",
        )


def _numbers(reading: Reading) -> tuple[int, int]:
    """How many keys of the caller are in use, and how many were made within a day. Old secrets do not count."""
    is_mine = (_TABLE.c.user_id == reading.actor.id) & _TABLE.c.replaced_by.is_(None)
    ends_later = _TABLE.c.expires_at_ms.is_(None) | (_TABLE.c.expires_at_ms > reading.now_ms)
    in_use = sa.select(sa.func.count()).select_from(_TABLE).where(is_mine, _TABLE.c.revoked_at_ms.is_(None), ends_later)
    made = sa.select(sa.func.count()).select_from(_TABLE)
    made = made.where(is_mine, _TABLE.c.created_at_ms > reading.now_ms - _DAY_MS)
    return reading.connection.execute(in_use).scalar_one(), reading.connection.execute(made).scalar_one()


def _end(wanted: datetime | None, latest: datetime) -> datetime:
    if wanted is not None and wanted > latest:
        raise InvalidInput(
            f"The key may end at {latest.isoformat(timespec='seconds')} at the latest. Give an earlier time, or none.",
            param="expires_at",
        )
    return wanted or latest


def _project(change: Change, wanted: str | None, bounds: OwnKeySettings) -> str | None:
    if wanted is None:
        return None
    try:
        found = find_project(change, wanted)
    except UnknownEntity:
        found = None
    allowed = bounds.projects
    if found is None or not {_EVERY, found.id, found.name} & set(allowed):
        names = ", ".join(allowed) if allowed else "none"
        raise NotPermitted(f"You cannot make keys for the project {wanted[:100]!r}; those you can: {names}.")
    return found.id


def _most_models(reading: Reading, bounds: OwnKeySettings) -> tuple[str, ...] | None:
    return None if bounds.models is None else _ids(reading, bounds.models)


def _models(
    change: Change, wanted: tuple[str, ...] | None, bounds: OwnKeySettings, project_id: str | None
) -> tuple[str, ...] | None:
    most = _most_models(change, bounds)
    if wanted is None:
        return most
    ids = _ids(change, wanted, project_id)
    if most is not None and (refused := [model for model in ids if model not in most]):
        raise NotPermitted(f"You cannot make keys for {refused[0][:200]}; those you can: {', '.join(most) or 'none'}.")
    return ids


def _ids(reading: Reading, names: tuple[str, ...], project_id: str | None = None) -> tuple[str, ...]:
    """The ids of models by id, alias or bare name, each once; a name that no model has stays as it is."""
    return tuple(sorted(set(model_ids(reading, names, project_id))))


def _within(wanted: int | None, most: int | None, name: str) -> int | None:
    if wanted is not None and most is not None and wanted > most:
        raise InvalidInput(f"The limit {name} of a key of yours is at most {most}; {wanted} was asked.", param=name)
    return most if wanted is None else wanted


def _mine(change: Change, named: str) -> Key:
    """The key of the caller that is named. Raises UnknownEntity, the same for another's as for none, or Conflict."""
    try:
        return find_key(change, named, user_id=change.actor.id)
    except UnknownEntity as error:
        raise UnknownEntity("You have no such key. List your keys to see their ids.", param="key") from error


OPERATIONS = (list_my_keys, show_my_bounds, create_my_key, rotate_my_key, revoke_my_key)
