"""Deletes the limits, budgets and aliases of deleted keys, users and projects, in the same transaction."""

from embedgate.core.access import SubjectKind
from embedgate.govern.change import Change
from embedgate.storage import schema


def drop_rules_of(change: Change, kind: SubjectKind, *ids: str) -> None:
    """Delete the limits, budgets and aliases of subjects that are being deleted."""
    dropped = 0
    for table in (schema.limits, schema.budgets):
        of_them = (table.c.subject_kind == kind) & table.c.subject_id.in_(ids)
        dropped += change.connection.execute(table.delete().where(of_them)).rowcount
    if kind == "project":
        aliases = schema.aliases
        dropped += change.connection.execute(aliases.delete().where(aliases.c.project_id.in_(ids))).rowcount
    if dropped:
        change.rules_changed()
