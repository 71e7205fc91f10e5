"""Audit trail: read, verified, and shortened. Nothing changes an event; only pruning deletes, and says so in the trail.

Changes and logins are written to it by `change`, decisions about requests by `storage.ledger`.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Any, NamedTuple

import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.access import AuditKind
from embedgate.core.errors import Conflict, InvalidInput
from embedgate.govern.change import Invocation, Reading
from embedgate.govern.fields import check_number, findable
from embedgate.govern.lists import Listed, Listing, ListQuery, Numbered, read_page
from embedgate.govern.operation import Facts, reads, runs
from embedgate.govern.values import Moment, milliseconds, moment
from embedgate.storage.chain import LEDGER_COLUMNS, ORIGIN, AuditRow, LedgerWalk, Link, event_of, is_unchanged
from embedgate.storage.database import any_text
from embedgate.storage.schema import audit, keys, ledger, projects, users
from embedgate.storage.schema import ledger_chain as ledger_chain_table

_MS_PER_DAY = 86_400_000
_MAX_KEEP_DAYS = 36_500
_READ_AT_ONCE = 1_000
_DELETED_AT_ONCE = 2_000
_COLUMNS = tuple(audit.c[name] for name in AuditRow._fields)
# As the driver returns them: a value of a wrong type must be detected, not fail in its conversion.
_UNTYPED = tuple(sa.type_coerce(column, sa.types.NULLTYPE).label(column.name) for column in _COLUMNS)
_LEDGER_COLUMNS = tuple(
    sa.type_coerce(ledger.c[name], sa.types.NULLTYPE).label(name) for name in ("id", "digest", *LEDGER_COLUMNS)
)
_LISTING = Listing(
    fields={
        "seq": audit.c.seq,
        "at": audit.c.at_ms,
        "kind": audit.c.kind,
        "actor": audit.c.actor,
        "action": audit.c.action,
        "target": audit.c.target,
        "outcome": audit.c.outcome,
    },
    unique=audit.c.seq,
    searched=(audit.c.actor, audit.c.action, audit.c.target, audit.c.request_id, audit.c.policies),
    numbered=Numbered("Row", audit.c.seq),
)


class AuditQuery(ListQuery):
    """Which events: those that agree in every field that is given."""

    kind: AuditKind | None = None
    actor: Annotated[str | None, Meta(description="Id, or name of a user or of keys.")] = None
    action: str | None = None
    target: Annotated[str | None, Meta(description="Id, or name of a user, a project or of keys.")] = None
    outcome: str | None = None
    request_id: str | None = None
    since: Annotated[Moment | None, Meta(description="The first moment that counts.")] = None
    until: Annotated[Moment | None, Meta(description="The first moment that no longer counts.")] = None
    sort: Annotated[str, _LISTING.sorts] = ""


class Event(Struct, frozen=True):
    """An audit event: a decision, a change, a login, or a deletion of older events."""

    seq: Annotated[int, Meta(description="Its place in the trail.")]
    at: Moment
    kind: AuditKind
    actor: Annotated[
        str, Meta(description="Id of the user or key; `command line`; `gateway`; `stranger` before a login.")
    ]
    action: str
    target: Annotated[str, Meta(description="Id of what it was done to.")]
    outcome: Annotated[str, Meta(description="`permit`, `forbid`, `ok` or the code of an error.")]
    request_id: str
    policies: Annotated[tuple[str, ...], Meta(description="Those that decided.")]
    detail: Mapping[str, str | int | bool | None]
    digest: Annotated[str, Meta(description="Of this event and all before it.")]


class VerifyQuery(Struct, forbid_unknown_fields=True):
    """An end of the trail that was kept elsewhere, which must still be there: both or neither."""

    seq: int | None = None
    digest: str | None = None
    ledger_id: Annotated[int | None, Meta(description="The same for the ledger.")] = None
    ledger_digest: str | None = None


class TrailEnd(Struct, frozen=True):
    """The end of the trail. Keep it elsewhere: it shows later that nothing was cut off or written anew."""

    seq: int
    digest: str


class TrailBreak(Struct, frozen=True):
    """The first place where the trail differs from what was written."""

    seq: int
    reason: str


class LedgerEnd(Struct, frozen=True):
    """The end of the ledger. Keep it elsewhere, as that of the trail."""

    id: int
    digest: str


class LedgerBreak(Struct, frozen=True):
    """The first place where the ledger differs from what was written."""

    id: int
    reason: str


class VerifiedLedger(Struct, frozen=True):
    """What a walk along the whole ledger found."""

    ok: bool
    entries: int
    begins_after: Annotated[int, Meta(description="The last entry from before the chain, which nothing protects.")]
    end: LedgerEnd
    first_break: LedgerBreak | None


class Verified(Struct, frozen=True):
    """What a walk along the whole trail, and along the whole ledger, found. `ok`: both are as they were written."""

    ok: bool
    events: int
    end: TrailEnd
    first_break: TrailBreak | None
    ledger: VerifiedLedger
    begins_after: Annotated[int, Meta(description="The last event that was deleted for its age; 0 if none was.")] = 0


class Pruning(Struct, forbid_unknown_fields=True):
    """How much of the trail is kept."""

    keep_days: Annotated[int, Meta(description="Age in days from which on events are deleted, at least 1.")]


class Pruned(Struct, frozen=True):
    """How many events were deleted."""

    deleted: int


@reads("audit.list", "GET", "/api/audit", Facts("listEvents", raises=(Conflict,)))
def list_events(reading: Reading, query: AuditQuery) -> Listed[Event]:
    """List the audit trail.

    Newest first.
    """
    rows = sa.select(*_COLUMNS)
    for name in ("kind", "actor", "action", "target", "outcome", "request_id"):
        value: str | None = getattr(query, name)
        if value is not None:
            is_it = audit.c[name] == findable(value)
            rows = rows.where(is_it | audit.c[name].in_(_ids_of(value)) if name in ("actor", "target") else is_it)
    for name, given, is_meant in (
        ("since", query.since, audit.c.at_ms.__ge__),
        ("until", query.until, audit.c.at_ms.__lt__),
    ):
        if given is not None:
            at_ms = milliseconds(given)
            check_number(at_ms, f"time {name}_ms", param=f"{name}_ms", minimum=0)
            rows = rows.where(is_meant(at_ms))
    return read_page(reading, rows, _LISTING, query, _events, default_sort="-seq")


@reads("audit.verify", "GET", "/api/audit/verify", Facts("verifyTrail"))
def verify_trail(reading: Reading, kept: VerifyQuery) -> Verified:
    """Verify the audit trail and the ledger.

    Follows both chains of digests.
    """
    if (kept.seq is None) != (kept.digest is None):
        raise InvalidInput("An end of the trail has seq and digest. Give both or neither.", param="seq")
    if (kept.ledger_id is None) != (kept.ledger_digest is None):
        raise InvalidInput("An end of the ledger has an id and a digest. Give both or neither.", param="ledger_id")
    # Without an end that was kept, a trail that was cut short, or written anew from some row on, cannot be told from a
    # whole one. About 100,000 rows a second, in bounded memory and as of one moment.
    walk = _Walk(None if kept.seq is None or kept.digest is None else TrailEnd(kept.seq, kept.digest))
    streaming = reading.connection.execution_options(yield_per=_READ_AT_ONCE)
    with any_text(streaming):
        for row in streaming.execute(sa.select(*_UNTYPED).order_by(audit.c.seq)):
            walk.step(AuditRow._make(row))
        ledger = _verify_ledger(streaming, kept)
    found = walk.end()
    is_ok = found.first_break is None and ledger.ok
    return Verified(is_ok, found.events, found.end, found.first_break, ledger, found.begins_after)


def _verify_ledger(streaming: sa.Connection, kept: VerifyQuery) -> VerifiedLedger:
    # Of a table that somebody has emptied, the whole ledger is the chain, as it is from the first start on.
    begins_after = streaming.execute(sa.select(ledger_chain_table.c.begins_after)).scalar()
    if not isinstance(begins_after, int):  # SQLite does not enforce column types
        begins_after = 0
    has_end = kept.ledger_id is not None and kept.ledger_digest is not None
    walk = LedgerWalk(begins_after, (kept.ledger_id or 0, kept.ledger_digest or "") if has_end else None)
    rows: Iterable[Sequence[Any]] = streaming.execute(sa.select(*_LEDGER_COLUMNS).order_by(ledger.c.id))
    for row in rows:
        walk.step(row[0], row[1], row[2:])
    walk.end()
    end = LedgerEnd(walk.last_id, walk.digest.hex())
    found = None if walk.reason is None else LedgerBreak(walk.at_id, walk.reason)
    return VerifiedLedger(found is None, walk.n_entries, begins_after, end, found)


@runs("audit.prune", "POST", "/api/audit/prune", Facts("pruneTrail", example={"keep_days": 400}), is_change=True)
def prune_trail(invocation: Invocation, pruning: Pruning) -> Pruned:
    """Delete the oldest events.

    The trail itself tells of it, in events of the kind `retention`.
    """
    keep_days = pruning.keep_days
    check_number(keep_days, "number of days to keep", param="keep_days", minimum=1, maximum=_MAX_KEEP_DAYS)
    return Pruned(prune_before(invocation, invocation.resources.now_ms() - keep_days * _MS_PER_DAY))


def prune_before(invocation: Invocation, before_ms: int) -> int:
    """Delete the oldest events, up to the first one that is not before that time, and say how many they were.

    It goes in pieces, so that no request waits long for its own commit. Each leaves an event of the kind `retention` at
    the end of the trail, with the number and digest of the last row that it deleted: there, and nowhere else, the trail
    may then begin.
    """
    with invocation.read() as reading:
        end = reading.connection.execute(sa.select(sa.func.max(audit.c.seq))).scalar_one() or 0
    deleted = 0
    while n := prune_piece(invocation, before_ms, end):
        deleted += n
    return deleted


def prune_piece(invocation: Invocation, before_ms: int, end: int = 2**62) -> int:
    """Delete one piece as `prune_before` does, in one transaction, and say how many events it had; 0 at the end.

    end: the last row that may be deleted.
    """
    oldest = (
        sa.select(audit.c.seq, audit.c.at_ms, audit.c.digest)
        .where(audit.c.seq <= end)  # not the events that pruning itself adds, however late `before_ms` is
        .order_by(audit.c.seq)
        .limit(_DELETED_AT_ONCE)
    )
    with invocation.change() as change:
        rows = list(takewhile(lambda row: row.at_ms < before_ms, change.connection.execute(oldest)))
        if not rows:
            change.is_noted = True
            return 0
        last = rows[-1]
        change.note_retention(
            "audit.prune",
            f"rows {rows[0].seq} to {last.seq}",
            before_ms=before_ms,
            rows=len(rows),
            last_seq=last.seq,
            last_digest=last.digest.hex(),
        )
        change.connection.execute(audit.delete().where(audit.c.seq <= last.seq))
    return len(rows)


def _events(rows: Sequence[sa.Row[Any]]) -> list[Event]:
    return [_event(AuditRow._make(row)) for row in rows]


def _event(row: AuditRow) -> Event:
    event = event_of(row)
    return Event(
        seq=row.seq,
        at=moment(event.at_ms),
        kind=event.kind,
        actor=event.actor,
        action=event.action,
        target=event.target,
        outcome=event.outcome,
        request_id=event.request_id,
        policies=event.policies,
        detail=event.detail,
        digest=row.digest.hex(),
    )


class _Found(NamedTuple):
    """What a walk along the trail found."""

    events: int
    end: TrailEnd
    first_break: TrailBreak | None
    begins_after: int


class _Walk:
    """One verification: call `step` for each row from the first to the last, then `end`.

    A trail is whole if every row matches its digest, none is missing, and the start is accounted for.
    """

    def __init__(self, expected: TrailEnd | None) -> None:
        """expected: an end that the trail had at some time."""
        self._expected = expected
        self._count = 0
        self._start: Link | None = None
        self._at = ORIGIN
        self._may_begin_after = ORIGIN
        self._break: TrailBreak | None = None

    def step(self, row: AuditRow) -> None:
        """Check the next row, with its values as stored."""
        if self._start is None:
            self._start = self._at = Link(row.seq - 1, row.previous)
        self._break = self._break or self._fault_of(row)
        self._count += 1
        self._at = row.link
        if row.kind == "retention":
            self._may_begin_after = _pruned_until(row)

    def end(self) -> "_Found":
        """The result."""
        breaks = [found for found in (self._break, self._fault_of_beginning(), self._fault_of_end()) if found]
        seq, digest = self._at
        first_break = min(breaks, key=lambda found: found.seq, default=None)
        begins_after = self._start.seq if self._start is not None else 0
        return _Found(self._count, TrailEnd(seq, _hex(digest)), first_break, begins_after)

    def _fault_of(self, row: AuditRow) -> TrailBreak | None:
        seq, expected = row.seq, self._expected
        if seq != self._at.seq + 1:
            return TrailBreak(seq, f"Row {seq} follows row {self._at.seq}: what was between them is missing.")
        if not is_unchanged(row):
            return TrailBreak(seq, f"Row {seq} does not match its digest: it was changed.")
        if row.previous != self._at.digest:
            return TrailBreak(seq, f"Row {seq} does not continue row {self._at.seq}: one of them was exchanged.")
        if expected is not None and seq == expected.seq and _hex(row.digest) != expected.digest:
            return TrailBreak(seq, f"Row {seq} has digest {_hex(row.digest)}, not {expected.digest}.")
        return None

    def _fault_of_beginning(self) -> TrailBreak | None:
        start = self._start
        if start is None or start == self._may_begin_after:
            return None
        return TrailBreak(
            start.seq + 1,
            f"The trail begins with row {start.seq + 1}; by its last retention event it begins with row "
            f"{self._may_begin_after.seq + 1}.",
        )

    def _fault_of_end(self) -> TrailBreak | None:
        if self._expected is None or self._at.seq >= self._expected.seq:
            return None
        return TrailBreak(
            self._at.seq + 1, f"The trail ends with row {self._at.seq}; it went on to row {self._expected.seq}."
        )


def _pruned_until(row: AuditRow) -> Link:
    """The last row that a retention event says was deleted; if it says none, a row number that no trail has."""
    try:
        detail = event_of(row).detail
        return Link(int(str(detail["last_seq"])), bytes.fromhex(str(detail["last_digest"])))
    except (KeyError, TypeError, ValueError):
        return Link(-1, b"")


def _hex(digest: object) -> str:
    return digest.hex() if isinstance(digest, bytes) else ""  # a tampered row may hold anything


def _ids_of(given: str) -> sa.CompoundSelect[tuple[str]]:
    """The ids of users, projects and keys of a name: events have ids."""
    tables = (users, projects, keys)
    return sa.union_all(*(sa.select(table.c.id).where(table.c.name == findable(given)) for table in tables))


OPERATIONS = (list_events, verify_trail, prune_trail)
