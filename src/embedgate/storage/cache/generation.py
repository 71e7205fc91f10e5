"""One generation of the disk tier: an append-only file of records and the hash table that indexes it.

A generation is evicted as a whole; nothing in it is moved or freed. The checksum of each record is verified when it is
read, so nothing is flushed: what a power cut or a killed process leaves incomplete is a miss. `Store` decides which
generations exist.
"""

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from embedgate.storage.cache.files import Damaged, MappedFile, create_sparse_file
from embedgate.storage.cache.record import Entry, Record, checksum, decode
from embedgate.storage.cache.table import (
    Header,
    Table,
    create_table,
    pack_place,
    table_bytes,
    unpack_place,
)

_TABLE = "table"
_VECTORS = "vectors"
_LOOK_EVERY = 16
MAX_RECORD_BYTES = 4_000_000
"""A vector of a million numbers."""
_RECORDS_PER_TURN = 32  # about 0.2 ms
_COLD_READ_S = 25e-6  # four times what a vector of 1,536 numbers takes from memory, a quarter of a read from an SSD


class Rejected(NamedTuple):
    """An index entry whose record fails its checksum."""

    generation: int
    key: bytes
    place: bytes


Located = tuple[bytes, bytes]
"""A key and the place of its record."""


class Generation:
    """An open generation. `read` and the counts may be called on any thread, the rest under the lock of the folder."""

    def __init__(self, folder: Path, number: int) -> None:
        """Open generation `number` in `folder`. Raises Damaged if a file is missing or cut short, or OSError."""
        self.number = number
        with contextlib.ExitStack() as opened:
            try:
                self._vectors = MappedFile(folder / _VECTORS)
                opened.callback(self._vectors.close)
                self.table = Table(folder / _TABLE)
                opened.callback(self.table.close)
            except FileNotFoundError as error:
                raise Damaged("a file is missing") from error
            if self.table.header().end > self._vectors.size_bytes:
                raise Damaged(f"{_VECTORS} is cut short")
            self._vectors.expect_scattered_reads()
            self._opened = opened.pop_all()

    def read(self, located: Sequence[Located]) -> tuple[dict[bytes, Entry], list[Rejected]]:
        """Read the records that `locate` found in `table`: entries by key, and those that fail their checksum.

        Raises ValueError if the generation is closed meanwhile.
        """
        found: dict[bytes, Entry] = {}
        rejected: list[Rejected] = []
        vectors, number = self._vectors.map, self.number
        is_warm = True
        for first in range(0, len(located), _LOOK_EVERY):
            begun_s = time.perf_counter()
            for key, place in located[first : first + _LOOK_EVERY]:
                offset, length, expected = unpack_place(place)
                if length > MAX_RECORD_BYTES:  # a damaged index must not make us read gigabytes
                    rejected.append(Rejected(number, key, place))
                    continue
                entry = decode(key, vectors[offset : offset + length], expected, number)
                if entry is not None:
                    found[key] = entry
                else:
                    rejected.append(Rejected(number, key, place))
            if is_warm and time.perf_counter() - begun_s > _LOOK_EVERY * _COLD_READ_S:
                is_warm = False
                self._request(located[first + _LOOK_EVERY :])
        return found, rejected

    def append(self, records: Sequence[tuple[bytes, Record]]) -> int:
        """Append records and index them by key, in place of a key's old one. Returns how many; 0 if there is no room.

        Raises OSError or Damaged.
        """
        end, n_slots = self.table.header()
        following = end + sum(len(header) + len(floats) for _, (header, floats) in records)
        if following > self._vectors.size_bytes or n_slots + len(records) > self.table.max_slots:
            return 0
        # In this order a process that is killed leaves unused bytes, and no index entry for another key's record.
        self.table.write_header(Header(following, n_slots + len(records)))
        try:
            self._vectors.write([part for _, record in records for part in record], end)
        except OSError:
            self.table.write_header(Header(end, n_slots))  # else a full disk would fill the generation with nothing
            raise
        n_taken = n_lost = 0
        for position, (key, (header, floats)) in enumerate(records, start=1):
            length = len(header) + len(floats)
            taken = self.table.put(key, pack_place(end, length, checksum(key, header, floats)))
            end += length
            n_taken += taken or 0
            n_lost += taken is None
            if position % _RECORDS_PER_TURN == 0:
                time.sleep(0)  # offers the interpreter lock; the event loop would wait 5 ms to be given it
        self.table.write_header(Header(following, n_slots + n_taken))
        return len(records) - n_lost

    def remove(self, rejected: Rejected) -> None:
        """Remove an index entry, unless it has been replaced meanwhile."""
        self.table.remove(rejected.key, rejected.place)

    def is_lost(self) -> bool:
        """Whether a file was cut short while it was open: nothing is found in it any more."""
        return self._vectors.is_lost() or self.table.is_lost()

    def n_entries(self) -> int:
        """The number of entries; 0 if it cannot be read at the moment."""
        try:
            return self.table.header().n_slots
        except Damaged:
            return 0

    def used_bytes(self) -> int:
        """Bytes that the files take on disk. Raises OSError."""
        return self.table.used_bytes() + self._vectors.used_bytes()

    def close(self) -> None:
        """Close the files."""
        self._opened.close()

    def _request(self, located: Sequence[Located]) -> None:
        """Start reading the records into the page cache all at once, which is far faster from a cold disk.

        2,048 vectors of 1,536 numbers from a cold disk: 400 ms one by one, 50 ms so.
        """
        for _, place in located:
            offset, length, _ = unpack_place(place)
            self._vectors.request(offset, length)


def create_generation(folder: Path, capacity_bytes: int) -> None:
    """Create an empty generation in `folder`, replacing what is there. Raises OSError.

    capacity_bytes: the length of its files together, which never grow.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    size = table_bytes(capacity_bytes)
    create_table(folder / _TABLE, size)
    create_sparse_file(folder / _VECTORS, capacity_bytes - size)


def capacity_of(folder: Path) -> int:
    """The length of the files in the folder of a generation, damaged or not. Raises OSError."""
    return sum(path.stat().st_size for path in folder.iterdir())


def max_group(capacity_bytes: int) -> tuple[int, int]:
    """The most records and bytes to append at once: few, so that a full generation has little unused at its end."""
    return 1024, min(MAX_RECORD_BYTES, capacity_bytes // 64)


def fits(record_bytes: int, capacity_bytes: int) -> bool:
    """Whether a record of that length fits an empty generation."""
    return record_bytes <= min(MAX_RECORD_BYTES, capacity_bytes - table_bytes(capacity_bytes))
