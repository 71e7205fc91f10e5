"""Names in the database like one that is not there, for messages."""

import sqlalchemy as sa

from embedgate.core.errors import UnknownEntity
from embedgate.core.near_names import MAX_COMPARED, did_you_mean
from embedgate.govern.change import Reading
from embedgate.storage import schema

_LONGEST_COMPARED = 30
"""A key is longer: what may be one, with a letter wrong, is compared with no name."""


def near_name(reading: Reading, column: sa.Column[str], name: str, where: sa.ColumnElement[bool] | None = None) -> str:
    """`Did you mean ann? `, with a space behind it; empty if no name of the column is like it.

    where: which rows may be named. Of many names, the first ones are compared.
    """
    known = sa.select(column).where(sa.true() if where is None else where).distinct().order_by(column)
    return did_you_mean(name, reading.connection.execute(known.limit(MAX_COMPARED)).scalars())


def no_such_key(reading: Reading, named: str, whose: sa.ColumnElement[bool]) -> UnknownEntity:
    """The error for a key that there is not; it does not repeat what was given, which may be a secret.

    whose: which keys may be named.
    """
    near = near_name(reading, schema.keys.c.name, named, whose) if len(named) <= _LONGEST_COMPARED else ""
    return UnknownEntity(
        f"There is no such key. {near}Give the name or the id of a key, or the whole key.", param="key"
    )
