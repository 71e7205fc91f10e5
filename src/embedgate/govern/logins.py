"""Logins: a name and a password for a session, which has a short-lived access token and a refresh token used once.

What is said of a failed login is the same whatever was wrong; `failed_logins` slows guessing down. Only digests of
tokens are stored.
"""

import base64
import hashlib
import re
import secrets

import sqlalchemy as sa
from msgspec import Struct

from embedgate.core.errors import InvalidCredentials, InvalidInput, Overloaded, RateLimited, UnknownEntity
from embedgate.core.keys import digest
from embedgate.govern.change import Change, Invocation, Reading
from embedgate.govern.fields import findable
from embedgate.govern.operation import Facts, NoParameters, runs
from embedgate.govern.users import User, find_user
from embedgate.govern.values import Moment, milliseconds, moment
from embedgate.storage import schema

ACCESS_PREFIX = "egs_"
REFRESH_PREFIX = "egr_"
ACCESS_S = 15 * 60
REFRESH_S = 7 * 24 * 3600
NOBODY = "unknown user"
"""Target of a failed login whose name nobody has. The name is not written down: it may be a password, mistyped."""
GUESSING = (InvalidCredentials, RateLimited, Overloaded)
"""What an operation raises that takes a password."""

_HALF_BYTES = 16
_REFRESH_FORM = re.compile(REFRESH_PREFIX + r"([A-Za-z0-9_-]{43})")
_USERS = schema.users
_TABLE = schema.sessions


class Login(Struct, forbid_unknown_fields=True):
    """Who logs in."""

    name: str
    password: str


class Refresh(Struct, forbid_unknown_fields=True):
    """The refresh token of a login."""

    refresh_token: str


class Session(Struct, frozen=True):
    """A login. The access token is sent like a key; the refresh token is exchanged for new ones, once."""

    access_token: str
    access_expires_at: Moment
    refresh_token: str
    refresh_expires_at: Moment
    user_id: str

    def __repr__(self) -> str:
        return f"Session(user_id={self.user_id!r})"


@runs(
    "logins.log_in",
    "POST",
    "/api/login",
    Facts(
        "logIn",
        who="anyone",
        example={"name": "alice", "password": "a long and unlikely phrase"},
        raises=GUESSING,
    ),
)
def log_in(invocation: Invocation, login: Login) -> Session:
    """Log in.

    With a name and a password. Too many failures are answered with 429.
    """
    user_id = check_password(invocation, login.name, login.password, action="login")
    with invocation.change() as change:
        _forget_old_sessions(change)
        family = secrets.token_bytes(_HALF_BYTES)
        session_id, session = _session_id(family), _new_session(change, family, find_user(change, user_id).id)
        row = {"id": session_id, "user_id": user_id, "created_at_ms": change.now_ms, **_columns(session)}
        change.connection.execute(_TABLE.insert().values(row))
        ip_address = invocation.actor.ip_address
        change.note_login("login", user_id, user_id, "ok", session=session_id, ip_address=ip_address)
    return session


@runs(
    "logins.refresh",
    "POST",
    "/api/refresh",
    Facts("refreshLogin", who="anyone", example={"refresh_token": "egr_…"}, raises=(InvalidCredentials,)),
)
def refresh(invocation: Invocation, given: Refresh) -> Session:
    """Refresh a login.

    The tokens from before are void. A refresh token that is used twice ends the login.
    """
    with invocation.change() as change:
        session = _refreshed(change, given.refresh_token)
    # Only now: raised within, the error would undo the end of a session.
    if session is None:
        raise InvalidCredentials("The refresh token is not valid, or was used before. Log in again.")
    return session


@runs("logins.log_out", "POST", "/api/logout", Facts("logOut", who="user"))
def log_out(invocation: Invocation, _: NoParameters) -> None:
    """Log out."""
    if not invocation.secret.startswith(ACCESS_PREFIX):
        raise InvalidInput(
            "A key cannot be logged out. Send the access token of a login, or revoke the key.", param="authorization"
        )
    with invocation.change() as change:
        found = _find(change, invocation.secret)
        if found is None:
            raise InvalidCredentials("The login is over already.")
        session_id, user = found
        change.connection.execute(_TABLE.delete().where(_TABLE.c.id == session_id))
        change.note_login("logout", user.id, user.id, "ok", session=session_id)


def user_of_login(invocation: Invocation, access_token: str) -> User:
    """The user of an access token. Raises InvalidCredentials if it has ended or was never issued."""
    with invocation.read() as reading:
        found = _find(reading, access_token)
    if found is None:
        raise InvalidCredentials("The login is over. Refresh it, or log in again.")
    return found[1]


