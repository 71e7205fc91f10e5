"""Models whose cached vectors were cleared: how often, which is part of their revision.

Keys of the cache are digests, so that the vectors of one model cannot be picked out and deleted. A new revision of the
model leaves them behind instead, in every gateway on the data folder; they make room as all that is not asked for.
"""

import sqlalchemy as sa

from embedgate.govern.change import Change
from embedgate.storage import schema

_TABLE = schema.cleared_models


def read_cleared(connection: sa.Connection) -> tuple[tuple[str, int], ...]:
    """The ids of models that were cleared, and how often."""
    rows = connection.execute(sa.select(_TABLE.c.model, _TABLE.c.times).order_by(_TABLE.c.model))
    return tuple((row.model, row.times) for row in rows)


def clear_model(change: Change, model_id: str) -> None:
    """Begin a new revision of a model. From the answer on none of its cached vectors is found."""
    ours = _TABLE.c.model == model_id
    if change.connection.execute(_TABLE.update().where(ours).values(times=_TABLE.c.times + 1)).rowcount == 0:
        change.connection.execute(_TABLE.insert().values(model=model_id, times=1))
    change.rules_changed()
    change.note("cache.clear", model_id)
