"""Logins of people: a short-lived access token and a refresh token that is used once. Only digests are stored."""

import base64
import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from embedgate.core.access import UserRecord
from embedgate.core.clock import utc_ms
from embedgate.core.keys import digest
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import findable
from embedgate.storage.users import find_user

ACCESS_PREFIX = "egs_"
REFRESH_PREFIX = "egr_"
_HALF_BYTES = 16
_REFRESH_FORM = re.compile(REFRESH_PREFIX + r"([A-Za-z0-9_-]{43})")
_TABLE = schema.sessions


@dataclass(frozen=True, slots=True)
class SessionTokens:
    """The two tokens of a session, which exist nowhere else. Times are UTC milliseconds since 1970."""

    session_id: str
    user_id: str
    access_expires_at_ms: int
    refresh_expires_at_ms: int
    access: str = field(repr=False)
    refresh: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session that is open, and whose it is."""

    id: str
    user: UserRecord
    created_at_ms: int
    access_expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What became of a refresh token: new tokens, or none.

    `ended_user_id` is set if the token had been used before: somebody has a copy of it, and the session is ended.
    """

    tokens: SessionTokens | None = None
    ended_user_id: str | None = None


class SqlSessions:
    """Sessions, blocking. Every method is one transaction, and raises InternalError if the database fails."""

    def __init__(
        self,
        database: Database,
        *,
        access_s: int = 15 * 60,
        refresh_s: int = 7 * 24 * 3600,
        clock: Callable[[], int] = utc_ms,
    ) -> None:
        """access_s, refresh_s: how long the tokens are valid. clock: UTC milliseconds."""
        self._database = database
        self._access_ms = access_s * 1000
        self._refresh_ms = refresh_s * 1000
        self._clock = clock

    def open(self, user_id: str) -> SessionTokens:
        """A new session of a user whose password was checked. Raises UnknownEntity if there is no such user."""
        now_ms = self._clock()
        family = secrets.token_bytes(_HALF_BYTES)
        with self._database.write() as connection:
            tokens = self._new_tokens(family, find_user(connection, user_id).id, now_ms)
            connection.execute(
                _TABLE.insert().values(
                    _columns(tokens) | {"id": tokens.session_id, "user_id": tokens.user_id, "created_at_ms": now_ms}
                )
            )
        return tokens

    def find(self, access_token: str) -> SessionRecord | None:
        """The session of an access token; None if it is not one, is over, or its user is disabled."""
        with self._database.read() as connection:
            row = connection.execute(
                _TABLE.select().where(_TABLE.c.access_digest == digest(access_token))
            ).one_or_none()
            if row is None or row.access_expires_at_ms <= self._clock():
                return None
            user = find_user(connection, row.user_id)
        return None if user.is_disabled else SessionRecord(row.id, user, row.created_at_ms, row.access_expires_at_ms)

    def refresh(self, refresh_token: str) -> Refreshed:
        """Exchange a refresh token for a new pair of tokens; the old pair is void from then on.

        A token that was exchanged before ends its session, for whoever holds the newer one as well.
        """
        family = _family(refresh_token)
        if family is None:
            return Refreshed()
        now_ms = self._clock()
        with self._database.write() as connection:
            row = connection.execute(_TABLE.select().where(_TABLE.c.id == _session_id(family))).one_or_none()
            if row is None:
                return Refreshed()
            is_spent = row.refresh_digest != digest(refresh_token)
            if is_spent or row.refresh_expires_at_ms <= now_ms or find_user(connection, row.user_id).is_disabled:
                connection.execute(_TABLE.delete().where(_TABLE.c.id == row.id))
                return Refreshed(ended_user_id=row.user_id if is_spent else None)
            tokens = self._new_tokens(family, row.user_id, now_ms)
            connection.execute(_TABLE.update().where(_TABLE.c.id == row.id).values(_columns(tokens)))
        return Refreshed(tokens)

    def close(self, session_id: str) -> bool:
        """End a session. Returns whether there was one."""
        with self._database.write() as connection:
            return connection.execute(_TABLE.delete().where(_TABLE.c.id == findable(session_id))).rowcount > 0

    def purge(self) -> int:
        """Delete the sessions that can be refreshed no more. Returns how many there were."""
        over = sa.and_(_TABLE.c.refresh_expires_at_ms <= self._clock(), _TABLE.c.access_expires_at_ms <= self._clock())
        with self._database.write() as connection:
            return connection.execute(_TABLE.delete().where(over)).rowcount

    def _new_tokens(self, family: bytes, user_id: str, now_ms: int) -> SessionTokens:
        # All refresh tokens of a session begin with the same random half, by which one that was used before is known
        # for what it is. The id is a digest of that half: whoever sees an id cannot make up such a token.
        return SessionTokens(
            session_id=_session_id(family),
            user_id=user_id,
            access_expires_at_ms=now_ms + self._access_ms,
            refresh_expires_at_ms=now_ms + self._refresh_ms,
            access=ACCESS_PREFIX + secrets.token_urlsafe(2 * _HALF_BYTES),
            refresh=REFRESH_PREFIX + _base64(family + secrets.token_bytes(_HALF_BYTES)),
        )


def _columns(tokens: SessionTokens) -> dict[str, bytes | int | str]:
    return {
        "access_digest": digest(tokens.access),
        "access_expires_at_ms": tokens.access_expires_at_ms,
        "refresh_digest": digest(tokens.refresh),
        "refresh_expires_at_ms": tokens.refresh_expires_at_ms,
    }


def _session_id(family: bytes) -> str:
    return f"session_{hashlib.sha256(family).hexdigest()[:32]}"


def _family(refresh_token: str) -> bytes | None:
    """The half of a refresh token that is the same for all of its session; None if it is no refresh token."""
    formed = _REFRESH_FORM.fullmatch(refresh_token)
    return None if formed is None else base64.urlsafe_b64decode(formed[1] + "=")[:_HALF_BYTES]


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
