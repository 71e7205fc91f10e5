"""The number that says whether the rules have changed since they were read. Knows no rule."""

import sqlalchemy as sa

from embedgate.storage import schema

_ONLY_ROW = schema.rules_revision.c.id == 1


def read_revision(connection: sa.Connection) -> int:
    """The revision that the transaction sees."""
    revision: int = connection.execute(sa.select(schema.rules_revision.c.revision).where(_ONLY_ROW)).scalar_one()
    return revision


def count_up(connection: sa.Connection) -> None:
    """Part of every change of a rule, in its transaction, so that no revision ever names two states."""
    table = schema.rules_revision
    connection.execute(table.update().where(_ONLY_ROW).values(revision=table.c.revision + 1))
