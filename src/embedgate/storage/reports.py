"""What the ledger adds up to: sums by any grouping, what a subject has spent, and the entries themselves.

Reading only, blocking, but for `LedgerSpending`, which the event loop may ask. Days, weeks and months are those of
UTC; a week begins on Monday, as ISO has it.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from embedgate.core.access import Subject, SubjectKind
from embedgate.core.errors import Overloaded
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.core.types import LedgerEntry
from embedgate.storage.database import Database
from embedgate.storage.narrowing import narrowed
from embedgate.storage.paging import Listing, read_page
from embedgate.storage.schema import ledger

Dimension = Literal["day", "week", "month", "model", "upstream_model", "provider", "user", "project", "key", "action"]

_ENTRY_COLUMNS = tuple(ledger.c[name] for name in LedgerEntry.__struct_fields__)
_SUBJECTS: dict[SubjectKind, sa.Column[Any]] = {
    "key": ledger.c.key_id,
    "user": ledger.c.user_id,
    "project": ledger.c.project_id,
}
_READ_AT_ONCE = 1_000
_IDS_AT_ONCE = 500
_LISTING = Listing(
    fields={
        name: ledger.c[name]
        for name in ("at_ms", "model", "provider", "items", "tokens", "cost_picodollars", "total_ms")
    },
    unique=ledger.c.id.desc(),
    searched=tuple(ledger.c[name] for name in ("request_id", "model", "user_id", "key_id", "end_user", "outcome")),
)
# Literals: PostgreSQL would not take an expression with two parameters for the same one, once grouped by, once read.
_MS_PER_DAY = sa.literal_column("86400000", sa.BigInteger)
_DAY = ledger.c.at_ms // _MS_PER_DAY
_HALF = 2**32
_SQL_HALF = sa.literal_column(str(_HALF), sa.BigInteger)


@dataclasses.dataclass(frozen=True, slots=True)
class LedgerFilter:
    """Which entries are meant: those that agree in every field that is given.

    `since_ms` is the first moment that counts, `until_ms` the first that no longer does.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    user_id: str | None = None
    project_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    provider: str | None = None


EVERY_ENTRY = LedgerFilter()


@dataclasses.dataclass(frozen=True, slots=True)
class UsageRow:
    """The sums of one group of entries. `group` has a text for each dimension; None where entries have no project.

    A day is `2026-11-21`, a week `2026-W47`, a month `2026-11`. `errors` are requests that did not end well. `tokens`
    are of input; chat models have `output_tokens` beside them.
    """

    group: tuple[str | None, ...]
    requests: int
    items: int
    tokens: int
    reused_tokens: int
    cost_picodollars: int
    errors: int
    output_tokens: int = 0


class SqlReports:
    """Reads the ledger. Every method raises InternalError if the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def usage(self, by: Sequence[Dimension] = (), filter_by: LedgerFilter = EVERY_ENTRY) -> list[UsageRow]:
        """The sums by one or several dimensions, in the order of their groups; without one, a single row of totals.

        Raises InvalidInput for a time that is none, as `entries` does.
        """
        dimensions = [_DIMENSIONS[name] for name in by]
        columns = [dimension.column for dimension in dimensions]
        query = narrowed(sa.select(*columns, *_sums()).select_from(ledger), ledger, filter_by).group_by(*columns)
        totals: dict[tuple[str | None, ...], list[int]] = {}
        with self._database.read() as connection:
            for row in connection.execute(query):
                labels = zip(dimensions, row[: len(by)], strict=True)
                group = tuple(dimension.label(value) for dimension, value in labels)
                sums = _whole(row[len(by) :])
                known = totals.get(group)  # months are added up here, from days
                totals[group] = sums if known is None else [a + b for a, b in zip(known, sums, strict=True)]
        ordered = sorted(totals, key=lambda group: [(label is not None, label or "") for label in group])
        return [UsageRow(group, *totals[group]) for group in ordered]

    def spent(self, subject: Subject, since_ms: int, without: Collection[str] = ()) -> int:
        """What one key, user or project has spent from a time on, in picodollars. without: requests not to count."""
        with self._database.read() as connection:
            return sum_spent(connection, subject, since_ms, without)

    def entries(self, filter_by: LedgerFilter = EVERY_ENTRY, query: PageQuery = FIRST_PAGE) -> Page[LedgerEntry]:
        """A page of the entries, newest first unless sorted otherwise. Raises InvalidInput for an unfit page."""
        rows = narrowed(sa.select(*_ENTRY_COLUMNS), ledger, filter_by)
        newest_first = dataclasses.replace(query, sort=query.sort or "-at_ms")
        with self._database.read() as connection:
            found, total = read_page(connection, rows, _LISTING, newest_first)
        return Page(tuple(LedgerEntry(**row._mapping) for row in found), total)

    def entry(self, request_id: str, user_id: str | None = None) -> LedgerEntry | None:
        """The entry of one request; None if it left none, or if a user is named and it is another's."""
        query = sa.select(*_ENTRY_COLUMNS).where(ledger.c.request_id == request_id)
        if user_id is not None:
            query = query.where(ledger.c.user_id == user_id)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else LedgerEntry(**row._mapping)

    def every_entry(self, filter_by: LedgerFilter = EVERY_ENTRY) -> Iterator[LedgerEntry]:
        """All the entries in the order in which they were written, in bounded memory and without a long transaction."""
        query = narrowed(sa.select(ledger.c.id, *_ENTRY_COLUMNS), ledger, filter_by)
        query = query.order_by(ledger.c.id).limit(_READ_AT_ONCE)
        last_id, n = 0, _READ_AT_ONCE
        while n == _READ_AT_ONCE:
            with self._database.read() as connection:
                rows = connection.execute(query.where(ledger.c.id > last_id)).all()
            n = len(rows)
            for row_id, *fields in rows:
                last_id = row_id
                yield LedgerEntry(*fields)


