"""Restore of an archive into a data folder that nobody uses: unpacked beside what is there, then swapped for it."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from embedgate.core.errors import Conflict, InvalidInput
from embedgate.storage import swap
from embedgate.storage.backup.archive import COLLECTIONS_FOLDER, KEY_FILES, Advance, Archive
from embedgate.storage.database import DATABASE_FILE
from embedgate.storage.folder import LOCK_FILES, claim, locked, writable
from embedgate.storage.intents import INTENTS_FOLDER

_STAYS = ("models", "lost+found")
"""Local models are no part of what is restored; a disk of its own has the other folder."""
_REPLACED = (
    *(f"{DATABASE_FILE}{ending}" for ending in ("", "-wal", "-shm", "-journal")),
    *(f"answers.db{ending}" for ending in ("", "-wal", "-shm")),
    "answers.damaged",
    "cache",
    "first_start.unfinished",
)
"""What always goes aside: answers and vectors belong to the state that is replaced. Intents stay, to be booked."""
# A process that has a SQLite file open in WAL keeps this range of the file locked until it closes it.
_SHARED_FIRST, _SHARED_BYTES = 0x40000002, 510


@contextlib.contextmanager
def claimed(folder: Path, *, is_replacing: bool) -> Iterator[None]:
    """Hold a data folder, which is made if it is missing, so that no server begins on it.

    Raises ConfigError if it cannot be written; Conflict if a server or another command works on it, or if it has
    something in it and `is_replacing` is not meant.
    """
    with writable(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = claim(folder)
    if files is None:
        raise Conflict(f"A gateway runs on {folder}, or another restore. Stop it first.", param="data_dir")
    try:
        with locked(folder):
            swap.finish(folder)
        there = _contents(folder)
        if there and not is_replacing:
            raise Conflict(
                f"{folder} is not empty: it has {', '.join(there[:3])}{' and more' if there[3:] else ''}. Restore into "
                "another folder, or give --replace, which keeps what it replaces in a folder inside of it.",
                param="data_dir",
            )
        _refuse_open(folder / DATABASE_FILE)
        yield
    finally:
        for file in files:
            os.close(file)


def unpack(archive: Archive, folder: Path, advance: Advance) -> Path:
    """Unpack an archive into a draft in the data folder; returns the folder of its files, which are on the disk.

    Raises OSError, InvalidInput if the archive is damaged or does not fit on the disk.
    """
    free_bytes = shutil.disk_usage(folder).free
    if archive.size_bytes > free_bytes:
        raise InvalidInput(
            f"The archive has {archive.size_bytes:,} bytes, and {free_bytes:,} are free on the disk of {folder}. Make "
            "room, or restore into a folder on another disk.",
            param="file",
        )
    new = swap.begin(folder)
    for member in archive.manifest.members:
        path = new / member.name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            for piece in archive.read(member):
                stream.write(piece)
                advance(len(piece))
            stream.flush()
            os.fsync(stream.fileno())
    if archive.manifest.has_collections:
        (new / COLLECTIONS_FOLDER).mkdir(mode=0o700, exist_ok=True)
    return new


def put_in_place(new: Path, folder: Path) -> Path | None:
    """Put unpacked files in the place of what is there; returns the folder of what was replaced, None if nothing was.

    What the archive does not have of keys and collections stays. Raises OSError, Conflict if a part cannot be moved.
    """
    for lock in LOCK_FILES:  # of who has looked into the database; those of the folder are held
        (new / lock).unlink(missing_ok=True)
    _join_intents(new / INTENTS_FOLDER, folder / INTENTS_FOLDER)
    _give_to_owner(new, folder)
    own = sorted(path.name for path in new.iterdir() if path.name in (*KEY_FILES, COLLECTIONS_FOLDER))
    aside = (*_REPLACED, *own)
    for name in aside:
        if (folder / name).is_mount():
            raise Conflict(
                f"{folder / name} is a mount of its own and cannot be put aside. Unmount it for the restore."
            )
    with locked(folder):
        _refuse_open(folder / DATABASE_FILE)
        return swap.decide(folder, aside=aside, joined=(INTENTS_FOLDER,))


def _join_intents(new: Path, there: Path) -> None:
    """Make room for the intents of the archive beside those of a killed process, of which they may be the beginning."""
    for path in new.iterdir() if new.is_dir() else ():
        later = there / path.name
        if not later.is_file():
            continue
        if later.read_bytes().startswith(path.read_bytes()):  # it also knows which of them have ended
            path.unlink()
        else:
            path.rename(path.with_name(f"{path.stem}-{uuid.uuid4().hex}{path.suffix}"))


def _give_to_owner(new: Path, folder: Path) -> None:
    """Restored by root, the files are of whom the folder is: else its gateway could not open them."""
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in (*new.rglob("*"), new):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _contents(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in (*LOCK_FILES, *_STAYS) and not swap.is_of_swaps(name)]


def _refuse_open(database: Path) -> None:
    """Raises Conflict if a process has the database open. Changes nothing in it, as opening a damaged one might."""
    try:
        file = os.open(database, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_BYTES, _SHARED_FIRST)
    except OSError as error:
        raise Conflict(f"Another process has {database} open: a gateway, or a command. Stop it first.") from error
    finally:
        os.close(file)
