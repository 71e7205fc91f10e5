"""One generation of the disk tier: a file of records that only grows, and the table of where each one lies.

A generation is filled, read, and dropped as a whole; nothing in it is moved or freed. Every record is checked when it
is read, so that nothing need be synced: what a power cut or a killed process leaves half done is a miss.
Which generations there are is decided elsewhere.
"""

import contextlib
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from embedgate.storage.cache.files import Damaged, MappedFile, create_sparse_file
from embedgate.storage.cache.record import HEADER_BYTES, Entry, Record, checksum, decode
from embedgate.storage.cache.table import (
    Header,
    Probe,
    Table,
    create_table,
    pack_place,
    table_bytes,
    unpack_place,
)

_TABLE = "table"
_VECTORS = "vectors"
_LOOK_EVERY = 16
_RECORDS_PER_TURN = 32  # about 0.2 ms
_COLD_READ_S = 25e-6  # four times what a vector of 1,536 numbers takes from memory, a quarter of a read from an SSD


class Rejected(NamedTuple):
    """A place in the table whose record does not match its checksum."""

    generation: int
    key: bytes
    place: bytes


class Generation:
    """An open generation. `find` and the counts may be called from any thread, all else by the holder of the lock."""

    def __init__(self, folder: Path, number: int) -> None:
        """Open generation `number`, which is in `folder`. Raises Damaged if it is not whole, or OSError."""
        self.number = number
        with contextlib.ExitStack() as opened:
            try:
                self._vectors = MappedFile(folder / _VECTORS)
                opened.callback(self._vectors.close)
                self._table = Table(folder / _TABLE)
                opened.callback(self._table.close)
            except FileNotFoundError as error:
                raise Damaged("a file is missing") from error
            if self._table.header().end > self._vectors.size_bytes:
                raise Damaged(f"{_VECTORS} is cut short")
            self._vectors.expect_scattered_reads()
            self._opened = opened.pop_all()

    def find(self, keys: Iterable[Probe]) -> tuple[dict[bytes, Entry], list[Rejected]]:
        """Entries of those keys that are here, each checked against its checksum, and places that failed.

        Raises ValueError if the generation is closed meanwhile.
        """
        located = self._table.find(keys)
        found: dict[bytes, Entry] = {}
        rejected: list[Rejected] = []
        vectors = self._vectors.map
        is_warm = True
        for first in range(0, len(located), _LOOK_EVERY):
            begun_s = time.perf_counter()
            for key, place in located[first : first + _LOOK_EVERY]:
                offset, length, expected = unpack_place(place)
                record = vectors[offset : offset + length]
                is_whole = checksum(key, record[:HEADER_BYTES], memoryview(record)[HEADER_BYTES:]) == expected
                entry = decode(record, self.number) if is_whole else None
                if entry is not None:
                    found[key] = entry
                else:
                    rejected.append(Rejected(self.number, key, place))
            if is_warm and time.perf_counter() - begun_s > _LOOK_EVERY * _COLD_READ_S:
                is_warm = False
                self._request(located[first + _LOOK_EVERY :])
        return found, rejected

    def append(self, records: Sequence[tuple[bytes, Record]]) -> int:
        """Add records by key; a key that is here already gets the new one. Returns how many: 0 if there is no room.

        Raises OSError or Damaged.
        """
        end, n_slots = self._table.header()
        following = end + sum(len(header) + len(floats) for _, (header, floats) in records)
        if following > self._vectors.size_bytes or n_slots + len(records) > self._table.max_slots:
            return 0
        # In this order a process that is killed leaves room unused, but no place that leads to another's record.
        self._table.write_header(Header(following, n_slots + len(records)))
        try:
            self._vectors.write([part for _, record in records for part in record], end)
        except OSError:
            self._table.write_header(Header(end, n_slots))  # else a full disk would use the room up without a record
            raise
        n_taken = n_lost = 0
        for position, (key, (header, floats)) in enumerate(records, start=1):
            length = len(header) + len(floats)
            taken = self._table.put(key, pack_place(end, length, checksum(key, header, floats)))
            end += length
            n_taken += taken or 0
            n_lost += taken is None
            if position % _RECORDS_PER_TURN == 0:
                time.sleep(0)  # the event loop would wait for the interpreter lock until it is taken away
        self._table.write_header(Header(following, n_slots + n_taken))
        return len(records) - n_lost

    def remove(self, rejected: Rejected) -> None:
        """Forget a place, unless it has been replaced meanwhile. Raises OSError."""
        self._table.remove(rejected.key, rejected.place)

    def n_entries(self) -> int:
        """How many entries are here; 0 if that cannot be read at the moment."""
        try:
            return self._table.header().n_slots
        except Damaged:
            return 0

    def used_bytes(self) -> int:
        """What the files take on disk. Raises OSError."""
        return self._table.used_bytes() + self._vectors.used_bytes()

    def close(self) -> None:
        """Let go of the files."""
        self._opened.close()

    def _request(self, located: Sequence[tuple[bytes, bytes]]) -> None:
        """Have the system fetch records all at once, which a cold disk does far faster than one after the other.

        2,048 vectors of 1,536 numbers from a cold disk: 400 ms one by one, 50 ms so.
        """
        for _, place in located:
            offset, length, _ = unpack_place(place)
            self._vectors.request(offset, length)


def create_generation(folder: Path, capacity_bytes: int) -> None:
    """Make an empty generation in `folder`, in place of anything that is there.

    capacity_bytes: what its files may take together; they never grow beyond. Raises OSError.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    size = table_bytes(capacity_bytes)
    create_table(folder / _TABLE, size)
    create_sparse_file(folder / _VECTORS, capacity_bytes - size)


def capacity_of(folder: Path) -> int:
    """What the files of the generation in `folder` can take at most, whole or not. Raises OSError."""
    return sum(path.stat().st_size for path in folder.iterdir())


def max_group(capacity_bytes: int) -> tuple[int, int]:
    """How many records, and how many bytes of them, to append at once: so few that little is left over at the end."""
    return 1024, min(4_000_000, capacity_bytes // 64)


def fits(record_bytes: int, capacity_bytes: int) -> bool:
    """Whether an empty generation of that capacity takes a record."""
    return record_bytes <= capacity_bytes - table_bytes(capacity_bytes)
