"""Logins of people: name and password against tokens, written down whether they succeed or not.

What is said of a failure is the same whatever was wrong. Guessing is slowed down by `failed_logins`.
"""

from embedgate.administration.stores import Stores
from embedgate.administration.trail import Trail
from embedgate.core.access import UserRecord
from embedgate.core.errors import InvalidCredentials, UnknownEntity
from embedgate.storage.sessions import SessionTokens

NOBODY = "unknown user"
"""Target of a failed login whose name nobody has. The name is not written down: it may be a password, mistyped."""


class Logins:
    """Logins, blocking."""

    def __init__(self, stores: Stores, trail: Trail) -> None:
        self._stores = stores
        self._trail = trail

    def log_in(self, name: str, password: str, *, ip_address: str = "") -> SessionTokens:
        """Open a session. Sessions of anybody that are long over are forgotten on the way.

        ip_address: where the attempt comes from.
        Raises InvalidCredentials; RateLimited after too many failures, which is not written down again; Overloaded.
        """
        user = self.check(name, password, action="login", ip_address=ip_address)
        with self._trail.together():
            self._stores.sessions.purge()
            tokens = self._stores.sessions.open(user.id)
            self._trail.add_login("login", user.id, user.id, "ok", session=tokens.session_id, ip_address=ip_address)
        return tokens

    def check(self, name: str, password: str, *, action: str, ip_address: str = "") -> UserRecord:
        """The user of a name and a password; a failure is written down as one of `action`.

        Raises as `log_in`.
        """
        with self._stores.failed_logins.attempt(name, ip_address) as fail:
            user = self._stores.passwords.check_password(name, password)
            if user is not None:
                return user
            fail()
            self._trail.add_login(action, None, self._id_of(name), InvalidCredentials.code, ip_address=ip_address)
        raise InvalidCredentials("The name or the password is wrong, or this user may not log in.")

    def user_of(self, access_token: str) -> UserRecord:
        """Whose session it is. Raises InvalidCredentials if it is over, or never was one."""
        session = self._stores.sessions.find(access_token)
        if session is None:
            raise InvalidCredentials("The login is over. Refresh it, or log in again.")
        return session.user

    def refresh(self, refresh_token: str) -> SessionTokens:
        """Exchange a refresh token for new tokens; the old ones are void.

        Raises InvalidCredentials. A token that was exchanged before ends its session, and that is written down:
        somebody has a copy of it.
        """
        with self._trail.together():
            refreshed = self._stores.sessions.refresh(refresh_token)
            tokens, ended_user_id = refreshed.tokens, refreshed.ended_user_id
            if tokens is not None:
                self._trail.add_login("login.refresh", tokens.user_id, tokens.user_id, "ok", session=tokens.session_id)
            elif ended_user_id is not None:
                self._trail.add_login("login.refresh", None, ended_user_id, "token_reused")
        # Only now: raised within, the error would undo the end of the session.
        if tokens is None:
            raise InvalidCredentials("The refresh token is not valid, or was used before. Log in again.")
        return tokens

    def log_out(self, access_token: str) -> None:
        """End the session of an access token. Raises InvalidCredentials if it is over, or never was one."""
        with self._trail.together():
            session = self._stores.sessions.find(access_token)
            if session is None:
                raise InvalidCredentials("The login is over already.")
            self._stores.sessions.close(session.id)
            self._trail.add_login("logout", session.user.id, session.user.id, "ok", session=session.id)

    def _id_of(self, name: str) -> str:
        try:
            return self._stores.users.get(name).id
        except UnknownEntity:
            return NOBODY
