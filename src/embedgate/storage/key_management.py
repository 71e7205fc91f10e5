"""Keys made, taken over from elsewhere, rotated, stopped and deleted. Only digests of them are stored."""

import re
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from embedgate.core.access import KeyRecord
from embedgate.core.clock import utc_ms
from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.core.keys import digest, is_well_formed, new_secret
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import MAX_TIME_MS, check_name, check_number, findable, new_id
from embedgate.storage.key_rows import (
    KEY_LISTING,
    KEYS,
    USED_KEYS,
    KeyState,
    in_state,
    key_records,
    of_project,
    of_user,
)
from embedgate.storage.limits import drop_rules_of
from embedgate.storage.paging import read_page
from embedgate.storage.projects import find_project
from embedgate.storage.users import find_user

MAX_OVERLAP_S = 30 * 24 * 3600
_HINT_CHARACTERS = 4
_DIGEST_HEX = re.compile(r"[0-9a-fA-F]{64}")
_TABLE = schema.keys


class SqlKeys:
    """Keys, blocking. Every method is one transaction, and raises InternalError if the database fails.

    Where a key is meant, its id or the whole key is given; every such method raises UnknownEntity if there is none.
    A gateway that runs has the change within a second, at once after `SqlKeyStore.forget_all`.
    """

    def __init__(self, database: Database, prefix: str, clock: Callable[[], int] = utc_ms) -> None:
        """prefix: start of new keys. clock: UTC milliseconds."""
        self._database = database
        self._prefix = prefix
        self._clock = clock

    def create(
        self, user: str, name: str, *, project: str | None = None, expires_at_ms: int | None = None
    ) -> tuple[KeyRecord, str]:
        """A new key of a user, and the key itself, which exists nowhere else. user, project: name or id.

        Raises UnknownEntity if there is no such user or project, InvalidInput for an unfit name, or an end that is
        not in the future.
        """
        secret = new_secret(self._prefix)
        return self._add(user, name, project, expires_at_ms, digest(secret), secret[-_HINT_CHARACTERS:]), secret

    def take_over(
        self,
        user: str,
        name: str,
        key: str,
        *,
        hint: str = "",
        project: str | None = None,
        expires_at_ms: int | None = None,
    ) -> KeyRecord:
        """Make a key that exists already one of ours. key: the whole key, or its SHA-256 as 64 hex digits.

        hint: the last characters of the key, up to four; only with a digest, else they are taken from the key.
        Raises as `create`, InvalidInput if it is neither a key nor a digest, Conflict if it is known already.
        """
        if _DIGEST_HEX.fullmatch(key):
            hash_of_key = bytes.fromhex(key)
            if hint:
                check_name(hint, "hint", param="hint", max_characters=_HINT_CHARACTERS)
        elif is_well_formed(key, self._prefix):
            hash_of_key, hint = digest(key), key[-_HINT_CHARACTERS:]
        else:
            raise InvalidInput(
                f"The key is neither `{self._prefix}_` and 32 hexadecimal digits, nor `ziri-<user>-<hex>`, nor the "
                "SHA-256 of a key as 64 hexadecimal digits. Give one of these.",
                param="key",
            )
        try:
            return self._add(user, name, project, expires_at_ms, hash_of_key, hint)
        except IntegrityError as error:
            raise Conflict("That key is known here already. List the keys to find it.", param="key") from error

    def get(self, key: str) -> KeyRecord:
        """The key as stored, and when it was last used."""
        with self._database.read() as connection:
            return _find(connection, key, USED_KEYS)

    def list(
        self,
        query: PageQuery = FIRST_PAGE,
        *,
        user: str | None = None,
        project: str | None = None,
        state: KeyState | None = None,
    ) -> Page[KeyRecord]:
        """A page of the keys and when each was last used, oldest first; of a user, a project, in a state if given.

        `sort` may be `name`, `user_name`, `project_name`, `created_at_ms`, `expires_at_ms` or `last_used_at_ms`.
        Raises UnknownEntity if there is no such user or project, InvalidInput as `read_page`.
        """
        rows = USED_KEYS
        with self._database.read() as connection:
            if user is not None:
                rows = rows.where(of_user(find_user(connection, user).id))
            if project is not None:
                rows = rows.where(of_project(find_project(connection, project).id))
            if state is not None:
                rows = rows.where(in_state(state, self._clock()))
            page, total = read_page(connection, rows, KEY_LISTING, query)
            return Page(tuple(key_records(connection, page)), total)

    def rotate(self, key: str, *, overlap_s: int = 0) -> tuple[KeyRecord, str]:
        """Give a key a new secret. Its id, limits, budgets and all it has spent stay, so it gets no fresh budget.

        overlap_s: how long the old secret still works, in seconds, at most `MAX_OVERLAP_S`; with 0 it is revoked.
        The old secret then has a record of its own, which can be revoked or deleted before its time.
        Raises Conflict if the key is revoked or has expired, or is itself the old secret of another.
        """
        check_number(overlap_s, "overlap in seconds", param="overlap_s", minimum=0, maximum=MAX_OVERLAP_S)
        secret, now_ms = new_secret(self._prefix), self._clock()
        with self._database.write() as connection:
            found = _find(connection, key, KEYS)
            _check_can_rotate(found, now_ms)
            old = connection.execute(_TABLE.select().where(_TABLE.c.id == found.id)).one()
            connection.execute(
                _TABLE.update()
                .where(_TABLE.c.id == found.id)
                .values(digest=digest(secret), hint=secret[-_HINT_CHARACTERS:], created_at_ms=now_ms)
            )
            connection.execute(
                _TABLE.insert().values(
                    id=new_id("key"),
                    user_id=old.user_id,
                    name=old.name,
                    digest=old.digest,
                    hint=old.hint,
                    created_at_ms=old.created_at_ms,
                    revoked_at_ms=None if overlap_s else now_ms,
                    expires_at_ms=now_ms + overlap_s * 1000,
                    replaced_by=found.id,
                )
            )
            return _find(connection, found.id, KEYS), secret

    def revoke(self, key: str) -> KeyRecord:
        """Stop a key for good, its old secrets too. Revoking twice changes nothing."""
        with self._database.write() as connection:
            found = _find(connection, key, KEYS)
            still_valid = (_TABLE.c.id == found.id) & _TABLE.c.revoked_at_ms.is_(None)
            connection.execute(_TABLE.update().where(still_valid).values(revoked_at_ms=self._clock()))
            return _find(connection, found.id, KEYS)

    def set_disabled(self, key: str, is_disabled: bool) -> KeyRecord:
        """Stop a key until it is enabled again, or enable it. Raises Conflict if it is revoked."""
        with self._database.write() as connection:
            return _change(connection, key, is_disabled=is_disabled)

    def set_expiry(self, key: str, expires_at_ms: int | None) -> KeyRecord:
        """Let a key end at a time, which may have come, or never. Raises Conflict if it is revoked, InvalidInput."""
        if expires_at_ms is not None:
            check_number(expires_at_ms, "expiry in ms", param="expires_at_ms", minimum=0, maximum=MAX_TIME_MS)
        with self._database.write() as connection:
            return _change(connection, key, expires_at_ms=expires_at_ms)

    def delete(self, key: str) -> KeyRecord:
        """Delete a key with its old secrets, limits and budgets; the ledger keeps its facts. Returns it as it was."""
        with self._database.write() as connection:
            found = _find(connection, key, KEYS)
            connection.execute(_TABLE.delete().where(sa.or_(_TABLE.c.id == found.id, _TABLE.c.replaced_by == found.id)))
            drop_rules_of(connection, "key", found.id)
        return found

    def _add(
        self, user: str, name: str, project: str | None, expires_at_ms: int | None, hash_of_key: bytes, hint: str
    ) -> KeyRecord:
        check_name(name, "key name")
        now_ms = self._clock()
        if expires_at_ms is not None:
            check_number(expires_at_ms, "expiry in ms", param="expires_at_ms", minimum=now_ms + 1, maximum=MAX_TIME_MS)
        key_id = new_id("key")
        with self._database.write() as connection:
            connection.execute(
                _TABLE.insert().values(
                    id=key_id,
                    user_id=find_user(connection, user).id,
                    name=name,
                    digest=hash_of_key,
                    hint=hint,
                    created_at_ms=now_ms,
                    project_id=None if project is None else find_project(connection, project).id,
                    expires_at_ms=expires_at_ms,
                )
            )
            return _find(connection, key_id, KEYS)


