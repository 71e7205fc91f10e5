"""Snapshot of a data folder for an archive: as of one moment, while a server goes on writing.

The database is copied by SQLite's backup interface within one read transaction, which sees one state of it and makes
no writer wait. Intents are copied right after that moment: what was under way then is in one or the other.
"""

import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from embedgate.core.errors import ConfigError, Conflict, InternalError
from embedgate.storage.backup.archive import Advance
from embedgate.storage.database import DATABASE_FILE, connect_existing
from embedgate.storage.intents import INTENTS_FOLDER, SUFFIX
from embedgate.storage.migrate import known_revisions
from embedgate.storage.schema import REVISION

_PAGES_AT_ONCE = 4_096
"""Of 1 KB each: the copy says how far it is every few milliseconds."""
_BUSY_S = 60.0


def copy_books(folder: Path, drafts: Path, advance: Advance) -> tuple[str, list[Path]]:
    """Copy the database and the intents of a data folder; returns the schema, and the copied files of the intents.

    Raises OSError, ConfigError if this program does not know the schema, InternalError as `copy_database`.
    """
    database = folder / DATABASE_FILE
    schema = ""
    intents: list[Path] = []

    def at_snapshot(connection: sqlite3.Connection) -> None:
        nonlocal schema
        intents.extend(_copy_intents(folder, drafts / INTENTS_FOLDER))
        schema = _schema_of(connection, database)

    copy_database(database, drafts / DATABASE_FILE, advance, at_snapshot)
    return schema, intents


def copy_database(
    source: Path, target: Path, advance: Advance, at_snapshot: Callable[[sqlite3.Connection], None] = lambda _: None
) -> None:
    """Copy a SQLite file as of one moment to a new file of mode 0600, and check the copy.

    at_snapshot: is called in the read transaction, right after its moment. Raises OSError, InternalError if the file
    cannot be read or is damaged.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            # Not read-only: the last one to close a database tidies up its log.
            contextlib.closing(connect_existing(source, _BUSY_S)) as reader,
            contextlib.closing(sqlite3.connect(target, isolation_level=None)) as writer,
        ):
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
            at_snapshot(reader)
            reader.backup(writer, pages=_PAGES_AT_ONCE, progress=_by_bytes(reader, advance))
            found = writer.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise InternalError(f"{source} cannot be copied: {error}. Nothing was backed up.") from error
    if found != "ok":
        raise InternalError(
            f"{source} is damaged ({found}). Nothing was backed up; an earlier archive is better than what is there."
        )


def _by_bytes(reader: sqlite3.Connection, advance: Advance) -> Callable[[int, int, int], None]:
    page_bytes: int = reader.execute("PRAGMA page_size").fetchone()[0]
    done = 0

    def progress(_: int, remaining: int, total: int) -> None:
        nonlocal done
        advance((total - remaining - done) * page_bytes)
        done = total - remaining

    return progress


@contextlib.contextmanager
def workshop(file: Path) -> Iterator[Path]:
    """A folder of our own beside `file`, for drafts; deleted at the end, and what a kill has left before the start.

    Raises OSError, Conflict if another process makes the same file.
    """
    folder = file.with_name(f".{file.name}.partial")
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"Another process is making {file}. Wait for it, or choose another name.") from error
        _empty(folder)
        try:
            yield folder
        finally:
            _empty(folder)
            folder.rmdir()
    finally:
        os.close(lock)


def database_of(folder: Path) -> Path:
    """The database of a data folder. Raises ConfigError if there is none."""
    path = folder / DATABASE_FILE
    if not path.is_file():
        raise ConfigError(
            [f"there is no {path}: set storage.data_dir (EMBEDGATE_DATA_DIR), or give --data-dir, to the data folder"]
        )
    return path


def _schema_of(connection: sqlite3.Connection, path: Path) -> str:
    """The revision of a database. path: of its file. Raises ConfigError if this program does not know it."""
    try:
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.OperationalError as error:
        raise ConfigError([f"database {path} has no schema yet: start a gateway once"]) from error
    found = ", ".join(sorted(str(row[0]) for row in rows))
    if found not in known_revisions():
        raise ConfigError(
            [
                f"database {path} has schema {found}, this program knows up to {REVISION}; use the newer embedgate "
                "that wrote it"
            ]
        )
    return found


def _copy_intents(folder: Path, target: Path) -> list[Path]:
    """Copy the files of a data folder's intents into a new folder. Raises OSError."""
    target.mkdir(mode=0o700)
    copied = []
    for path in sorted((folder / INTENTS_FOLDER).glob(f"*{SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):  # all of its requests have ended
            copied.append(Path(shutil.copyfile(path, target / path.name)))
    return copied


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
