"""Models that were added at run time, and what else can be set of a provider there."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Nothing was added or set before; what is absent is as the settings file says."""
    op.create_table(
        "added_models",
        sa.Column("model", sa.String(255), primary_key=True),
        sa.Column("provider", sa.String(64), primary_key=True),
        sa.Column("upstream_model", sa.Text, nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("dim", sa.BigInteger),
        sa.Column("max_input_tokens", sa.BigInteger),
        sa.Column("max_output_tokens", sa.BigInteger),
        sa.Column("space", sa.String(255)),
        sa.Column("is_matryoshka", sa.Boolean, nullable=False),
        sa.Column("is_normalised", sa.Boolean, nullable=False),
        sa.Column("query_prefix", sa.Text),
        sa.Column("document_prefix", sa.Text),
        sa.Column("picodollars_per_token", sa.BigInteger),
        sa.Column("output_picodollars_per_token", sa.BigInteger),
        sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
    )
    op.add_column("providers", sa.Column("models", sa.Text))
    op.add_column("providers", sa.Column("weight", sa.BigInteger))
    op.add_column("providers", sa.Column("precision", sa.String(32)))
    op.add_column("providers", sa.Column("requests_per_minute", sa.BigInteger))
    op.add_column("providers", sa.Column("tokens_per_minute", sa.BigInteger))
    op.add_column("providers", sa.Column("free", sa.Boolean))
    op.add_column("providers", sa.Column("names_freely", sa.Boolean))
