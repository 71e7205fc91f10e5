"""The tables: users, keys, ledger. Column types are portable; how tables come to be is in `migrations`.

Money is whole picodollars, times are UTC milliseconds since 1970, durations are milliseconds. A change here needs
a new migration and a new `REVISION`.
"""

import sqlalchemy as sa

REVISION = "0002"
"""The newest migration, which this program reads and writes."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("is_admin", sa.Boolean, nullable=False),
    sa.Column("is_disabled", sa.Boolean, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(64), sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("hint", sa.String(4), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_at_ms", sa.BigInteger),
)

# No foreign keys: a line of the ledger is a fact about the past and must be writable whatever became of its user.
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("request_id", sa.String(64), nullable=False, unique=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("dialect", sa.String(16), nullable=False),
    sa.Column("user_id", sa.String(64), nullable=False),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("end_user", sa.Text),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("space", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("upstream_model", sa.Text, nullable=False),
    sa.Column("items", sa.BigInteger, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("reused_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tokens_estimated", sa.Boolean, nullable=False),
    sa.Column("price_picodollars", sa.BigInteger, nullable=False),
    sa.Column("price_as_of", sa.String(32)),
    sa.Column("cost_picodollars", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.String(64), nullable=False),
    sa.Column("total_ms", sa.Double, nullable=False),
    sa.Column("upstream_ms", sa.Double, nullable=False),
    sa.Index(None, "at_ms"),
    sa.Index(None, "user_id", "at_ms"),
    sa.Index(None, "key_id", "at_ms"),
)