def _find(connection: sa.Connection, key: str, rows: sa.Select[Any]) -> KeyRecord:
    # A secret may be given where an id is expected, so what was given is hashed too, and no message repeats it.
    is_meant = sa.or_(_TABLE.c.digest == digest(key), _TABLE.c.id == findable(key))
    found = key_records(connection, connection.execute(rows.where(is_meant)))
    if not found:
        raise UnknownEntity("There is no such key. Give the id of a key (key_...) or the whole key.", param="key")
    return found[0]


def _change(connection: sa.Connection, key: str, **values: int | None) -> KeyRecord:
    found = _find(connection, key, KEYS)
    if found.revoked_at_ms is not None:
        raise Conflict(f"The key {found.id} is revoked for good. Create a new one.", param="key")
    connection.execute(_TABLE.update().where(_TABLE.c.id == found.id).values(values))
    return _find(connection, found.id, KEYS)


def _check_can_rotate(key: KeyRecord, now_ms: int) -> None:
    if key.replaced_by is not None:
        raise Conflict(f"The key {key.id} is the old secret of {key.replaced_by}. Rotate that one.", param="key")
    if key.revoked_at_ms is not None:
        raise Conflict(f"The key {key.id} is revoked for good. Create a new one.", param="key")
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        raise Conflict(f"The key {key.id} has expired. Give it a new end before rotating it.", param="key")
