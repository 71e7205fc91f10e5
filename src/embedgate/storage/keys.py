"""Users and their keys: managed blocking (`SqlKeyAdmin`), looked up asynchronously (`SqlKeyStore`).

Only digests of keys are stored and cached. Whether a key may do something is decided in the engine.
"""

import asyncio
import functools
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from embedgate.core.access import KeyRecord, UserRecord
from embedgate.core.errors import InvalidInput, Overloaded
from embedgate.core.keys import digest, new_secret
from embedgate.storage import schema
from embedgate.storage.database import Database

MAX_NAME_CHARACTERS = 64
_HINT_CHARACTERS = 4
_CACHE_TTL_S = 1.0
_USER_ID = re.compile(r"user_[0-9a-f]{16}")

_USERS = sa.select(
    schema.users.c.id,
    schema.users.c.name,
    schema.users.c.is_admin,
    schema.users.c.created_at_ms,
    schema.users.c.is_disabled,
)
_KEYS = sa.select(
    schema.keys.c.id,
    schema.keys.c.user_id,
    schema.users.c.name.label("user_name"),
    schema.keys.c.name,
    schema.keys.c.hint,
    schema.users.c.is_admin,
    schema.keys.c.created_at_ms,
    schema.keys.c.revoked_at_ms,
    schema.users.c.is_disabled.label("user_is_disabled"),
).join_from(schema.keys, schema.users)
_KEY_BY_DIGEST = _KEYS.where(schema.keys.c.digest == sa.bindparam("digest"))


