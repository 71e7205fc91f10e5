"""Projects, roles, logins, policies, limits, budgets, prices, providers, audit; who a ledger entry is billed to."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

FIRST_POLICY_ID = "permit-everything"
FIRST_POLICY = '@id("permit-everything")\npermit (principal, action, resource);\n'


def upgrade() -> None:
    """Users and keys go on as they were; one policy permits everything, as before there were any."""
    _extend_users_and_keys()
    _create_people()
    _create_policies()
    _create_rules()
    _create_audit()
    _extend_ledger()


def _extend_users_and_keys() -> None:
    op.add_column("users", sa.Column("email", sa.String(254), nullable=False, server_default=""))
    op.add_column("users", sa.Column("tenant", sa.String(64)))
    op.add_column("users", sa.Column("is_agent", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("users", sa.Column("password_hash", sa.Text))
    op.add_column("keys", sa.Column("project_id", sa.String(64)))
    op.add_column("keys", sa.Column("is_disabled", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("keys", sa.Column("expires_at_ms", sa.BigInteger))
    op.add_column("keys", sa.Column("replaced_by", sa.String(64)))
    op.create_index("ix_keys_project_id", "keys", ["project_id"])


def _create_people() -> None:
    op.create_table(
        "roles",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_roles"),
    )
    op.create_table(
        "user_roles",
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_user_roles_user_id_users", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["role"], ["roles.name"], name="fk_user_roles_role_roles", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "role", name="pk_user_roles"),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("is_disabled", sa.Boolean, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("access_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("access_expires_at_ms", sa.BigInteger, nullable=False),
        sa.Column("refresh_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("refresh_expires_at_ms", sa.BigInteger, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sessions_user_id_users", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("access_digest", name="uq_sessions_access_digest"),
        sa.UniqueConstraint("refresh_digest", name="uq_sessions_refresh_digest"),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])


def _create_policies() -> None:
    policies = op.create_table(
        "policies",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("is_enabled", sa.Boolean, nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_policies"),
    )
    description = "Everybody may do everything. Disable it once you have policies of your own."
    op.bulk_insert(
        policies,
        [
            {
                "id": FIRST_POLICY_ID,
                "text": FIRST_POLICY,
                "description": description,
                "is_enabled": True,
                "updated_at_ms": 0,
            }
        ],
    )


def _create_rules() -> None:
    op.create_table(
        "limits",
        sa.Column("subject_kind", sa.String(16), nullable=False),
        sa.Column("subject_id", sa.String(64), nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("max_parallel", sa.BigInteger),
        sa.Column("max_waiting", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("subject_kind", "subject_id", name="pk_limits"),
    )
    op.create_table(
        "budgets",
        sa.Column("subject_kind", sa.String(16), nullable=False),
        sa.Column("subject_id", sa.String(64), nullable=False),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("cap_picodollars", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("subject_kind", "subject_id", "period", name="pk_budgets"),
    )
    op.create_table(
        "prices",
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("from_ms", sa.BigInteger, nullable=False),
        sa.Column("picodollars_per_token", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", "provider", "from_ms", name="pk_prices"),
    )
    op.create_table(
        "providers",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("is_enabled", sa.Boolean),
        sa.Column("host", sa.String(64)),
        sa.Column("base_url", sa.Text),
        sa.Column("max_parallel", sa.BigInteger),
        sa.Column("batching", sa.Boolean),
        sa.Column("sealed_key", sa.LargeBinary),
        sa.Column("key_hint", sa.String(4), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_providers"),
    )
    revision_row = op.create_table(
        "rules_revision",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rules_revision"),
    )
    op.bulk_insert(revision_row, [{"id": 1, "revision": 1}])


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=False),
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
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
    )
    op.create_index("ix_audit_at_ms", "audit", ["at_ms"])


def _extend_ledger() -> None:
    op.add_column("ledger", sa.Column("project_id", sa.String(64)))
    op.add_column("ledger", sa.Column("authenticate_ms", sa.Double, nullable=False, server_default="0"))
    op.add_column("ledger", sa.Column("admit_ms", sa.Double, nullable=False, server_default="0"))
    op.create_index(
        "ix_ledger_project_id_at_ms",
        "ledger",
        ["project_id", "at_ms"],
        sqlite_where=sa.text("project_id IS NOT NULL"),
        postgresql_where=sa.text("project_id IS NOT NULL"),
    )
