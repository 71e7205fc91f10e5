"""First start: creates an administrator's key and a user's key, each in a file of mode 0600.

A file that is deleted later is not made again: operators may keep the keys elsewhere.
"""

from dataclasses import dataclass, field
from pathlib import Path

from embedgate.core.ports import KeyAdmin
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


def ensure_first_keys(admin: KeyAdmin, data_dir: Path) -> FirstKeys | None:
    """If there is no user yet, create `admin` (an administrator) and `user`, and write a key of each.

    The keys go to `admin.key` and `user.key` in `data_dir`, mode 0600. Of several processes one makes them; what a
    process left unfinished when it died is completed, and a key that it never wrote down is revoked.
    Returns None if there was nothing to do. Raises ConfigError if the folder cannot be written.
    """
    unfinished = data_dir / _UNFINISHED
    admin_key_file, user_key_file = data_dir / "admin.key", data_dir / "user.key"
    with locked(data_dir):
        names = {user.name for user in admin.list_users()}
        if names and not unfinished.exists():
            return None
        with writable(data_dir):
            if not names:
                admin_key_file.unlink(missing_ok=True)  # of a deleted database
                user_key_file.unlink(missing_ok=True)
            create_empty(unfinished)
            keys = FirstKeys(
                admin_key_file=admin_key_file,
                user_key_file=user_key_file,
                admin_key=_key_in(admin_key_file, admin, _ADMIN, names, is_admin=True),
                user_key=_key_in(user_key_file, admin, _USER, names, is_admin=False),
            )
            unfinished.unlink()
    return keys


def _key_in(file: Path, admin: KeyAdmin, name: str, names: set[str], *, is_admin: bool) -> str:
    """The key in `file`; without one, a new key of the user `name`, who is created if not in `names`."""
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    if name not in names:
        admin.create_user(name, is_admin=is_admin)
    for key in admin.list_keys(name):
        if key.name == KEY_NAME:
            admin.revoke_key(key.id)
    _, secret = admin.create_key(name, KEY_NAME)
    write_private(file, secret + "\n")
    return secret
