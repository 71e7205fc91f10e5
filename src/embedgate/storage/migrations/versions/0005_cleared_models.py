"""Models whose cached vectors were cleared, and how often."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """None was."""
    op.create_table(
        "cleared_models",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("times", sa.BigInteger, nullable=False),
    )
