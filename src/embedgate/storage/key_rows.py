"""Rows of the table of keys with all that belongs to them: what requests and administration read of keys.

A rotated key keeps its id, and so its limits, its budgets and what it has spent. Its old secret moves to a row of its
own that names the key in `replaced_by`. Such a row adds an end of its own; all else is read from the key, so that
whatever stops the key stops its old secrets.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import sqlalchemy as sa

from embedgate.core.access import KeyRecord
from embedgate.storage import schema

Column = sa.ColumnElement[Any]

_users, _projects = schema.users, schema.projects
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
        _key.c.models,
    )
    .join_from(_secret, _key, _key.c.id == sa.func.coalesce(_secret.c.replaced_by, _secret.c.id))
    .join(_users, _users.c.id == _key.c.user_id)
    .outerjoin(_projects, _projects.c.id == _key.c.project_id)
)
"""Every secret with its key, user and project."""


def key_records(connection: sa.Connection, rows: Iterable[sa.Row[Any]]) -> list[KeyRecord]:
    """The records of rows of `KEYS`, with the roles of their users."""
    keys = [KeyRecord(**{**row._mapping, "models": models_of(row)}) for row in rows]
    roles = roles_of(connection, [key.user_id for key in keys])
    return [replace(key, roles=roles.get(key.user_id, ())) for key in keys]


def models_of(row: sa.Row[Any]) -> tuple[str, ...] | None:
    """The only models that a key may use; None: all that policies permit."""
    return None if row.models is None else msgspec.json.decode(row.models, type=tuple[str, ...])


def roles_of(connection: sa.Connection, user_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The roles of these users, sorted; users without roles are omitted. At most a page of users."""
    table = schema.user_roles
    query = sa.select(table.c.user_id, table.c.role).where(table.c.user_id.in_(set(user_ids))).order_by(table.c.role)
    found: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for user_id, role in connection.execute(query):
        found[user_id] += (role,)
    return dict(found)
