"""What a user may see and change of itself without being an administrator; its keys are in `own_keys`."""

from msgspec import Struct

from embedgate.govern.change import Invocation, Reading
from embedgate.govern.logins import GUESSING, check_password
from embedgate.govern.operation import Facts, NoParameters, reads, runs
from embedgate.govern.users import NewPasswordText, User, find_user, store_password


class PasswordChange(Struct, forbid_unknown_fields=True):
    """The present password and another."""

    password: str
    new_password: NewPasswordText


@reads("me.show", "GET", "/api/me", Facts("showMe", who="user"))
def show_me(reading: Reading, _: NoParameters) -> User:
    """Show yourself."""
    return find_user(reading, reading.actor.id)


@runs(
    "me.change_password",
    "PUT",
    "/api/me/password",
    Facts(
        "changeMyPassword",
        who="user",
        example={"password": "a long and unlikely phrase", "new_password": "another long and unlikely phrase"},
        raises=GUESSING,
    ),
)
def change_my_password(invocation: Invocation, wanted: PasswordChange) -> User:
    """Change your password.

    You are logged out everywhere.
    """
    with invocation.read() as reading:
        user = find_user(reading, invocation.actor.id)
    user_id = check_password(
        invocation, user.name, wanted.password, action="users.set_password", session_of=invocation.actor.id
    )
    password_hash = invocation.resources.passwords.hash(wanted.new_password, (user.name, user.email))
    with invocation.change() as change:
        return store_password(change, user_id, password_hash)


OPERATIONS = (show_me, change_my_password)
