"""Verification of a stored chain: every row matches its digest, none is missing, and the start is accounted for.

Works on rows in the order of their numbers, from any source.
"""

from dataclasses import dataclass
from typing import Final

from embedgate.core.access import AuditKind
from embedgate.storage.chain import ORIGIN, AuditRow, Link, event_of, is_unchanged

RETENTION: Final[AuditKind] = "retention"


@dataclass(frozen=True, slots=True)
class Head:
    """Head of a trail: the number of its last row, and its digest in hex. To be kept elsewhere."""

    seq: int
    digest: str


@dataclass(frozen=True, slots=True)
class Break:
    """A break in the chain. `reason` is a sentence about the row `seq`."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of a verification: number of rows, the head, and the first break, None in an intact trail."""

    count: int
    head: Head
    first_break: Break | None

    @property
    def is_intact(self) -> bool:
        """Whether there is no break."""
        return self.first_break is None


class Walk:
    """One verification: call `step` for each row from the first to the last, then `end`."""

    def __init__(self, expected: Head | None) -> None:
        """expected: a head that the trail had at some time."""
        self._expected = expected
        self._count = 0
        self._start: Link | None = None
        self._at = ORIGIN
        self._may_begin_after = ORIGIN
        self._break: Break | None = None

    def step(self, row: AuditRow) -> None:
        """Check the next row, with its values as stored."""
        if self._start is None:
            self._start = self._at = Link(row.seq - 1, row.previous)
        self._break = self._break or self._fault_of(row)
        self._count += 1
        self._at = row.link
        if row.kind == RETENTION:
            self._may_begin_after = _pruned_until(row)

    def end(self) -> Verification:
        """The result."""
        breaks = [found for found in (self._break, self._fault_of_beginning(), self._fault_of_end()) if found]
        seq, digest = self._at
        return Verification(
            self._count, Head(seq, _hex(digest)), min(breaks, key=lambda found: found.seq, default=None)
        )

    def _fault_of(self, row: AuditRow) -> Break | None:
        if row.seq != self._at.seq + 1:
            return Break(row.seq, f"Row {row.seq} follows row {self._at.seq}: what was between them is missing.")
        if not is_unchanged(row):
            return Break(row.seq, f"Row {row.seq} does not match its digest: it was changed.")
        if row.previous != self._at.digest:
            return Break(row.seq, f"Row {row.seq} does not continue row {self._at.seq}: one of them was exchanged.")
        if self._expected is not None and row.seq == self._expected.seq and _hex(row.digest) != self._expected.digest:
            return Break(row.seq, f"Row {row.seq} has digest {_hex(row.digest)}, not {self._expected.digest}.")
        return None

    def _fault_of_beginning(self) -> Break | None:
        start = self._start
        if start is None or start == self._may_begin_after:
            return None
        return Break(
            start.seq + 1,
            f"The trail begins with row {start.seq + 1}; by its last retention event it begins with row "
            f"{self._may_begin_after.seq + 1}.",
        )

    def _fault_of_end(self) -> Break | None:
        if self._expected is None or self._at.seq >= self._expected.seq:
            return None
        return Break(
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