def check_password(
    invocation: Invocation, name: str, password: str, *, action: str, session_of: str | None = None
) -> str:
    """The id of the user with that name and password. A failure is written down as one of `action`.

    session_of: id of the user who is logged in already. Such failures count apart, so that nobody who fails to log in
    from the same address keeps a working session from anything.
    It takes as long where there is no such user that may log in. A hash of older parameters is replaced.
    Raises InvalidCredentials; RateLimited after too many failures, which is not written down again; Overloaded.
    """
    hashes, ip_address = invocation.resources.passwords, invocation.actor.ip_address
    may_log_in = (_USERS.c.name == findable(name)) & ~_USERS.c.is_disabled & _USERS.c.password_hash.is_not(None)
    place = ip_address if session_of is None else f"session of {session_of}"
    with invocation.resources.failed_logins.attempt(name, place) as fail:
        with invocation.read() as reading:
            stored = sa.select(_USERS.c.id, _USERS.c.password_hash).where(may_log_in)
            row = reading.connection.execute(stored).one_or_none()
        if hashes.is_right(password, None if row is None else row.password_hash) and row is not None:
            _renew_hash(invocation, row.id, row.password_hash, password)
            return str(row.id)
        fail()
        with invocation.read() as reading:
            event = reading.login_event(
                action, None, _id_of(reading, name), InvalidCredentials.code, ip_address=ip_address
            )
        if not invocation.resources.gateway.is_summed(event):
            with invocation.change() as change:
                change.add(event)
    raise InvalidCredentials("The name or the password is wrong, or this user may not log in.")


def _id_of(reading: Reading, name: str) -> str:
    try:
        return find_user(reading, name).id
    except UnknownEntity:
        return NOBODY


def _renew_hash(invocation: Invocation, user_id: str, old_hash: str, password: str) -> None:
    """Replace a hash of older parameters, unless it was replaced meanwhile."""
    new_hash = invocation.resources.passwords.renewed(password, old_hash)
    if new_hash is not None:
        is_unchanged = (_USERS.c.id == user_id) & (_USERS.c.password_hash == old_hash)
        with invocation.change() as change:
            change.is_noted = True  # it is the same password
            change.connection.execute(_USERS.update().where(is_unchanged).values(password_hash=new_hash))


def _find(reading: Reading, access_token: str) -> tuple[str, User] | None:
    """Id and user of the session of an access token; None if it is not one, is over, or its user is disabled."""
    query = _TABLE.select().where(_TABLE.c.access_digest == digest(access_token))
    row = reading.connection.execute(query).one_or_none()
    if row is None or row.access_expires_at_ms <= reading.now_ms:
        return None
    user = find_user(reading, row.user_id)
    return None if user.is_disabled else (row.id, user)


def _refreshed(change: Change, refresh_token: str) -> Session | None:
    """New tokens in place of those that a refresh token belongs to; None if it is not valid.

    A token that was exchanged before ends its session, for whoever holds the newer one as well: somebody has a copy.
    """
    change.is_noted = True  # what is worth nothing leaves no event
    family = _family(refresh_token)
    if family is None:
        return None
    session_id = _session_id(family)
    row = change.connection.execute(_TABLE.select().where(_TABLE.c.id == session_id)).one_or_none()
    if row is None:
        return None
    is_spent = row.refresh_digest != digest(refresh_token)
    if is_spent or row.refresh_expires_at_ms <= change.now_ms or find_user(change, row.user_id).is_disabled:
        change.connection.execute(_TABLE.delete().where(_TABLE.c.id == session_id))
        if is_spent:
            change.note_login("login.refresh", None, row.user_id, "token_reused")
        return None
    session = _new_session(change, family, row.user_id)
    change.connection.execute(_TABLE.update().where(_TABLE.c.id == session_id).values(_columns(session)))
    change.note_login("login.refresh", row.user_id, row.user_id, "ok", session=session_id)
    return session


def _forget_old_sessions(change: Change) -> None:
    """Delete the sessions of anybody that can be refreshed no more."""
    is_over = (_TABLE.c.refresh_expires_at_ms <= change.now_ms) & (_TABLE.c.access_expires_at_ms <= change.now_ms)
    change.connection.execute(_TABLE.delete().where(is_over))


def _new_session(change: Change, family: bytes, user_id: str) -> Session:
    # All refresh tokens of a session begin with the same random half, by which one that was used before is known
    # for what it is. The id is a digest of that half: whoever sees an id cannot make up such a token.
    return Session(
        access_token=ACCESS_PREFIX + secrets.token_urlsafe(2 * _HALF_BYTES),
        access_expires_at=moment(change.now_ms + ACCESS_S * 1000),
        refresh_token=REFRESH_PREFIX + _base64(family + secrets.token_bytes(_HALF_BYTES)),
        refresh_expires_at=moment(change.now_ms + REFRESH_S * 1000),
        user_id=user_id,
    )


def _columns(session: Session) -> dict[str, bytes | int]:
    return {
        "access_digest": digest(session.access_token),
        "access_expires_at_ms": milliseconds(session.access_expires_at),
        "refresh_digest": digest(session.refresh_token),
        "refresh_expires_at_ms": milliseconds(session.refresh_expires_at),
    }


def _session_id(family: bytes) -> str:
    return f"session_{hashlib.sha256(family).hexdigest()[:32]}"


def _family(refresh_token: str) -> bytes | None:
    """The half of a refresh token that is the same for all of its session; None if it is no refresh token."""
    formed = _REFRESH_FORM.fullmatch(refresh_token)
    return None if formed is None else base64.urlsafe_b64decode(formed[1] + "=")[:_HALF_BYTES]


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


OPERATIONS = (log_in, refresh, log_out)
