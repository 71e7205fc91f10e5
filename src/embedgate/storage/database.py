"""Database file: create, open, migrate and close. Knows no table's meaning.

SQLite in WAL: readers never wait for the writer. How its file is opened and how its transactions begin is decided here.
Elsewhere, these depend on SQLite: `commits` uses the driver itself, `schema` and the migrations give it types and
an index of its own, and `spending` keeps sums below its largest whole number.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from embedgate.core.errors import ConfigError, InternalError
from embedgate.storage import swap
from embedgate.storage.folder import create_empty, locked, writable
from embedgate.storage.schema import REVISION

DATABASE_FILE = "embedgate.db"
_BEGIN = "embedgate_begin"
_ADAPTERS: tuple[tuple[type, Callable[[Any], Any]], ...] = ((bytes, bytes), (bool, int), (type(None), {}.get))
"""Each gives what the driver stores anyway. Without one, it searches the value for a method and fails: 2 µs, and 5 for
bytes, of which a ledger entry and its audit event have seven values."""


class Database:
    """An open database. Thread-safe; close it after everything that uses it."""

    def __init__(self, engine: sa.Engine, path: Path | None = None, quick_path: Path | None = None) -> None:
        """engine: with the current schema, and its transactions begun as `sqlite_engine` does.

        path: its file. quick_path: the file, if commits to it never wait for a disk sync.
        """
        self.path = path
        self.quick_path = quick_path
        self._engine = engine
        self._writing_engine = _writing(engine)
        self._writing: set[sa.Connection] = set()

    @property
    def dialect(self) -> sa.Dialect:
        """The SQL dialect of the database."""
        return self._engine.dialect

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Read transaction: a snapshot of the database. Raises InternalError if the database fails."""
        with _reported(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Write transaction: locks other writers out from its start. Raises InternalError as `read`."""
        with _reported(), self._noted(self._writing_engine.begin()) as connection:
            yield connection

    @contextlib.contextmanager
    def write_on_demand(self) -> Iterator[sa.Connection]:
        """As `write`, but it locks other writers out from its first statement on."""
        with _reported(), self._noted(self._writing_engine.connect()) as connection:
            yield connection
            connection.commit()

    @contextlib.contextmanager
    def _noted(self, writer: AbstractContextManager[sa.Connection]) -> Iterator[sa.Connection]:
        noted = None
        try:
            with writer as connection:
                noted = connection
                self._writing.add(connection)
                yield connection
        finally:
            if noted is not None:
                self._writing.discard(noted)

    @property
    def has_writer(self) -> bool:
        """Whether `write` or `write_on_demand` holds the lock of the file now; who waits for it does not."""
        return any(connection.in_transaction() for connection in tuple(self._writing))

    def connect_writer(self) -> sa.Connection:
        """A long-lived connection whose transactions are as in `write`. Raises SQLAlchemyError."""
        return self._writing_engine.connect()

    def close(self) -> None:
        """Close every connection; the last one to close checkpoints the write-ahead log."""
        self._engine.dispose()


def open_database(
    data_dir: Path, synchronous: Literal["normal", "full"] = "normal", *, busy_timeout_s: float = 5.0
) -> Database:
    """Open the database in `data_dir`, making folder (mode 0700), file (0600) and schema where they are missing.

    synchronous: `normal` survives a killed process, `full` a power cut. busy_timeout_s: how long a statement
    waits while another process writes.
    Raises ConfigError if the folder cannot be written, or the file is no database or a newer program's.
    """
    path = data_dir / DATABASE_FILE
    # The lock covers more than the migration: entering WAL fails at once, without waiting, when two try together.
    with locked(data_dir):
        with writable(data_dir):
            swap.finish(data_dir)  # of a restore that was killed
            create_empty(path)
        engine = sqlite_engine(path, synchronous, busy_timeout_s)
        try:
            _prepare(engine)
        except DatabaseError as error:
            engine.dispose()
            raise ConfigError([f"database {path} cannot be used: {error.orig}"]) from error
        except ConfigError:
            engine.dispose()
            raise
    return Database(engine, path, path if synchronous == "normal" else None)


def connect_existing(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Connection of the driver to a SQLite file that is there, for any one thread at a time, without transactions.

    A file that is gone is not made anew by whoever looks into it next. Raises sqlite3.Error.
    """
    place = f"{path.resolve().as_uri()}?mode=rw"
    # The driver itself would begin transactions late, and none for DDL.
    return sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False, timeout=busy_timeout_s)


def sqlite_engine(path: Path, synchronous: Literal["normal", "full"], busy_timeout_s: float) -> sa.Engine:
    """SQLAlchemy engine of a SQLite file that is there, with pragmas and explicit transactions. Opens nothing yet."""
    for kind, adapter in _ADAPTERS:
        sqlite3.register_adapter(kind, adapter)
    # hide_parameters: the text of an error must hold no digest, name or end user.
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, creator=lambda: connect_existing(path, busy_timeout_s), hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # For new files only. A commit of one ledger entry changes a page of the table and one of each index, and
        # the write-ahead log takes whole pages: a quarter of the bytes.
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

    return engine


@contextlib.contextmanager
def any_text(connection: sa.Connection) -> Iterator[None]:
    """Read also texts that are not UTF-8, as strings that no UTF-8 has, instead of failing at their rows."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):  # other databases store no such text
        yield
        return
    driver.text_factory = _text_of
    try:
        yield
    finally:
        driver.text_factory = str


def _text_of(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


def _writing(engine: sa.Engine) -> sa.Engine:
    # A transaction that reads before it writes would fail, not wait, if another writer came in between.
    return engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})


def _prepare(engine: sa.Engine) -> None:
    if not _is_current(engine):
        from embedgate.storage.migrate import upgrade  # Alembic takes 0.3 s to import, and most starts do not need it

        upgrade(_writing(engine))


def _is_current(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return False
        revisions = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all()
    return list(revisions) == [REVISION]


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        if not isinstance(error, OperationalError) and type(error) is not DatabaseError:
            raise  # of a statement or its values; the class itself is of a file that is damaged
        raise InternalError(f"the database cannot be used: {error.orig}") from error
