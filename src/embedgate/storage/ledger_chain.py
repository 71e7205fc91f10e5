"""Hash chain of the ledger: the digest of an entry covers the entry, its place, and the digest before it.

As for the audit trail (`chain`): a change, a gap or a swap is detected; an end that was cut off, only by who has
kept it. Entries from before the chain have no digest, and the table `ledger_chain` says where it begins.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from embedgate.storage.schema import ledger

COLUMNS = tuple(column.name for column in ledger.c if column.name not in ("id", "digest"))
"""What a digest covers, in the order of the table. A new column goes to its end, with an empty default."""
ORIGIN = bytes(32)
"""The digest before the first entry of the chain."""
_FIRST_COLUMNS = 27
"""So many there were when the chain began. Of later ones, those at the end that are empty are left out of the digest,
so that entries from before a column keep theirs."""
_EMPTY = (0, None, "")
_ESTIMATED = COLUMNS.index("tokens_estimated")
_BOOLEANS: dict[object, bool] = {0: False, 1: True}


def digest_of(previous: bytes, entry_id: int, values: Sequence[Any]) -> bytes:
    """The digest of an entry. values: of `COLUMNS`. Raises ValueError for a value that cannot be stored."""
    end = len(values)
    while end > _FIRST_COLUMNS and values[end - 1] in _EMPTY:
        end -= 1
    try:
        content = orjson.dumps((entry_id, *values[:end]))
    except orjson.JSONEncodeError as error:  # a lone surrogate, a number over 64 bits
        raise ValueError("a ledger entry holds what JSON cannot") from error
    return hashlib.sha256(previous + content).digest()


class LedgerWalk:
    """One verification: call `step` for each entry by its id, then read the result.

    `reason` says what is wrong with the first entry that is, `at_id`; None while all is well.
    """

    def __init__(self, begins_after: int, expected: tuple[int, str] | None = None) -> None:
        """begins_after: the last entry before the chain. expected: id and digest of an end that it had at some time."""
        self.n_entries = 0
        self.last_id = 0
        self.digest = ORIGIN
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
        except (
            TypeError,
            ValueError,
        ):  # SQLite does not enforce column types: there may be a number for a text
            return None
