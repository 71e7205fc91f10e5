"""Routes for logging in with a name and a password, and for what everybody may see and change of itself."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import UserRecord
from embedgate.core.errors import InvalidCredentials, InvalidInput, Overloaded, RateLimited
from embedgate.govern.users import User
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Moment, moment
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


def _change_password(asked: Asked) -> User:
    change: PasswordChange = asked.body
    return user_of(asked.me.change_password(change.password, change.new_password, ip_address=asked.ip_address))


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
)
