"""Limits and budgets of keys, users and projects that are deleted through the older stores: they go with them."""

import sqlalchemy as sa

from embedgate.core.access import SubjectKind
from embedgate.storage import schema
from embedgate.storage.revision import count_up


def drop_rules_of(connection: sa.Connection, kind: SubjectKind, *ids: str) -> None:
    """Take away the limits and budgets of subjects that are being deleted, as part of that transaction."""
    dropped = 0
    for table in (schema.limits, schema.budgets):
        of_them = (table.c.subject_kind == kind) & table.c.subject_id.in_(ids)
        dropped += connection.execute(table.delete().where(of_them)).rowcount
    if dropped:
        count_up(connection)
