"""Revision of the rules: a counter that changes with every rule."""

import sqlalchemy as sa

from embedgate.storage import schema

_ONLY_ROW = schema.rules_revision.c.id == 1


def read_revision(connection: sa.Connection) -> int:
    """The revision in this transaction."""
    revision: int = connection.execute(sa.select(schema.rules_revision.c.revision).where(_ONLY_ROW)).scalar_one()
    return revision


def count_up(connection: sa.Connection) -> None:
    """Increment the revision, in the transaction of every rule change, so that no revision names two states."""
    table = schema.rules_revision
    connection.execute(table.update().where(_ONLY_ROW).values(revision=table.c.revision + 1))