class SqlKeyAdmin:
    """core.ports.KeyAdmin. Every method is one transaction, and raises InternalError if the database fails."""

    def __init__(self, database: Database, prefix: str) -> None:
        """prefix: start of new keys."""
        self._database = database
        self._prefix = prefix

    def create_user(self, name: str, *, is_admin: bool = False) -> UserRecord:
        """A new user. Raises InvalidInput if the name is taken, or not 1 to 64 printable characters."""
        _check_name(name, "user name")
        if _USER_ID.fullmatch(name):
            raise InvalidInput(f"The user name {name!r} has the form of an id. Choose another name.")
        user = UserRecord(_new_id("user"), name, is_admin, _now_ms())
        try:
            with self._database.write() as connection:
                connection.execute(
                    schema.users.insert().values(
                        id=user.id,
                        name=user.name,
                        is_admin=user.is_admin,
                        is_disabled=user.is_disabled,
                        created_at_ms=user.created_at_ms,
                    )
                )
        except IntegrityError as error:
            raise InvalidInput(f"There is already a user named {name!r}. Choose another name.") from error
        return user

    def list_users(self) -> list[UserRecord]:
        """All users, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(_USERS.order_by(schema.users.c.created_at_ms, schema.users.c.id))
            return [UserRecord(**row._mapping) for row in rows]

    def create_key(self, user: str, name: str) -> tuple[KeyRecord, str]:
        """A new key for the user of that name or id, and its secret, which exists nowhere else.

        Raises InvalidInput if there is no such user, or the name is not 1 to 64 printable characters.
        """
        _check_name(name, "key name")
        secret = new_secret(self._prefix)
        with self._database.write() as connection:
            owner = _find_user(connection, user)
            record = KeyRecord(
                id=_new_id("key"),
                user_id=owner.id,
                user_name=owner.name,
                name=name,
                hint=secret[-_HINT_CHARACTERS:],
                is_admin=owner.is_admin,
                created_at_ms=_now_ms(),
                user_is_disabled=owner.is_disabled,
            )
            connection.execute(
                schema.keys.insert().values(
                    id=record.id,
                    user_id=record.user_id,
                    name=record.name,
                    digest=digest(secret),
                    hint=record.hint,
                    created_at_ms=record.created_at_ms,
                )
            )
        return record, secret

    def list_keys(self, user: str | None = None) -> list[KeyRecord]:
        """Keys, revoked ones included, oldest first; of one user, by name or id, if given.

        Raises InvalidInput if there is no such user.
        """
        query = _KEYS.order_by(schema.keys.c.created_at_ms, schema.keys.c.id)
        with self._database.read() as connection:
            if user is not None:
                query = query.where(schema.keys.c.user_id == _find_user(connection, user).id)
            return [KeyRecord(**row._mapping) for row in connection.execute(query)]

    def revoke_key(self, key_id: str) -> KeyRecord:
        """Stop a key, by its id or its full secret. Revoking twice changes nothing.

        Raises InvalidInput if there is no such key.
        """
        table = schema.keys
        # A secret may be given where an id is expected, so what was given is hashed too, and no message repeats it.
        is_meant = table.c.digest == digest(key_id)
        if key_id.isprintable():
            is_meant |= table.c.id == key_id
        with self._database.write() as connection:
            connection.execute(
                table.update().where(is_meant, table.c.revoked_at_ms.is_(None)).values(revoked_at_ms=_now_ms())
            )
            row = connection.execute(_KEYS.where(is_meant)).one_or_none()
        if row is None:
            raise InvalidInput("There is no such key. Give the id of a key (key_...) or the whole key.")
        return KeyRecord(**row._mapping)


class _Cached(NamedTuple):
    record: KeyRecord | None
    expires_s: float


class SqlKeyStore:
    """core.ports.KeyStore. Belongs to one event loop: call `find` and `forget` there.

    Look-ups run on one named worker. Answers are kept for a second, "unknown" too, so that a revocation by another
    process is seen within that time; concurrent look-ups of one digest are one.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_cached: int = 10_000,
        max_lookups: int = 1_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_cached: bound of the cached keys, and again of the cached unknown digests. max_lookups: different
        digests that may wait for the worker. clock: monotonic seconds.
        """
        self._database = database
        self._max_cached = max_cached
        self._max_lookups = max_lookups
        self._clock = clock
        # Two caches, so that guessing keys cannot push the real ones out.
        self._known: dict[bytes, _Cached] = {}
        self._unknown: dict[bytes, _Cached] = {}
        self._lookups: dict[bytes, asyncio.Future[KeyRecord | None]] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedgate-keys")

    async def find(self, digest: bytes) -> KeyRecord | None:
        """The key of a digest, revoked ones included; None if there is none. At most a second old.

        Raises InternalError if the database fails, Overloaded if too many look-ups wait.
        """
        now_s = self._clock()
        cached = self._known.get(digest) or self._unknown.get(digest)
        if cached is not None and now_s < cached.expires_s:
            return cached.record
        lookup = self._lookups.get(digest)
        if lookup is None:
            if len(self._lookups) >= self._max_lookups:
                raise Overloaded(f"{self._max_lookups} keys are being looked up. Try again.", retry_after_s=1.0)
            lookup = asyncio.get_running_loop().run_in_executor(self._worker, self._load, digest)
            self._lookups[digest] = lookup
            lookup.add_done_callback(functools.partial(self._keep, digest, now_s + _CACHE_TTL_S))
        return await asyncio.shield(lookup)  # one caller that leaves must not end the look-up of the others

    def forget(self, digest: bytes) -> None:
        """Drop what is known of a digest: the next `find` reads the database."""
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)
        self._lookups.pop(digest, None)

    def close(self) -> None:
        """Let the look-up that runs end, and stop the worker."""
        self._worker.shutdown(cancel_futures=True)

    def _load(self, digest: bytes) -> KeyRecord | None:
        with self._database.read() as connection:
            row = connection.execute(_KEY_BY_DIGEST, {"digest": digest}).one_or_none()
        return None if row is None else KeyRecord(**row._mapping)

    def _keep(self, digest: bytes, expires_s: float, lookup: asyncio.Future[KeyRecord | None]) -> None:
        """Cache what a look-up found, unless it failed or the digest was forgotten meanwhile."""
        was_forgotten = self._lookups.get(digest) is not lookup
        if not was_forgotten:
            del self._lookups[digest]
        if lookup.cancelled() or lookup.exception() is not None or was_forgotten:
            return
        record = lookup.result()
        self._unknown.pop(digest, None)
        self._known.pop(digest, None)
        cache = self._unknown if record is None else self._known
        if len(cache) >= self._max_cached:
            del cache[next(iter(cache))]  # the entry that was read first, which expires first
        cache[digest] = _Cached(record, expires_s)


def _find_user(connection: sa.Connection, name_or_id: str) -> UserRecord:
    table = schema.users
    row = None
    if name_or_id.isprintable():  # anything else is in no table, and may not even be sent to one
        is_meant = sa.or_(table.c.id == name_or_id, table.c.name == name_or_id)
        row = connection.execute(_USERS.where(is_meant)).one_or_none()
    if row is None:
        raise InvalidInput(f"There is no user {name_or_id!r}. List the users to see their names and ids.")
    return UserRecord(**row._mapping)


def _check_name(name: str, what: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable() or name != name.strip():
        raise InvalidInput(
            f"The {what} {name[:MAX_NAME_CHARACTERS]!r} has {len(name)} characters; it must be 1 to "
            f"{MAX_NAME_CHARACTERS} printable ones, with no space at either end."
        )


def _new_id(kind: Literal["user", "key"]) -> str:
    return f"{kind}_{secrets.token_hex(8)}"


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
