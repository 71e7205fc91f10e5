"""Data folder: private to its owner, locked by one server at a time, files of mode 0600."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from embedgate.core.errors import ConfigError

_LOCK_FILE = "embedgate.lock"
_SERVER_FILE = "server.lock"
LOCK_FILES = (_LOCK_FILE, _SERVER_FILE)
_OWNER_ONLY = 0o600


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, creating the folder (mode 0700) if it is missing; wait while another holds it.

    The lock ends with the process, also if it crashes. Raises ConfigError if the folder cannot be written.
    """
    with writable(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
    try:
        with writable(folder):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def claim(folder: Path) -> list[int] | None:
    """Claim the folder as its only server, until the process ends or the files are closed.

    Returns the open files; None if another process has claimed it. Raises ConfigError if the folder cannot be written.
    The folder itself is locked, since a lock file that looks stale gets deleted; and the file, for older programs.
    """
    with writable(folder):
        files = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)]
        files.append(os.open(folder / _SERVER_FILE, os.O_RDWR | os.O_CREAT, _OWNER_ONLY))
    try:
        for file in files:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        for file in files:
            os.close(file)
        return None
    return files


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn an OSError in the body into a ConfigError about `folder`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            [
                f"data folder {folder} cannot be written: {error.strerror or error}; "
                "set storage.data_dir (EMBEDGATE_DATA_DIR) to a folder of yours"
            ]
        ) from error


def create_empty(path: Path) -> None:
    """Create a file of mode 0600; leave one that exists untouched. Raises OSError."""
    # Without O_EXCL an existing file would be opened, and closing any handle of a file drops every lock that
    # this process holds on it, SQLite's among them.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY))


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk. Raises OSError."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 atomically, replacing an existing one. Raises OSError."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
