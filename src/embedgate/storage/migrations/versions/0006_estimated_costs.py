"""How much of what a request used and cost is estimated, because no provider has confirmed it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Of entries from before, only whether something was estimated is known, not how much: they have none here."""
    op.add_column("ledger", sa.Column("estimated_tokens", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("ledger", sa.Column("estimated_picodollars", sa.BigInteger, nullable=False, server_default="0"))
