"""Routes for logging in with a name and a password, and for what everybody may see and change of itself."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import UserRecord
from embedgate.core.errors import InvalidCredentials, InvalidInput, Overloaded, RateLimited
from embedgate.govern.users import User
from embedgate.server.admin.keys import Key, KeyWithSecret, OwnKeyQuery, Rotation, key_of, with_secret
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, Moment, listed, moment
from embedgate.storage.sessions import ACCESS_PREFIX, SessionTokens


class Login(Struct, forbid_unknown_fields=True):
    """Who logs in."""

    name: str
    password: str


class Refresh(Struct, forbid_unknown_fields=True):
    """What keeps a login going."""

    refresh_token: str


class Session(Struct, frozen=True):
    """A login. The access token is sent like a key; the refresh token is exchanged for new ones, once."""

    access_token: str
    access_expires_at: Moment
    refresh_token: str
    refresh_expires_at: Moment
    user_id: str


class PasswordChange(Struct, forbid_unknown_fields=True):
    """The present password and another."""

    password: str
    new_password: Annotated[str, Meta(description="12 to 1,024 characters.")]


def user_of(record: UserRecord) -> User:
    """A user as it is answered."""
    return User(
        id=record.id,
        name=record.name,
        is_admin=record.is_admin,
        is_disabled=record.is_disabled,
        is_agent=record.is_agent,
        email=record.email,
        tenant=record.tenant,
        roles=record.roles,
        has_password=record.has_password,
        created_at=moment(record.created_at_ms),
    )


def _session(tokens: SessionTokens) -> Session:
    return Session(
        access_token=tokens.access,
        access_expires_at=moment(tokens.access_expires_at_ms),
        refresh_token=tokens.refresh,
        refresh_expires_at=moment(tokens.refresh_expires_at_ms),
        user_id=tokens.user_id,
    )


def _log_in(asked: Asked) -> Session:
    logins = asked.administration.logins
    return _session(logins.log_in(asked.body.name, asked.body.password, ip_address=asked.ip_address))


def _refresh(asked: Asked) -> Session:
    return _session(asked.administration.logins.refresh(asked.body.refresh_token))


def _log_out(asked: Asked) -> None:
    if not asked.secret.startswith(ACCESS_PREFIX):
        raise InvalidInput(
            "A key cannot be logged out. Send the access token of a login, or revoke the key.", param="authorization"
        )
    asked.administration.logins.log_out(asked.secret)


def _show(asked: Asked) -> User:
    return user_of(asked.me.profile())


def _change_password(asked: Asked) -> User:
    change: PasswordChange = asked.body
    return user_of(asked.me.change_password(change.password, change.new_password, ip_address=asked.ip_address))


def _keys(asked: Asked) -> Listed:
    return listed(asked.me.keys(asked.query.page, state=asked.query.state), asked.query, key_of)


def _rotate(asked: Asked) -> KeyWithSecret:
    return with_secret(asked.me.rotate_key(asked.path["key"], overlap_s=asked.body.overlap_s))


_GUESSING = (InvalidCredentials, RateLimited, Overloaded)

ROUTES = (
    Route(
        "POST",
        "/api/login",
        "logIn",
        "Log in",
        _log_in,
        Session,
        "With a name and a password. Too many failures are answered with 429.",
        who="anyone",
        body=Login,
        example={"name": "alice", "password": "a long and unlikely phrase"},
        raises=_GUESSING,
    ),
    Route(
        "POST",
        "/api/refresh",
        "refreshLogin",
        "Keep a login going",
        _refresh,
        Session,
        "The tokens from before are void. A refresh token that is used twice ends the login.",
        who="anyone",
        body=Refresh,
        example={"refresh_token": "egr_…"},
        raises=(InvalidCredentials,),
    ),
    Route("POST", "/api/logout", "logOut", "Log out", _log_out, None, who="user"),
    Route("GET", "/api/me", "showMe", "Show yourself", _show, User, who="user"),
    Route(
        "PUT",
        "/api/me/password",
        "changeMyPassword",
        "Change your password",
        _change_password,
        User,
        "You are logged out everywhere.",
        who="user",
        body=PasswordChange,
        example={"password": "a long and unlikely phrase", "new_password": "another long and unlikely phrase"},
        raises=_GUESSING,
    ),
    Route(
        "GET", "/api/me/keys", "listMyKeys", "List your keys", _keys, Key, who="user", query=OwnKeyQuery, is_list=True
    ),
    Route(
        "POST",
        "/api/me/keys/{key}/rotate",
        "rotateMyKey",
        "Give a key of yours a new secret",
        _rotate,
        KeyWithSecret,
        "Its id, limits, budgets and all it has spent stay.",
        who="user",
        body=Rotation,
        example={"overlap_s": 3600},
        is_change=True,
    ),
)
