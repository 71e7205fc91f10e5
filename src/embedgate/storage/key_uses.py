"""When each secret of a key was last used: noted as requests are accepted, stored every few seconds, read with keys.

The ledger names the key, not which of its secrets came with a request, and has no request that was refused after its
key was accepted. So a use is noted by the digest of the secret.
"""

import sqlalchemy as sa

from embedgate.storage import schema
from embedgate.storage.database import Database

_TABLE = schema.keys
_IN_LEDGER = (
    sa.select(sa.func.max(schema.ledger.c.at_ms))
    .where(schema.ledger.c.key_id == _TABLE.c.id)
    .correlate(_TABLE)
    .scalar_subquery()
)
_STORED = _TABLE.c.last_used_at_ms
_HAS_ONE_SECRET = _TABLE.c.replaced_by.is_(None) & _TABLE.c.rotated_at_ms.is_(None)
LAST_USED_AT_MS = sa.case(
    (_HAS_ONE_SECRET & (_STORED.is_(None) | (_IN_LEDGER > _STORED)), _IN_LEDGER),
    else_=_STORED,
)
"""Of a row of the table of keys. A key that was never rotated has all that the ledger has, which is never late."""
_STORE = (
    sa.update(_TABLE)
    .where(_TABLE.c.digest == sa.bindparam("used"))
    .where(sa.or_(_STORED.is_(None), sa.bindparam("at_ms") > _STORED))
    .values(last_used_at_ms=sa.bindparam("at_ms"))
)


def store_uses(database: Database, uses: dict[bytes, int]) -> None:
    """Store when secrets were last used, by digest; an earlier time than the stored one changes nothing.

    Raises InternalError if the database fails.
    """
    rows = [{"used": used, "at_ms": uses[used]} for used in sorted(uses)]  # in one order, so that none waits in a ring
    with database.write() as connection:
        connection.execute(_STORE, rows)
