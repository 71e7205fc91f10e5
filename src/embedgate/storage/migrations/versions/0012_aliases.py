"""Other names of models, for everybody or for one project."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """No model had another name before."""
    op.create_table(
        "aliases",
        sa.Column("project_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("space", sa.String(255)),
    )
