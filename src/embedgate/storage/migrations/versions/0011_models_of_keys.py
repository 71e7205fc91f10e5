"""The models that a key may use, where it may not use all that policies permit."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Keys from before are restricted by policies alone."""
    op.add_column("keys", sa.Column("models", sa.Text))
