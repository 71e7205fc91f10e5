"""The keys of the first start, through deaths and races."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedgate.core.keys import digest
from embedgate.govern import keys, users
from embedgate.govern.change import Change, Invocation
from embedgate.govern.first_start import ensure_first_keys
from embedgate.storage.database import Database
from embedgate.storage.key_lookup import SqlKeyStore
from governing import Governing
from together import run_together

START = """
import contextlib, sys, time
from pathlib import Path
from embedgate.catalog import Catalog
from embedgate.govern.change import COMMAND_LINE, Invocation
from embedgate.govern.first_start import ensure_first_keys
from embedgate.govern.resources import Resources
from embedgate.storage.database import open_database
from embedgate.storage.sealing import Sealer

class Racing(Invocation):
    # Looks, then waits until the other process has looked too, or cannot.
    @contextlib.contextmanager
    def read(self):
        with super().read() as reading:
            yield reading
        (folder / f"looked-{id(self)}-{time.monotonic_ns()}").touch()
        ends_s = time.monotonic() + 0.3
        while len(list(folder.glob("looked-*"))) < 2 and time.monotonic() < ends_s:
            time.sleep(0.01)

print("ready", flush=True)
sys.stdin.readline()
folder = Path(sys.argv[1])
database = open_database(folder)
resources = Resources("eg", Sealer(folder), Catalog.builtin)
keys = ensure_first_keys(Racing(database, resources, COMMAND_LINE), folder)
database.close()
if keys:
    print(keys.admin_key, keys.user_key)
"""


class Death(Exception):
    """The process ends here."""


class Mortal(Invocation):
    """Dies right after its `last` change."""

    last = 0

    @contextmanager
    def change(self) -> Iterator[Change]:
        with super().change() as change:
            yield change
        self.last -= 1
        if self.last == 0:
            raise Death


async def valid_keys(call: Governing, folder: Path) -> list[tuple[str, bool]]:
    """Owner and rights of the keys in the files, after a check that they are all the valid keys there are."""
    store = SqlKeyStore(call.database)
    files = [folder / "admin.key", folder / "user.key"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    records = [await store.find(digest(file.read_text().removesuffix("\n"))) for file in files]
    store.close()
    in_files = [record for record in records if record is not None]
    valid = call.every(keys.list_keys, keys.KeyQuery(state="active"))
    assert {key.id for key in in_files} == {key.id for key in valid}
    return [(key.user_name, key.is_admin) for key in in_files]


async def test_the_first_start_writes_two_keys_and_later_ones_nothing(call: Governing, tmp_path: Path) -> None:
    made = ensure_first_keys(call.invocation(), tmp_path)
    assert made is not None
    assert made.admin_key_file.read_text() == made.admin_key + "\n"
    assert made.user_key_file.read_text() == made.user_key + "\n"
    assert made.admin_key not in repr(made)
    assert await valid_keys(call, tmp_path) == [("admin", True), ("user", False)]
    assert call.events() == []
    made.admin_key_file.unlink()  # kept elsewhere by its owner
    assert ensure_first_keys(call.invocation(), tmp_path) is None
    assert not made.admin_key_file.exists()


def test_an_installation_with_users_of_its_own_gets_no_keys(call: Governing, tmp_path: Path) -> None:
    call(users.create_user, users.NewUser("ann"))
    assert ensure_first_keys(call.invocation(), tmp_path) is None
    assert not list(tmp_path.glob("*.key"))


@pytest.mark.parametrize("last", [1, 2])
async def test_a_death_in_between_is_repaired(call: Governing, database: Database, tmp_path: Path, last: int) -> None:
    (tmp_path / "admin.key").write_text("of an earlier database\n")
    mortal = Mortal(database, call.resources, call.actor)
    mortal.last = last
    with pytest.raises(Death):
        ensure_first_keys(mortal, tmp_path)
    made = ensure_first_keys(call.invocation(), tmp_path)
    assert made is not None
    assert made.user_key_file.read_text() == made.user_key + "\n"
    assert await valid_keys(call, tmp_path) == [("admin", True), ("user", False)]
    assert ensure_first_keys(call.invocation(), tmp_path) is None


async def test_of_processes_that_start_at_once_one_makes_the_keys(call: Governing, tmp_path: Path) -> None:
    printed = [line for line in run_together(tmp_path, START, 2) if line]
    assert len(printed) == 1
    assert printed[0].split() == [(tmp_path / name).read_text().strip() for name in ("admin.key", "user.key")]
    assert await valid_keys(call, tmp_path) == [("admin", True), ("user", False)]
