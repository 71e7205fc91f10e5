"""Policies as stored. Whether a text is a policy, and what it permits, is known to the package `policy` alone."""

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from embedgate.core.access import PolicyRecord
from embedgate.core.clock import utc_ms
from embedgate.core.errors import Conflict, UnknownEntity
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import check_name, check_text, findable
from embedgate.storage.revision import count_up

MAX_POLICY_CHARACTERS = 65_536
_MAX_ID_CHARACTERS = 128
_TABLE = schema.policies


class SqlPolicies:
    """Policies, blocking. Every method is one transaction, and raises InternalError if the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, policy_id: str) -> PolicyRecord:
        """Raises UnknownEntity if there is no such policy."""
        with self._database.read() as connection:
            return _find(connection, policy_id)

    def create(self, policy_id: str, text: str, *, description: str = "", is_enabled: bool = True) -> PolicyRecord:
        """A new policy. text: one that was checked. Raises InvalidInput for an unfit field, Conflict if it is there."""
        check_name(policy_id, "policy id", param="id", max_characters=_MAX_ID_CHARACTERS)
        _check_texts(text, description)
        policy = PolicyRecord(policy_id, text, description, is_enabled, utc_ms())
        try:
            with self._database.write() as connection:
                connection.execute(
                    _TABLE.insert().values(
                        id=policy.id,
                        text=text,
                        description=description,
                        is_enabled=is_enabled,
                        updated_at_ms=policy.updated_at_ms,
                    )
                )
                count_up(connection)
        except IntegrityError as error:
            raise Conflict(f"There is already a policy {policy_id!r}. Change that one.", param="id") from error
        return policy

    def update(
        self,
        policy_id: str,
        *,
        text: str | None = None,
        description: str | None = None,
        is_enabled: bool | None = None,
    ) -> PolicyRecord:
        """Change what is given. text: one that was checked. Raises UnknownEntity, InvalidInput for an unfit field."""
        with self._database.write() as connection:
            before = _find(connection, policy_id)
            after = PolicyRecord(
                id=before.id,
                text=before.text if text is None else text,
                description=before.description if description is None else description,
                is_enabled=before.is_enabled if is_enabled is None else is_enabled,
                updated_at_ms=utc_ms(),
            )
            _check_texts(after.text, after.description)
            connection.execute(
                _TABLE.update()
                .where(_TABLE.c.id == after.id)
                .values(
                    text=after.text,
                    description=after.description,
                    is_enabled=after.is_enabled,
                    updated_at_ms=after.updated_at_ms,
                )
            )
            count_up(connection)
        return after

    def delete(self, policy_id: str) -> PolicyRecord:
        """Delete a policy, and return it. Raises UnknownEntity."""
        with self._database.write() as connection:
            found = _find(connection, policy_id)
            connection.execute(_TABLE.delete().where(_TABLE.c.id == found.id))
            count_up(connection)
        return found


def read_policies(connection: sa.Connection) -> tuple[PolicyRecord, ...]:
    """Every policy, those that are off too, by id."""
    rows = connection.execute(_TABLE.select().order_by(_TABLE.c.id))
    return tuple(PolicyRecord(**row._mapping) for row in rows)


def _find(connection: sa.Connection, policy_id: str) -> PolicyRecord:
    row = connection.execute(_TABLE.select().where(_TABLE.c.id == findable(policy_id))).one_or_none()
    if row is None:
        raise UnknownEntity(f"There is no policy {policy_id!r}. List the policies to see their ids.", param="id")
    return PolicyRecord(**row._mapping)


def _check_texts(text: str, description: str) -> None:
    check_text(text, "policy", param="text", max_characters=MAX_POLICY_CHARACTERS)
    check_text(description, "description", param="description")
