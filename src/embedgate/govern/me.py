"""What a user may see and change of itself without being an administrator.

What belongs to somebody else is as unknown here as what does not exist.
"""

from msgspec import Struct

from embedgate.core.errors import UnknownEntity
from embedgate.govern.change import Change, Invocation, Reading
from embedgate.govern.keys import Key, KeyWithSecret, OwnKeyQuery, Rotation, find_key, page_of_keys, rotate
from embedgate.govern.lists import Listed
from embedgate.govern.logins import GUESSING, check_password
from embedgate.govern.operation import Facts, NoParameters, changes, reads, runs
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


@reads("me.keys", "GET", "/api/me/keys", Facts("listMyKeys", who="user"))
def list_my_keys(reading: Reading, query: OwnKeyQuery) -> Listed[Key]:
    """List your keys."""
    return page_of_keys(reading, query, user_id=find_user(reading, reading.actor.id).id)


@changes(
    "me.rotate_key",
    "POST",
    "/api/me/keys/{key}/rotate",
    Facts("rotateMyKey", who="user", example={"overlap_s": 3600}),
)
def rotate_my_key(change: Change, rotation: Rotation) -> KeyWithSecret:
    """Give a key of yours a new secret.

    Its id, limits, budgets and all it has spent stay.
    """
    try:
        found = find_key(change, rotation.key)
    except UnknownEntity:
        found = None
    if found is None or found.user_id != change.actor.id:
        raise UnknownEntity("You have no such key. List your keys to see their ids.", param="key")
    return rotate(change, found, rotation.overlap_s)


OPERATIONS = (show_me, change_my_password, list_my_keys, rotate_my_key)
