"""Database schema: the tables, with portable column types. `migrations` creates them.

Money is whole picodollars, times are UTC milliseconds since 1970, durations are milliseconds. A change here needs
a new migration and a new `REVISION`.
"""

import sqlalchemy as sa

REVISION = "0012"
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
    sa.Column("email", sa.String(254), nullable=False, server_default=""),
    sa.Column("tenant", sa.String(64)),
    sa.Column("is_agent", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("password_hash", sa.Text),
)

roles = sa.Table(
    "roles",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
)

user_roles = sa.Table(
    "user_roles",
    metadata,
    sa.Column("user_id", sa.String(64), sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("role", sa.String(64), sa.ForeignKey("roles.name", ondelete="CASCADE"), primary_key=True),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
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
    sa.Column("project_id", sa.String(64), index=True),
    sa.Column("is_disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("expires_at_ms", sa.BigInteger),
    sa.Column("replaced_by", sa.String(64)),
    sa.Column("rotated_at_ms", sa.BigInteger),
    sa.Column("last_used_at_ms", sa.BigInteger),
    sa.Column("models", sa.Text),
)

# Logins of people. Only digests of the tokens are kept.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(64), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("access_digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("access_expires_at_ms", sa.BigInteger, nullable=False),
    sa.Column("refresh_digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("refresh_expires_at_ms", sa.BigInteger, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("is_enabled", sa.Boolean, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
)

limits = sa.Table(
    "limits",
    metadata,
    sa.Column("subject_kind", sa.String(16), primary_key=True),
    sa.Column("subject_id", sa.String(64), primary_key=True),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("max_parallel", sa.BigInteger),
    sa.Column("max_waiting", sa.BigInteger, nullable=False),
)

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("subject_kind", sa.String(16), primary_key=True),
    sa.Column("subject_id", sa.String(64), primary_key=True),
    sa.Column("period", sa.String(8), primary_key=True),
    sa.Column("cap_picodollars", sa.BigInteger, nullable=False),
)

prices = sa.Table(
    "prices",
    metadata,
    sa.Column("model", sa.String(255), primary_key=True),
    sa.Column("provider", sa.String(64), primary_key=True),
    sa.Column("from_ms", sa.BigInteger, primary_key=True),
    sa.Column("picodollars_per_token", sa.BigInteger, nullable=False),
)

providers = sa.Table(
    "providers",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("is_enabled", sa.Boolean),
    sa.Column("host", sa.String(64)),
    sa.Column("base_url", sa.Text),
    sa.Column("max_parallel", sa.BigInteger),
    sa.Column("batching", sa.Boolean),
    sa.Column("sealed_key", sa.LargeBinary),
    sa.Column("key_hint", sa.String(4), nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
    sa.Column("allow_private", sa.Boolean),
    sa.Column("models", sa.Text),
    sa.Column("weight", sa.BigInteger),
    sa.Column("precision", sa.String(32)),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("free", sa.Boolean),
    sa.Column("names_freely", sa.Boolean),
)

# A model at a provider. What is null is as the catalogue says, or not known.
added_models = sa.Table(
    "added_models",
    metadata,
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

# Other names of models. An empty project is everybody; `space` is that of the model when the alias was set.
aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("project_id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("model", sa.String(255), nullable=False),
    sa.Column("space", sa.String(255)),
)

# One row. Every change of policies, limits, budgets, prices, providers, models or aliases increments it, in the same
# transaction.
rules_revision = sa.Table(
    "rules_revision",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

# Append-only; `digest` covers the row and the digest before it, so that a change, a gap or a swap is detected.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("actor", sa.String(64), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("outcome", sa.String(64), nullable=False),
    sa.Column("request_id", sa.String(64), nullable=False),
    sa.Column("policies", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("previous", sa.LargeBinary(32), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Index(None, "at_ms"),
)

cleared_models = sa.Table(
    "cleared_models",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("times", sa.BigInteger, nullable=False),
)

# No foreign keys: a ledger entry must be writable even if its user is gone. Append-only: `digest` covers the entry and
# the digest before it (`storage.chain`), so what is to be corrected gets a further entry. A new column goes
# before `digest`, with an empty default.
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
    sa.Column("project_id", sa.String(64)),
    sa.Column("authenticate_ms", sa.Double, nullable=False, server_default="0"),
    sa.Column("admit_ms", sa.Double, nullable=False, server_default="0"),
    sa.Column("action", sa.String(16), nullable=False, server_default="embedding"),
    sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("estimated_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("estimated_picodollars", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("digest", sa.LargeBinary(32)),
    sa.Index(None, "at_ms"),
    sa.Index(None, "user_id", "at_ms"),
    sa.Index(None, "key_id", "at_ms"),
)
# One row: the last entry from before the ledger had a chain of digests.
ledger_chain = sa.Table(
    "ledger_chain",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("begins_after", sa.BigInteger, nullable=False),
)
# Most entries have no project; a partial index costs them nothing.
sa.Index(
    None,
    ledger.c.project_id,
    ledger.c.at_ms,
    sqlite_where=ledger.c.project_id.is_not(None),
)
