"""The audit trail, blocking: appending for administrators, reading, verifying, and forgetting what is too old.

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
# As the driver gives them: a column of another type must be found, not stumble over its conversion.
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
    """Which events are meant: those that agree in every field that is given.

    `since_ms` is the first moment that counts, `until_ms` the first that no longer does.
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
    """An event in the trail: its place in the chain, and the digest there as hex digits."""

    seq: int
    digest: str
    event: AuditEvent


class SqlAudit:
    """The trail. Every method raises InternalError if the database fails."""

    def __init__(self, database: Database, clock: Callable[[], int] = utc_ms) -> None:
        """clock: UTC milliseconds since 1970."""
        self._database = database
        self._clock = clock
        self._append = Appender(database.dialect)

    def append(self, events: Sequence[AuditEvent]) -> None:
        """Return once all the events are committed, in their order and next to each other.

        Raises ValueError or OverflowError if one holds what no row can, such as half of a character.
        """
        with self._database.write() as connection:
            self._append(connection.exec_driver_sql, events)

    def events(self, filter_by: AuditFilter = EVERY_EVENT, query: PageQuery = FIRST_PAGE) -> Page[StoredEvent]:
        """A page of the trail, newest first unless sorted otherwise. Raises InvalidInput for an unfit page or time."""
        rows = narrowed(sa.select(*_COLUMNS), audit, filter_by)
        with self._database.read() as connection:
            found, total = read_page(connection, rows, _LISTING, replace(query, sort=query.sort or "-seq"))
        stored = (AuditRow._make(row) for row in found)
        return Page(tuple(StoredEvent(row.seq, row.digest.hex(), event_of(row)) for row in stored), total)

    def verify(self, expected: Head | None = None) -> Verification:
        """Follow the whole chain, in bounded memory and as of one moment. About 100,000 rows a second.

        expected: an end of the trail that was kept elsewhere; without one, a trail that was cut short, or written
        anew from some row on, cannot be told from a whole one. One that was pruned since is not looked for.
        """
        walk = Walk(expected)
        with self._database.read() as connection:
            streaming = connection.execution_options(yield_per=_READ_AT_ONCE)
            for row in streaming.execute(sa.select(*_UNTYPED).order_by(audit.c.seq)):
                walk.step(AuditRow._make(row))
        return walk.end()

    def prune(self, before_ms: int, *, actor: str) -> int:
        """Delete the oldest rows, up to the first one that is not before that time, and say how many they were.

        It goes in pieces, so that no request waits long for its own commit. Each leaves an event of the kind
        `retention` at the end of the trail, with the number and digest of the last row that it deleted: there, and
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
            self._append(connection.exec_driver_sql, [event])  # first, while the trail still has an end to go on from
            connection.execute(audit.delete().where(audit.c.seq <= last.seq))
        return len(rows)
