"""Limits and budgets of keys, users and projects that are deleted: they go with them, in the same transaction."""

from embedgate.core.access import SubjectKind
from embedgate.govern.change import Change
from embedgate.storage import schema


def drop_rules_of(change: Change, kind: SubjectKind, *ids: str) -> None:
    """Take away the limits and budgets of subjects that are being deleted."""
    dropped = 0
    for table in (schema.limits, schema.budgets):
        of_them = (table.c.subject_kind == kind) & table.c.subject_id.in_(ids)
        dropped += change.connection.execute(table.delete().where(of_them)).rowcount
    if dropped:
        change.rules_changed()
