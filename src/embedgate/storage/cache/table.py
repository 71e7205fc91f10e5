"""The index of one generation: a hash table in a file, from keys to the places of their records.

A key hashes to a bucket of 16 slots, and overflows into the buckets after it. A slot holds half of the key and the
place of the record: offset, length, checksum. Readers take no lock and nothing is flushed: the checksum covers the
whole key, so a slot that is half written, lost in a power cut or damaged is a miss. One process writes at a time.
"""

import mmap
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from embedgate.storage.cache.files import Damaged, MappedFile, create_file

_HEADER = struct.Struct("<8sQQQI")  # magic, buckets, end, slots in use, checksum
_MAGIC = b"egtable1"
_HEADER_BYTES = 4096
_PLACE = struct.Struct("<QII")  # offset, length, checksum
_NOWHERE = bytes(_PLACE.size)
_HALF_KEY_BYTES = 8
_FREE = bytes(_HALF_KEY_BYTES)
# The half keys of a bucket are contiguous: a look-up that fails reads two cache lines of the processor.
_SLOTS = 16
_PLACES = _SLOTS * _HALF_KEY_BYTES
_BUCKET_BYTES = _PLACES + _SLOTS * _PLACE.size
# At most 60 % full: then eight buckets in a row are never full by chance, and few keys overflow.
_MAX_LOAD = 0.6
_MAX_BUCKETS = 8
_LEAST_RECORD_BYTES = 1024  # smaller ones fill the table before the file of vectors is full


class Header(NamedTuple):
    """How far a generation is filled. end: the offset of the next record."""

    end: int
    n_slots: int


class Table:
    """An open hash table. `view` may be read on any thread; all else is called under the lock of the folder."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises Damaged or OSError."""
        self._file = MappedFile(path, is_map_writable=True)
        self._n_buckets = (self._file.size_bytes - _HEADER_BYTES) // _BUCKET_BYTES
        try:
            self.header()
        except BaseException:
            self._file.close()
            raise

    @property
    def max_slots(self) -> int:
        """The number of slots that may be used."""
        return int(self._n_buckets * _SLOTS * _MAX_LOAD)

    def header(self) -> Header:
        """How far the generation is filled. Raises Damaged."""
        raw = self._file.map[: _HEADER.size]
        if len(raw) < _HEADER.size:
            raise Damaged("the table is cut short")
        magic, n_buckets, end, n_slots, checksum = _HEADER.unpack(raw)
        if magic != _MAGIC or checksum != zlib.crc32(raw[:-4]) or n_buckets != self._n_buckets or n_buckets == 0:
            raise Damaged("the table is of another format")
        return Header(end, n_slots)

    def write_header(self, header: Header) -> None:
        """Record how far the generation is filled. Raises OSError."""
        self._file.write([_pack(self._n_buckets, header)], 0)

    def put(self, key: bytes, place: bytes) -> int | None:
        """Set the place of a key. Returns how many slots that took, 0 or 1; None if its buckets are full.

        Written through the mapping: two system calls for each key would each hand over the interpreter lock.
        """
        table, n_buckets = self._file.map, self._n_buckets
        bucket, half = int.from_bytes(key[:_HALF_KEY_BYTES], "little"), key[_HALF_KEY_BYTES:]
        for following in range(_MAX_BUCKETS):
            start = _HEADER_BYTES + (bucket + following) % n_buckets * _BUCKET_BYTES
            halves = table[start : start + _PLACES]
            at = halves.find(half)
            if at >= 0:
                at = start + _PLACES + at // _HALF_KEY_BYTES * _PLACE.size
                table[at : at + _PLACE.size] = place
                return 0
            if halves.endswith(_FREE):
                # Slots fill in order. Zeros that begin within a slot are the end of its key; the next slot is free.
                slot = (halves.find(_FREE) + _HALF_KEY_BYTES - 1) // _HALF_KEY_BYTES
                at = start + _PLACES + slot * _PLACE.size
                table[at : at + _PLACE.size] = place
                at = start + slot * _HALF_KEY_BYTES
                table[at : at + _HALF_KEY_BYTES] = half
                return 1
        return None

    def remove(self, key: bytes, place: bytes) -> None:
        """Remove the place of a key, unless it has another one by now."""
        if locate([self.view()], [key]) == [(0, key, place)]:
            self.put(key, _NOWHERE)

    def used_bytes(self) -> int:
        """Bytes that the file takes on disk. Raises OSError."""
        return self._file.used_bytes()

    def is_lost(self) -> bool:
        """Whether the file was cut short while it was open."""
        return self._file.is_lost()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def view(self) -> "TableView":
        """The table as `locate` reads it."""
        return self._file.map, self._n_buckets


