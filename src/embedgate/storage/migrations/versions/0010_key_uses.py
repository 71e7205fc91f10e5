"""When each secret of a key was last used, and when a key was last rotated."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """The ledger names keys, not secrets: what was used before the newest secret was made, the one before it was."""
    op.add_column("keys", sa.Column("rotated_at_ms", sa.BigInteger))
    op.add_column("keys", sa.Column("last_used_at_ms", sa.BigInteger))
    op.execute(
        "UPDATE keys SET rotated_at_ms = created_at_ms "
        "WHERE id IN (SELECT replaced_by FROM keys WHERE replaced_by IS NOT NULL)"
    )
    op.execute(
        "UPDATE keys SET last_used_at_ms = (SELECT max(ledger.at_ms) FROM ledger "
        "JOIN keys AS whole_key ON whole_key.id = ledger.key_id WHERE ledger.key_id = keys.replaced_by "
        "AND ledger.at_ms >= keys.created_at_ms AND ledger.at_ms < whole_key.created_at_ms) "
        "WHERE replaced_by IS NOT NULL"
    )
