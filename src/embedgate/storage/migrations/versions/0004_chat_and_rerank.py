"""What a request was for, and the tokens that a chat model wrote."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """All entries from before are of embeddings."""
    op.add_column("ledger", sa.Column("action", sa.String(16), nullable=False, server_default="embedding"))
    op.add_column("ledger", sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default="0"))
