"""Hash chain of the audit trail: the digest of a row covers the row and the digest before it.

Knows no database. The chain is not keyed: who can rewrite the whole trail can make a new one, and only a digest
that was kept elsewhere (`verify` takes one) shows that.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from embedgate.core.access import AuditEvent


class Link(NamedTuple):
    """Link of the chain: the number of a row, and its digest."""

    seq: int
    digest: bytes


ORIGIN = Link(0, bytes(32))
"""The link before the first row."""


class AuditRow(NamedTuple):
    """A row of the table. `policies` is a JSON array and `detail` a JSON object; `previous` is the digest before it."""

    seq: int
    at_ms: int
    kind: str
    actor: str
    action: str
    target: str
    outcome: str
    request_id: str
    policies: str
    detail: str
    previous: bytes
    digest: bytes

    @property
    def link(self) -> Link:
        """The link of this row."""
        return Link(self.seq, self.digest)


def chained(events: Sequence[AuditEvent], after: tuple[int, bytes]) -> list[tuple[Any, ...]]:
    """Chain the events after the link `after`, a number and a digest. Each row has the values of an `AuditRow`.

    Raises ValueError for a value that cannot be stored.
    """
    rows = []
    seq, previous = after
    for event in events:
        seq += 1
        content = (
            seq,
            event.at_ms,
            event.kind,
            event.actor,
            event.action,
            event.target,
            event.outcome,
            event.request_id,
            _json_of_policies(event.policies),
            _json(dict(event.detail)).decode() if event.detail else "{}",
        )
        digest = _digest(previous, _json(content))
        rows.append((*content, previous, digest))
        previous = digest
    return rows


def is_unchanged(row: AuditRow) -> bool:
    """Whether a stored row matches its digest."""
    try:
        return _digest(row.previous, _json(row[:-2])) == row.digest
    except (TypeError, ValueError):  # SQLite does not enforce column types: there may be a number in place of a text
        return False


def event_of(row: AuditRow) -> AuditEvent:
    """The event of a row."""
    detail: Mapping[str, Any] = orjson.loads(row.detail)
    return AuditEvent(
        kind=row.kind,  # type: ignore[arg-type]  # rows are made of events only
        at_ms=row.at_ms,
        actor=row.actor,
        action=row.action,
        target=row.target,
        outcome=row.outcome,
        request_id=row.request_id,
        policies=tuple(orjson.loads(row.policies)),
        detail=detail,
    )


def _digest(previous: bytes, content: bytes) -> bytes:
    """SHA-256 over 32 bytes and a JSON array: two rows that differ anywhere give different bytes."""
    return hashlib.sha256(previous + content).digest()


@functools.lru_cache(maxsize=256)
def _json_of_policies(policies: tuple[str, ...]) -> str:
    """The same few lists decide most requests."""
    return _json(policies).decode()


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:  # a lone surrogate, a number over 64 bits
        raise ValueError("an audit event holds what JSON cannot") from error
