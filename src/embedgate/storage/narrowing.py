"""Which rows of a table are meant, by equal fields and a span of time. Knows no table and no filter by name."""

import dataclasses
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from embedgate.storage.fields import MAX_INTEGER, check_number, findable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_TIMES = ("since_ms", "until_ms")


def narrowed(query: sa.Select[Any], table: sa.Table, filter_by: "DataclassInstance") -> sa.Select[Any]:
    """The query, for the rows that agree with every field of `filter_by` that is not None.

    `since_ms` is the first moment that counts, `until_ms` the first that no longer does; every other field is named
    as its column. Raises InvalidInput for a time that is none.
    """
    for field in dataclasses.fields(filter_by):
        value = getattr(filter_by, field.name)
        if value is None:
            continue
        if field.name in _TIMES:
            check_number(value, f"time {field.name}", param=field.name, minimum=0, maximum=MAX_INTEGER)
            at_ms = table.c.at_ms
            query = query.where(at_ms >= value if field.name == "since_ms" else at_ms < value)
        else:
            query = query.where(table.c[field.name] == findable(value))
    return query
