"""Tokens of a request that were not embedded for it: from the cache, or from another request's call."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Entries from before had none."""
    op.add_column("ledger", sa.Column("reused_tokens", sa.BigInteger, nullable=False, server_default="0"))
