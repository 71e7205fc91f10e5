"""A digest for each ledger entry that is written from now on, and where these begin."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Entries from before have no digest."""
    op.add_column("ledger", sa.Column("digest", sa.LargeBinary(32)))
    op.create_table(
        "ledger_chain",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("begins_after", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO ledger_chain (id, begins_after) SELECT 1, coalesce(max(id), 0) FROM ledger")
