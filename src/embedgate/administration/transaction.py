"""Several stores in one transaction, so that a change and the event that tells of it are kept both, or neither.

Knows no table. How a transaction is begun and ended is the database's own business.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import sqlalchemy as sa

from embedgate.storage.database import Database


class _Joint(threading.local):
    """The transaction that a thread is in: what ends it, and its connection once it has begun."""

    ends: ExitStack | None = None
    connection: sa.Connection | None = None


class JointDatabase(Database):
    """A database whose stores can act together. But for `together`, it is the database that it was made of."""

    def __init__(self, database: Database) -> None:
        """database: is closed by its owner, not here."""
        # Not Database.__init__: engine and connections stay those of the other.
        self.quick_path = database.quick_path
        self._database = database
        self._joint = _Joint()

    @property
    def dialect(self) -> sa.Dialect:
        """The SQL dialect of the database."""
        return self._database.dialect

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one transaction of all that this thread reads and writes until the end; an error undoes all of it.

        Other writers are locked out from the first read or write on, not before: a password is hashed without that.
        Within another `together` it is part of that one.
        """
        if self._joint.ends is not None:
            yield
            return
        with ExitStack() as ends:
            self._joint.ends = ends
            try:
                yield
            finally:
                self._joint.ends = self._joint.connection = None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """As in `Database`; part of the transaction within `together`."""
        with self._joined(self._database.read) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """As in `Database`; part of the transaction within `together`."""
        with self._joined(self._database.write) as connection:
            yield connection

    def connect_writer(self) -> sa.Connection:
        """As in `Database`; never part of a transaction here."""
        return self._database.connect_writer()

    def close(self) -> None:
        """Close every connection of the database that this was made of."""
        self._database.close()

    def _joined(
        self, begin: Callable[[], AbstractContextManager[sa.Connection]]
    ) -> AbstractContextManager[sa.Connection]:
        joint = self._joint
        if joint.ends is None:
            return begin()
        if joint.connection is None:
            joint.connection = joint.ends.enter_context(self._database.write())
        return contextlib.nullcontext(joint.connection)