TableView = tuple[mmap.mmap, int]
"""The mapping of a table and its number of buckets. Good until the table is closed."""


def locate(tables: Sequence[TableView], keys: Iterable[bytes]) -> list[tuple[int, bytes, bytes]]:
    """Look keys up in several tables: for each key, the index of the first table that has it, the key and its place.

    keys: 16 random bytes each. Leaves out a key that no table has. Raises ValueError if a table is closed.
    One loop over keys and tables without function calls: most look-ups fail, and then visit every table.
    """
    found = []
    for key in keys:
        bucket, half = int.from_bytes(key[:_HALF_KEY_BYTES], "little"), key[_HALF_KEY_BYTES:]
        known_n_buckets, start, bucket_halves = 0, 0, slice(0)  # tables of one size share a position
        for index, (table, n_buckets) in enumerate(tables):
            if n_buckets != known_n_buckets:
                known_n_buckets = n_buckets
                start = _HEADER_BYTES + bucket % n_buckets * _BUCKET_BYTES
                bucket_halves = slice(start, start + _PLACES)
            halves = table[bucket_halves]
            if half in halves:
                at = start + _PLACES + halves.find(half) // _HALF_KEY_BYTES * _PLACE.size
                place = table[at : at + _PLACE.size]
            elif halves.endswith(_FREE):
                continue
            else:
                place = _place_beyond(table, n_buckets, bucket, half)
            if place != _NOWHERE:
                found.append((index, key, place))
                break
    return found


def _place_beyond(table: mmap.mmap, n_buckets: int, bucket: int, half: bytes) -> bytes:
    """The place of a key that has overflowed its bucket."""
    for following in range(1, _MAX_BUCKETS):
        start = _HEADER_BYTES + (bucket + following) % n_buckets * _BUCKET_BYTES
        halves = table[start : start + _PLACES]
        at = halves.find(half)
        if at >= 0:
            at = start + _PLACES + at // _HALF_KEY_BYTES * _PLACE.size
            return table[at : at + _PLACE.size]
        if halves.endswith(_FREE):
            break
    return _NOWHERE


def pack_place(offset: int, length: int, checksum: int) -> bytes:
    """Encode the place of a record."""
    return _PLACE.pack(offset, length, checksum)


def unpack_place(place: bytes) -> tuple[int, int, int]:
    """Decode the place of a record: offset, length and checksum."""
    offset, length, checksum = _PLACE.unpack(place)
    return offset, length, checksum


def table_bytes(capacity_bytes: int) -> int:
    """The length of the table for a generation of that capacity: 4 % of it."""
    n_buckets = int(capacity_bytes / _LEAST_RECORD_BYTES / _MAX_LOAD / _SLOTS)
    return _HEADER_BYTES + (n_buckets // 32 + 1) * 32 * _BUCKET_BYTES  # whole blocks of a file system


def create_table(path: Path, size_bytes: int) -> None:
    """Create an empty table. size_bytes: from `table_bytes`. Raises OSError."""
    create_file(path, size_bytes, _pack((size_bytes - _HEADER_BYTES) // _BUCKET_BYTES, Header(0, 0)))


def _pack(n_buckets: int, header: Header) -> bytes:
    raw = _HEADER.pack(_MAGIC, n_buckets, *header, 0)[:-4]
    return raw + zlib.crc32(raw).to_bytes(4, "little")
