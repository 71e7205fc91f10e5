"""First start: creates an administrator's key and a user's key, each in a file of mode 0600.

A file that is deleted later is not made again: operators may keep the keys elsewhere.
"""

from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from embedgate.core.errors import UnknownEntity
from embedgate.govern.change import Change, Invocation
from embedgate.govern.keys import KeyToMake, OwnKeyQuery, add_key, page_of_keys, stop
from embedgate.govern.users import NewUser, User, add_user, find_user
from embedgate.storage import schema
from embedgate.storage.folder import create_empty, locked, writable, write_private

KEY_NAME = "first start"
_ADMIN = "admin"
_USER = "user"
# Exists from before the first user is made until both files are: tells a crash in between from a deleted file.
_UNFINISHED = "first_start.unfinished"


@dataclass(frozen=True, slots=True)
class FirstKeys:
    """The first keys, and the files that hold them."""

    admin_key_file: Path
    user_key_file: Path
    admin_key: str = field(repr=False)
    user_key: str = field(repr=False)


def ensure_first_keys(invocation: Invocation, data_dir: Path) -> FirstKeys | None:
    """Where there is no user yet, make `admin` (an administrator) and `user`, and write a key of each.

    The keys go to `admin.key` and `user.key` in `data_dir`, mode 0600. Of several processes one makes them; what a
    process left unfinished when it died is completed, and a key that it never wrote down is revoked.
    Returns None if there was nothing to do. Raises ConfigError if the folder cannot be written.
    """
    unfinished = data_dir / _UNFINISHED
    admin_key_file, user_key_file = data_dir / "admin.key", data_dir / "user.key"
    with locked(data_dir):
        has_users = _has_users(invocation)
        if has_users and not unfinished.exists():
            return None
        with writable(data_dir):
            if not has_users:
                admin_key_file.unlink(missing_ok=True)  # of a database that is no more
                user_key_file.unlink(missing_ok=True)
            create_empty(unfinished)
            made = FirstKeys(
                admin_key_file=admin_key_file,
                user_key_file=user_key_file,
                admin_key=_key_in(admin_key_file, invocation, _ADMIN, is_admin=True),
                user_key=_key_in(user_key_file, invocation, _USER, is_admin=False),
            )
            unfinished.unlink()
    return made


def _has_users(invocation: Invocation) -> bool:
    with invocation.read() as reading:
        return reading.connection.execute(sa.select(schema.users.c.id).limit(1)).one_or_none() is not None


def _key_in(file: Path, invocation: Invocation, name: str, *, is_admin: bool) -> str:
    """The key in `file`; if that is not there, a new key of the user `name`, who is made if there is none."""
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    with invocation.change() as change:
        change.is_noted = True  # the trail is of what people do, who all come after this
        user = _user(change, name, is_admin=is_admin)
        for key in page_of_keys(change, OwnKeyQuery(search=KEY_NAME), user_id=user.id).items:
            if key.name == KEY_NAME:
                stop(change, key)
        secret = add_key(change, KeyToMake(user.id, KEY_NAME)).secret
    write_private(file, secret + "\n")
    return secret


def _user(change: Change, name: str, *, is_admin: bool) -> User:
    try:
        return find_user(change, name)
    except UnknownEntity:
        return add_user(change, NewUser(name, is_admin=is_admin))
