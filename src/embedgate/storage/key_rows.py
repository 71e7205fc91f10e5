"""How a row of the table of keys becomes a KeyRecord, for look-up and management alike.

A rotated key keeps its id, and so its limits, its budgets and what it has spent. Its old secret moves to a row of its
own that names the key in `replaced_by`. Such a row adds an end of its own; all else is read from the key, so that
whatever stops the key stops its old secrets.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, get_args

import sqlalchemy as sa

from embedgate.core.access import KeyRecord
from embedgate.core.errors import InvalidInput
from embedgate.storage import schema
from embedgate.storage.paging import Column, Listing
from embedgate.storage.roles import roles_of

KeyState = Literal["active", "disabled", "expired", "revoked"]

_users, _projects, _ledger = schema.users, schema.projects, schema.ledger
_secret = schema.keys
_key = schema.keys.alias("whole_key")


def _earlier(one: Column, other: Column) -> Column:
    """The earlier of two times, either of which may be absent."""
    return sa.case((sa.or_(other.is_(None), one < other), one), else_=other)


_revoked_at_ms = sa.func.coalesce(_secret.c.revoked_at_ms, _key.c.revoked_at_ms)
_expires_at_ms = _earlier(_secret.c.expires_at_ms, _key.c.expires_at_ms)
_is_disabled = sa.or_(_secret.c.is_disabled, _key.c.is_disabled)
_project_is_disabled = sa.func.coalesce(_projects.c.is_disabled, sa.false())

KEYS = (
    sa.select(
        _secret.c.id,
        _key.c.user_id,
        _users.c.name.label("user_name"),
        _key.c.name,
        _secret.c.hint,
        _users.c.is_admin,
        _secret.c.created_at_ms,
        _revoked_at_ms.label("revoked_at_ms"),
        _users.c.is_disabled.label("user_is_disabled"),
        _is_disabled.label("is_disabled"),
        _expires_at_ms.label("expires_at_ms"),
        _secret.c.replaced_by,
        _key.c.project_id,
        _projects.c.name.label("project_name"),
        _project_is_disabled.label("project_is_disabled"),
        _users.c.email,
        _users.c.tenant,
        _users.c.is_agent,
    )
    .join_from(_secret, _key, _key.c.id == sa.func.coalesce(_secret.c.replaced_by, _secret.c.id))
    .join(_users, _users.c.id == _key.c.user_id)
    .outerjoin(_projects, _projects.c.id == _key.c.project_id)
)
"""Every secret with its key, user and project."""

_last_used_at_ms = (
    sa.select(sa.func.max(_ledger.c.at_ms)).where(_ledger.c.key_id == _secret.c.id).correlate(_secret).scalar_subquery()
)
USED_KEYS = KEYS.add_columns(_last_used_at_ms.label("last_used_at_ms"))
"""As `KEYS`, and when each was last used: a look into an index of the ledger for each row."""

KEY_LISTING = Listing(
    fields={
        "created_at_ms": _secret.c.created_at_ms,
        "name": sa.func.lower(_key.c.name),
        "user_name": sa.func.lower(_users.c.name),
        "project_name": sa.func.lower(_projects.c.name),
        "expires_at_ms": _expires_at_ms,
        "last_used_at_ms": _last_used_at_ms,
    },
    unique=_secret.c.id,
    searched=(_key.c.name, _secret.c.id, _secret.c.hint, _users.c.name),
)


def of_user(user_id: str) -> sa.ColumnElement[bool]:
    """The keys of a user."""
    return _secret.c.user_id == user_id  # the same for a key and its old secrets, and indexed


def of_project(project_id: str) -> sa.ColumnElement[bool]:
    """The keys that are billed under a project."""
    return _key.c.project_id == project_id


def in_state(state: KeyState, now_ms: int) -> sa.ColumnElement[bool]:
    """The keys in a state. Each is in one: revoked comes before expired, expired before disabled.

    A key counts as disabled too if its user or its project is. Raises InvalidInput if there is no such state.
    """
    if state not in get_args(KeyState):
        raise InvalidInput(f"The state is {state!r}; it must be one of {', '.join(get_args(KeyState))}.", param="state")
    is_revoked = _revoked_at_ms.is_not(None)
    has_expired = sa.and_(_expires_at_ms.is_not(None), _expires_at_ms <= now_ms)
    is_stopped = sa.or_(_is_disabled, _users.c.is_disabled, _project_is_disabled)
    conditions = {
        "revoked": is_revoked,
        "expired": ~is_revoked & has_expired,
        "disabled": ~is_revoked & ~has_expired & is_stopped,
        "active": ~is_revoked & ~has_expired & ~is_stopped,
    }
    return conditions[state]


def key_records(connection: sa.Connection, rows: Iterable[sa.Row[Any]]) -> list[KeyRecord]:
    """The records of rows of `KEYS` or `USED_KEYS`, with the roles of their users."""
    keys = [KeyRecord(**row._mapping) for row in rows]
    roles = roles_of(connection, [key.user_id for key in keys])
    return [replace(key, roles=roles.get(key.user_id, ())) for key in keys]
