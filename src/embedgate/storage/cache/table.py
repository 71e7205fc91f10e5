"""The index of one generation: a hash table in a file, from keys to the places of their records.

A key has a bucket of 16 slots, and uses the next ones when that is full. A slot is half of a key and a place; the
checksum at the place covers the whole key. Nothing here is synced or locked against readers: a slot that is half
written, or lost in a power cut, leads to a record that fails its checksum. For the same reason no damage in the slots
can do harm. One process writes at a time.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
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
# The halves of keys of a bucket lie together: a look-up that fails reads two lines of the processor's cache.
_SLOTS = 16
_PLACES = _SLOTS * _HALF_KEY_BYTES
_BUCKET_BYTES = _PLACES + _SLOTS * _PLACE.size
# At most 60 % full: then eight buckets in a row are never full by chance, and most keys are in their own.
_MAX_LOAD = 0.6
_MAX_BUCKETS = 8
_LEAST_RECORD_BYTES = 1024  # smaller ones fill the table before the file of vectors is full

Probe = tuple[bytes, int, bytes]
"""A key as it is looked up: whole, and its halves. A plain tuple: thousands are made at a time."""


def probes(keys: Iterable[bytes]) -> list[Probe]:
    """Keys as `Table.find` takes them, to be made once for many tables. keys: 16 bytes each, evenly spread."""
    return [(key, int.from_bytes(key[:_HALF_KEY_BYTES], "little"), key[_HALF_KEY_BYTES:]) for key in keys]


class Header(NamedTuple):
    """How far a generation is filled. `end` is where the next record goes."""

    end: int
    n_slots: int


class Table:
    """An open index. `find` may be called from any thread, all else by the holder of the folder's lock."""

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
        """How many slots may be used."""
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

    def find(self, keys: Iterable[Probe]) -> list[tuple[bytes, bytes]]:
        """The places of those keys that have one, in the order of the keys. Unpack them with `unpack_place`."""
        table = self._file.map
        found = []
        for probe in keys:
            start = _HEADER_BYTES + probe[1] % self._n_buckets * _BUCKET_BYTES
            halves = table[start : start + _PLACES]
            at = halves.find(probe[2])
            if at >= 0:
                at = start + _PLACES + at // _HALF_KEY_BYTES * _PLACE.size
                place = table[at : at + _PLACE.size]
            elif halves.endswith(_FREE):
                continue
            else:
                place = self._place_beyond(probe)
            if place != _NOWHERE:
                found.append((probe[0], place))
        return found

    def write_header(self, header: Header) -> None:
        """Say how far the generation is filled. Raises OSError."""
        self._file.write([_pack(self._n_buckets, header)], 0)

    def put(self, key: bytes, place: bytes) -> int | None:
        """Set the place of a key. Returns how many slots that took, 0 or 1; None if all its buckets are full.

        Written through memory: two system calls for each key would each hand the interpreter lock over and back.
        """
        [probe] = probes([key])
        table = self._file.map
        for start in self._starts(probe):
            halves = table[start : start + _PLACES]
            for slot in range(_SLOTS):
                half = halves[slot * _HALF_KEY_BYTES : (slot + 1) * _HALF_KEY_BYTES]
                if half in (probe[2], _FREE):
                    at = start + _PLACES + slot * _PLACE.size
                    table[at : at + _PLACE.size] = place
                    if half == probe[2]:
                        return 0
                    at = start + slot * _HALF_KEY_BYTES
                    table[at : at + _HALF_KEY_BYTES] = probe[2]
                    return 1
        return None

    def remove(self, key: bytes, place: bytes) -> None:
        """Forget the place of a key, unless it is another one by now. Raises OSError."""
        if (key, place) in self.find(probes([key])):
            self.put(key, _NOWHERE)

    def used_bytes(self) -> int:
        """What the file takes on disk. Raises OSError."""
        return self._file.used_bytes()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _place_beyond(self, probe: Probe) -> bytes:
        """The place of a key whose own bucket is full."""
        for start in self._starts(probe):
            bucket = self._file.map[start : start + _BUCKET_BYTES]
            at = bucket.find(probe[2], 0, _PLACES)
            if at >= 0:
                at = _PLACES + at // _HALF_KEY_BYTES * _PLACE.size
                return bucket[at : at + _PLACE.size]
            if bucket.startswith(_FREE, _PLACES - _HALF_KEY_BYTES):
                break
        return _NOWHERE

    def _starts(self, probe: Probe) -> Iterator[int]:
        for following in range(_MAX_BUCKETS):
            yield _HEADER_BYTES + (probe[1] + following) % self._n_buckets * _BUCKET_BYTES


def pack_place(offset: int, length: int, checksum: int) -> bytes:
    """The place of a record."""
    return _PLACE.pack(offset, length, checksum)


def unpack_place(place: bytes) -> tuple[int, int, int]:
    """Offset, length and checksum of a record."""
    offset, length, checksum = _PLACE.unpack(place)
    return offset, length, checksum


def table_bytes(capacity_bytes: int) -> int:
    """How long the table of a generation of that capacity is: 4 %."""
    n_buckets = int(capacity_bytes / _LEAST_RECORD_BYTES / _MAX_LOAD / _SLOTS)
    return _HEADER_BYTES + (n_buckets // 32 + 1) * 32 * _BUCKET_BYTES  # whole blocks of a file system


def create_table(path: Path, size_bytes: int) -> None:
    """Make an empty table. size_bytes: as of `table_bytes`. Raises OSError."""
    create_file(path, size_bytes, _pack((size_bytes - _HEADER_BYTES) // _BUCKET_BYTES, Header(0, 0)))


def _pack(n_buckets: int, header: Header) -> bytes:
    raw = _HEADER.pack(_MAGIC, n_buckets, *header, 0)[:-4]
    return raw + zlib.crc32(raw).to_bytes(4, "little")
