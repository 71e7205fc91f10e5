"""What keys, users and projects have spent, read from the ledger: for budgets and for policies."""

import asyncio
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from embedgate.core.access import Subject, SubjectKind
from embedgate.core.errors import Overloaded
from embedgate.storage.database import Database
from embedgate.storage.schema import ledger

_SUBJECTS: dict[SubjectKind, sa.Column[Any]] = {
    "key": ledger.c.key_id,
    "user": ledger.c.user_id,
    "project": ledger.c.project_id,
}
_IDS_AT_ONCE = 500
_HALF = 2**32
# Literals: PostgreSQL would not take an expression with two parameters for the same one, once grouped by, once read.
_SQL_HALF = sa.literal_column(str(_HALF), sa.BigInteger)


class LedgerSpending:
    """Sums of the ledger for the event loop: made on one named worker, so that no sum holds up a request."""

    def __init__(self, database: Database, *, max_waiting: int = 1_000) -> None:
        """max_waiting: questions that may wait for the worker."""
        self._database = database
        self._max_waiting = max_waiting
        self._waiting = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedgate-spending")

    async def spent(self, subject: Subject, since_ms: int, without: Collection[str] = ()) -> int:
        """What a key, user or project has spent from a time on, in picodollars, but for some requests.

        Raises InternalError if the database fails, Overloaded if too many questions wait.
        """
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} budgets are being added up. Try again.", retry_after_s=1.0)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, self._read, subject, since_ms, without)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let the sum that is being made end, and stop the worker."""
        self._worker.shutdown(cancel_futures=True)

    def _read(self, subject: Subject, since_ms: int, without: Collection[str]) -> int:
        with self._database.read() as connection:
            return sum_spent(connection, subject, since_ms, without)


def sum_spent(connection: sa.Connection, subject: Subject, since_ms: int, without: Collection[str] = ()) -> int:
    """What one key, user or project has spent from a time on, in picodollars. without: requests not to count."""
    query = sa.select(*exact_sum(ledger.c.cost_picodollars)).where(
        _SUBJECTS[subject.kind] == subject.id, ledger.c.at_ms >= since_ms
    )
    left_out = list(without)
    total = joined(*connection.execute(query).one())
    for start in range(0, len(left_out), _IDS_AT_ONCE):
        ids = left_out[start : start + _IDS_AT_ONCE]
        total -= joined(*connection.execute(query.where(ledger.c.request_id.in_(ids))).one())
    return total


def newest_entry_ms(connection: sa.Connection) -> int:
    """The time of the newest ledger entry, which may be in the future if a clock was set back; 0 without entries."""
    return int(connection.execute(sa.select(sa.func.max(ledger.c.at_ms))).scalar() or 0)


def exact_sum(column: sa.Column[Any]) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    """The sum of a column in two halves, for `joined`: SQLite refuses a sum over 2^63, which is nine million dollars.

    Sums of tokens and items never come near that; if one did, the report would fail with InternalError, not be wrong.
    """
    return sa.func.sum(column // _SQL_HALF), sa.func.sum(column % _SQL_HALF)


def joined(high: Any, low: Any) -> int:
    """The sum of the two halves of an `exact_sum`; 0 if there were no rows."""
    return int(high or 0) * _HALF + int(low or 0)
