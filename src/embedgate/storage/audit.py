"""Audit trail, blocking: append for administrators, read, verify, and prune.

Events of requests are noted on the event loop instead (`ledger`). Nothing here changes a row; only `prune` deletes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import sqlalchemy as sa

from embedgate.core.access import AuditEvent, AuditKind
from embedgate.core.clock import utc_ms
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.storage.appender import Appender
from embedgate.storage.chain import AuditRow, event_of
from embedgate.storage.database import Database
from embedgate.storage.narrowing import narrowed
from embedgate.storage.paging import Listing, read_page
from embedgate.storage.schema import audit
from embedgate.storage.verify import RETENTION, Head, Verification, Walk

_COLUMNS = tuple(audit.c[name] for name in AuditRow._fields)
# As the driver returns them: a value of a wrong type must be detected, not fail in its conversion.
_UNTYPED = tuple(sa.type_coerce(column, sa.types.NULLTYPE).label(column.name) for column in _COLUMNS)
_READ_AT_ONCE = 1_000
_DELETED_AT_ONCE = 2_000
_LISTING = Listing(
    fields={
        "seq": audit.c.seq,
        "at_ms": audit.c.at_ms,
        "kind": audit.c.kind,
        "actor": audit.c.actor,
        "action": audit.c.action,
        "target": audit.c.target,
        "outcome": audit.c.outcome,
    },
    unique=audit.c.seq,
    searched=(audit.c.actor, audit.c.action, audit.c.target, audit.c.request_id, audit.c.policies),
)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Filter of audit events: those that match every field that is given.

    `since_ms` is inclusive, `until_ms` exclusive.
    """

    kind: AuditKind | None = None
    actor: str | None = None
    action: str | None = None
    target: str | None = None
    outcome: str | None = None
    request_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


EVERY_EVENT = AuditFilter()


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """Stored audit event, with its number in the chain and its digest in hex."""

    seq: int
    digest: str
    event: AuditEvent


class SqlAudit:
    """The audit trail in SQL. Every method raises InternalError if the database fails."""

    def __init__(self, database: Database, clock: Callable[[], int] = utc_ms) -> None:
        """clock: UTC milliseconds since 1970."""
        self._database = database
        self._clock = clock
        self._append = Appender(database.dialect)

    def append(self, events: Sequence[AuditEvent]) -> None:
        """Append events; return once all are committed, in order and adjacent.

        Raises ValueError or OverflowError for a value that cannot be stored, such as a lone surrogate.
        """
        with self._database.write() as connection:
            self._append(connection.exec_driver_sql, events)

    def events(self, filter_by: AuditFilter = EVERY_EVENT, query: PageQuery = FIRST_PAGE) -> Page[StoredEvent]:
        """A page of the trail, newest first by default. Raises InvalidInput for an invalid page or time."""
        rows = narrowed(sa.select(*_COLUMNS), audit, filter_by)
        with self._database.read() as connection:
            found, total = read_page(connection, rows, _LISTING, replace(query, sort=query.sort or "-seq"))
        stored = (AuditRow._make(row) for row in found)
        return Page(tuple(StoredEvent(row.seq, row.digest.hex(), event_of(row)) for row in stored), total)

    def verify(self, expected: Head | None = None) -> Verification:
        """Verify the whole chain, in bounded memory and in one snapshot. About 100,000 rows a second.

        expected: an end of the trail that was kept elsewhere; without one, a trail that was truncated, or rewritten
        from some row on, cannot be told from a whole one. An end that was pruned since is not checked.
        """
        walk = Walk(expected)
        with self._database.read() as connection:
            streaming = connection.execution_options(yield_per=_READ_AT_ONCE)
            for row in streaming.execute(sa.select(*_UNTYPED).order_by(audit.c.seq)):
                walk.step(AuditRow._make(row))
        return walk.end()

    def prune(self, before_ms: int, *, actor: str) -> int:
        """Delete the oldest rows, up to the first one that is not before that time; return how many.

        Works in pieces, so that no request waits long for its own commit. Each appends an event of the kind
        `retention`, with the number and digest of the last row that it deleted: there, and
        nowhere else, the trail may then begin.
        """
        with self._database.read() as connection:
            end = connection.execute(sa.select(sa.func.max(audit.c.seq))).scalar_one() or 0
        deleted = 0
        while n := self._prune_piece(before_ms, end, actor):
            deleted += n
        return deleted

    def _prune_piece(self, before_ms: int, end: int, actor: str) -> int:
        oldest = (
            sa.select(audit.c.seq, audit.c.at_ms, audit.c.digest)
            .where(audit.c.seq <= end)  # not the events that pruning itself adds, however late `before_ms` is
            .order_by(audit.c.seq)
            .limit(_DELETED_AT_ONCE)
        )
        with self._database.write() as connection:
            rows = list(takewhile(lambda row: row.at_ms < before_ms, connection.execute(oldest)))
            if not rows:
                return 0
            last = rows[-1]
            event = AuditEvent(
                kind=RETENTION,
                at_ms=self._clock(),
                actor=actor,
                action="audit.prune",
                target=f"rows {rows[0].seq} to {last.seq}",
                outcome="ok",
                detail={
                    "before_ms": before_ms,
                    "rows": len(rows),
                    "last_seq": last.seq,
                    "last_digest": last.digest.hex(),
                },
            )
            self._append(connection.exec_driver_sql, [event])  # first, while the trail still has an end to chain to
            connection.execute(audit.delete().where(audit.c.seq <= last.seq))
        return len(rows)
