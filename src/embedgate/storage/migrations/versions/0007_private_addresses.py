"""Whether the stored address of a provider may be one of this machine or its network."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Of those from before it is not known; they go on as they were."""
    op.add_column("providers", sa.Column("allow_private", sa.Boolean))
