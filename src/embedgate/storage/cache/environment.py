"""LMDB environments as the cache opens them, and which of LMDB's errors mean that a file is broken.

Knows nothing of vectors.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import lmdb

OWNER_ONLY = 0o600

DAMAGE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
)
"""What LMDB says of a file that is not its own or not whole. All else (a full disk, a full map, no free place for a
reader, a closed environment) passes, or is our own fault."""


class Damaged(Exception):
    """A file of the cache is foreign or broken. Never leaves the cache: the file is set aside and begun anew."""


def damage(error: Exception) -> Damaged:
    """What LMDB has found, as Damaged."""
    return Damaged(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def damage_reported() -> Iterator[None]:
    """Raise Damaged where LMDB finds the file broken; other errors pass as they are."""
    try:
        yield
    except DAMAGE as error:
        raise damage(error) from error


def open_environment(path: Path, map_bytes: int) -> lmdb.Environment:
    """Open or make the environment in the file `path`, with its lock file beside it.

    map_bytes: the file never grows beyond; every process must give the same.
    Commits survive a killed process, and a power cut at worst takes the last one: data are synced, the page that
    points to them only with the next commit.
    Raises Damaged if the file is not an environment or not whole, FileNotFoundError if its folder is gone, and OSError
    or lmdb.Error if it cannot be opened.
    """
    try:
        with damage_reported():
            environment = lmdb.open(
                str(path), map_size=map_bytes, subdir=False, metasync=False, mode=OWNER_ONLY, max_spare_txns=1
            )
    except lmdb.Error as error:
        if error.code == errno.ENOENT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        raise
    try:
        # Killed processes leave their places in the table of readers, which pin old pages and run out in the end.
        environment.reader_check()
        # Reading a page that is missing from the end of the file would kill the process, not raise.
        if path.stat().st_size < used_bytes(environment):
            raise Damaged("the file is shorter than what it holds")
    except BaseException:
        environment.close()
        raise
    return environment


def used_bytes(environment: lmdb.Environment) -> int:
    """How far the file of the environment has grown."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
