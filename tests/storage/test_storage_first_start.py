"""The keys of the first start, through deaths and races."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from embedgate.core.access import KeyRecord, UserRecord
from embedgate.core.keys import digest
from embedgate.storage.database import Database
from embedgate.storage.first_start import ensure_first_keys
from embedgate.storage.keys import SqlKeyAdmin, SqlKeyStore

START = """
import sys, time
from pathlib import Path
from embedgate.storage.database import open_database
from embedgate.storage.first_start import ensure_first_keys
from embedgate.storage.keys import SqlKeyAdmin

class Racing(SqlKeyAdmin):
    # Looks, then waits until the other process has looked too, or cannot.
    def list_users(self):
        users = super().list_users()
        if not users:
            (folder / f"looked-{id(self)}-{time.monotonic_ns()}").touch()
            ends_s = time.monotonic() + 0.3
            while len(list(folder.glob("looked-*"))) < 2 and time.monotonic() < ends_s:
                time.sleep(0.01)
        return users

print("ready", flush=True)
sys.stdin.readline()
folder = Path(sys.argv[1])
database = open_database(folder)
keys = ensure_first_keys(Racing(database, "eg"), folder)
database.close()
if keys:
    print(keys.admin_key, keys.user_key)
"""


class Death(Exception):
    """The process ends here."""


class Mortal:
    """A key admin whose process dies right after its `last` change."""

    def __init__(self, admin: SqlKeyAdmin, last: int) -> None:
        self._admin = admin
        self._changes_left = last

    def _change(self) -> None:
        self._changes_left -= 1
        if self._changes_left == 0:
            raise Death

    def create_user(self, name: str, *, is_admin: bool = False) -> UserRecord:
        user = self._admin.create_user(name, is_admin=is_admin)
        self._change()
        return user

    def list_users(self) -> list[UserRecord]:
        return self._admin.list_users()

    def create_key(self, user: str, name: str) -> tuple[KeyRecord, str]:
        created = self._admin.create_key(user, name)
        self._change()
        return created

    def list_keys(self, user: str | None = None) -> list[KeyRecord]:
        return self._admin.list_keys(user)

    def revoke_key(self, key_id: str) -> KeyRecord:
        return self._admin.revoke_key(key_id)


@pytest.fixture
def admin(database: Database) -> SqlKeyAdmin:
    return SqlKeyAdmin(database, "eg")


async def valid_keys(database: Database, folder: Path) -> list[tuple[str, bool]]:
    """Owner and rights of the keys in the files, after a check that they are all the valid keys there are."""
    store = SqlKeyStore(database)
    files = [folder / "admin.key", folder / "user.key"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    records = [await store.find(digest(file.read_text().removesuffix("\n"))) for file in files]
    store.close()
    in_files = [record for record in records if record is not None]
    valid = [key for key in SqlKeyAdmin(database, "eg").list_keys() if key.revoked_at_ms is None]
    assert {key.id for key in in_files} == {key.id for key in valid}
    return [(key.user_name, key.is_admin) for key in in_files]


async def test_the_first_start_writes_two_keys_and_later_ones_nothing(
    admin: SqlKeyAdmin, database: Database, tmp_path: Path
) -> None:
    keys = ensure_first_keys(admin, tmp_path)
    assert keys is not None
    assert keys.admin_key_file.read_text() == keys.admin_key + "\n"
    assert keys.user_key_file.read_text() == keys.user_key + "\n"
    assert keys.admin_key not in repr(keys)
    assert await valid_keys(database, tmp_path) == [("admin", True), ("user", False)]
    keys.admin_key_file.unlink()  # kept elsewhere by its owner
    assert ensure_first_keys(admin, tmp_path) is None
    assert not keys.admin_key_file.exists()


def test_an_installation_with_users_of_its_own_gets_no_keys(admin: SqlKeyAdmin, tmp_path: Path) -> None:
    admin.create_user("ann")
    assert ensure_first_keys(admin, tmp_path) is None
    assert not list(tmp_path.glob("*.key"))


@pytest.mark.parametrize("last", [1, 2, 3, 4])
async def test_a_death_in_between_is_repaired(
    admin: SqlKeyAdmin, database: Database, tmp_path: Path, last: int
) -> None:
    (tmp_path / "admin.key").write_text("of an earlier database\n")
    with pytest.raises(Death):
        ensure_first_keys(Mortal(admin, last), tmp_path)
    keys = ensure_first_keys(admin, tmp_path)
    assert keys is not None
    assert keys.user_key_file.read_text() == keys.user_key + "\n"
    assert await valid_keys(database, tmp_path) == [("admin", True), ("user", False)]
    assert ensure_first_keys(admin, tmp_path) is None


async def test_of_processes_that_start_at_once_one_makes_the_keys(
    run_together: Callable[[str, int], list[str]], database: Database, tmp_path: Path
) -> None:
    printed = [line for line in run_together(START, 2) if line]
    assert len(printed) == 1
    assert printed[0].split() == [(tmp_path / name).read_text().strip() for name in ("admin.key", "user.key")]
    assert await valid_keys(database, tmp_path) == [("admin", True), ("user", False)]
