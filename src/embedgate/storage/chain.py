"""Hash chains of the audit trail and of the ledger: the digest of a row covers the row and the digest before it.

A change, a gap or a swap is detected. The chains are not keyed: who can rewrite a whole one can make a new one or cut
off its end, and only a digest that was kept elsewhere (`verify` takes one of each) shows that. Ledger entries from
before the chain have no digest; the table `ledger_chain` says where it begins.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from embedgate.core.access import AuditEvent
from embedgate.storage.schema import ledger


class Link(NamedTuple):
    """Link of the chain: the number of a row, and its digest."""

    seq: int
    digest: bytes


ORIGIN = Link(0, bytes(32))
"""The link before the first row of either chain."""
LEDGER_COLUMNS = tuple(column.name for column in ledger.c if column.name not in ("id", "digest"))
"""What the digest of an entry covers, in the order of the table. A new column goes to its end, with an empty default.
"""
_FIRST_COLUMNS = 27
"""So many there were when the chain began. Of later ones, those at the end that are empty are left out of the digest,
so that entries from before a column keep theirs."""
_EMPTY = (0, None, "")
_ESTIMATED = LEDGER_COLUMNS.index("tokens_estimated")
_BOOLEANS: dict[object, bool] = {0: False, 1: True}


class AuditRow(NamedTuple):
    """A row of the audit trail. `policies` is a JSON array, `detail` a JSON object, `previous` the digest before it."""

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


def digest_of(previous: bytes, entry_id: int, values: Sequence[Any]) -> bytes:
    """The digest of an entry. values: of `LEDGER_COLUMNS`. Raises ValueError for a value that cannot be stored."""
    end = len(values)
    while end > _FIRST_COLUMNS and values[end - 1] in _EMPTY:
        end -= 1
    try:
        content = orjson.dumps((entry_id, *values[:end]))
    except orjson.JSONEncodeError as error:  # a lone surrogate, a number over 64 bits
        raise ValueError("a ledger entry holds what JSON cannot") from error
    return hashlib.sha256(previous + content).digest()


class LedgerWalk:
    """One verification of the ledger's chain: call `step` for each entry by its id, then read the result.

    `reason` says what is wrong with the first entry that is, `at_id`; None while all is well.
    """

    def __init__(self, begins_after: int, expected: tuple[int, str] | None = None) -> None:
        """begins_after: the last entry before the chain. expected: id and digest of an end that it had at some time."""
        self.n_entries = 0
        self.last_id = 0
        self.digest = ORIGIN.digest
        self.reason: str | None = None
        self.at_id = 0
        self._begins_after = begins_after
        self._expected = expected

    def step(self, entry_id: int, digest: object, values: Sequence[Any]) -> None:
        """Check the next entry, with its values as stored."""
        self.n_entries += 1
        if self.reason is None and (fault := self._fault_of(entry_id, digest, values)) is not None:
            self.reason, self.at_id = fault, entry_id
        self.last_id = entry_id
        if isinstance(digest, bytes):
            self.digest = digest

    def end(self) -> None:
        """Check the end against the expected one, and that the chain begins within what there is."""
        if self.reason is None and self._begins_after > self.last_id:
            self.reason = f"The chain begins after entry {self._begins_after}, and the ledger ends with {self.last_id}."
            self.at_id = self.last_id + 1
        if self.reason is None and self._expected is not None and self._expected[0] <= self._begins_after:
            self.reason = f"The chain begins after entry {self._begins_after}; entry {self._expected[0]} was in it."
            self.at_id = self._expected[0]
        if self.reason is None and self._expected is not None and self.last_id < self._expected[0]:
            self.reason = f"The ledger ends with entry {self.last_id}; it went on to entry {self._expected[0]}."
            self.at_id = self.last_id + 1

    def _fault_of(self, entry_id: int, digest: object, values: Sequence[Any]) -> str | None:
        if entry_id < 1:
            return f"Entry {entry_id} was not written by the gateway, whose first one is entry 1."
        if entry_id <= self._begins_after:
            return None if digest is None else f"Entry {entry_id} is from before the chain and has a digest."
        first = max(self.last_id, self._begins_after) + 1
        if entry_id != first:
            return f"Entry {entry_id} comes where entry {first} was: what was between them is missing."
        if not isinstance(digest, bytes):
            return f"Entry {entry_id} has no digest: it was not written by the gateway."
        if self._digest_of(entry_id, values) != digest:
            return f"Entry {entry_id} does not match its digest: it, or the one before it, was changed."
        if self._expected is not None and entry_id == self._expected[0] and digest.hex() != self._expected[1]:
            return f"Entry {entry_id} has digest {digest.hex()}, not {self._expected[1]}."
        return None

    def _digest_of(self, entry_id: int, values: Sequence[Any]) -> bytes | None:
        typed = list(values)
        typed[_ESTIMATED] = _BOOLEANS.get(typed[_ESTIMATED], typed[_ESTIMATED])
        try:
            return digest_of(self.digest, entry_id, typed)
        except (TypeError, ValueError):  # SQLite does not enforce column types: there may be a number for a text
            return None