class LedgerSpending:
    """What subjects have spent, for the event loop: asked on one named worker, so that no sum holds up a request."""

    def __init__(self, database: Database, *, max_waiting: int = 1_000) -> None:
        """max_waiting: questions that may wait for the worker."""
        self._reports = SqlReports(database)
        self._max_waiting = max_waiting
        self._waiting = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedgate-spending")

    async def spent(self, subject: Subject, since_ms: int, without: Collection[str] = ()) -> int:
        """What the ledger has of a key, user or project from a time on, in picodollars, but for some requests.

        Raises InternalError if the database fails, Overloaded if too many questions wait.
        """
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} budgets are being added up. Try again.", retry_after_s=1.0)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, self._reports.spent, subject, since_ms, without)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let the sum that is being made end, and stop the worker."""
        self._worker.shutdown(cancel_futures=True)


def sum_spent(connection: sa.Connection, subject: Subject, since_ms: int, without: Collection[str] = ()) -> int:
    """What one key, user or project has spent from a time on, in picodollars. without: requests not to count."""
    query = sa.select(*_exact_sum(ledger.c.cost_picodollars)).where(
        _SUBJECTS[subject.kind] == subject.id, ledger.c.at_ms >= since_ms
    )
    total = _joined(*connection.execute(query).one())
    left_out = list(without)
    for start in range(0, len(left_out), _IDS_AT_ONCE):
        ids = left_out[start : start + _IDS_AT_ONCE]
        total -= _joined(*connection.execute(query.where(ledger.c.request_id.in_(ids))).one())
    return total


@dataclasses.dataclass(frozen=True, slots=True)
class _Grouping:
    """How a dimension is read from the table, and what a value is called."""

    column: sa.ColumnElement[Any]
    label: Callable[[Any], str | None] = lambda value: value


def _day(days: int) -> date:
    return date(1970, 1, 1) + timedelta(days=days)


def _week(weeks: int) -> str:
    year, week, _ = _day(7 * weeks - 3).isocalendar()
    return f"{year}-W{week:02}"


_DIMENSIONS: dict[Dimension, _Grouping] = {
    "day": _Grouping(_DAY, lambda days: _day(days).isoformat()),
    # 1970 began on a Thursday.
    "week": _Grouping((_DAY + sa.literal_column("3", sa.BigInteger)) // sa.literal_column("7", sa.BigInteger), _week),
    "month": _Grouping(_DAY, lambda days: _day(days).isoformat()[:7]),
    "model": _Grouping(ledger.c.model),
    "upstream_model": _Grouping(ledger.c.upstream_model),
    "provider": _Grouping(ledger.c.provider),
    "user": _Grouping(ledger.c.user_id),
    "project": _Grouping(ledger.c.project_id),
    "key": _Grouping(ledger.c.key_id),
    "action": _Grouping(ledger.c.action),
}


def _sums() -> list[sa.ColumnElement[Any]]:
    """The columns of a UsageRow; the cost as two."""
    counted = [sa.func.sum(ledger.c[name]) for name in ("items", "tokens", "reused_tokens")]
    errors = sa.func.sum(sa.case((ledger.c.outcome != "ok", 1), else_=0))
    return [
        sa.func.count(),
        *counted,
        *_exact_sum(ledger.c.cost_picodollars),
        errors,
        sa.func.sum(ledger.c.output_tokens),
    ]


def _whole(row: Sequence[Any]) -> list[int]:
    requests, items, tokens, reused_tokens, high, low, errors, output_tokens = row
    cost = _joined(high, low)
    return [int(n or 0) for n in (requests, items, tokens, reused_tokens, cost, errors, output_tokens)]


def _exact_sum(column: sa.Column[Any]) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    """The sum in two halves, to be joined: SQLite refuses one over 2^63, which is nine million dollars.

    Sums of tokens and items never come near that; if one did, the report would fail with InternalError, not be wrong.
    """
    return sa.func.sum(column // _SQL_HALF), sa.func.sum(column % _SQL_HALF)


def _joined(high: Any, low: Any) -> int:
    return int(high or 0) * _HALF + int(low or 0)
