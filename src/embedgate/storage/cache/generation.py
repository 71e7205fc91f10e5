"""One generation of the disk tier: a file of vectors that only grows, and an LMDB index of where each one lies.

A generation is filled, read, and dropped as a whole; nothing in it is moved or freed. Values are not in LMDB: in its
pages, vectors of 384 numbers take 3,000 bytes and of 1,536 numbers 8,300; so they take 1,700 and 6,300, and a batch
of them can be fetched from a cold disk at once. Which generations there are is decided elsewhere.
"""

import contextlib
import errno
import mmap
import os
import shutil
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb

from embedgate.storage.cache.environment import (
    DAMAGE,
    OWNER_ONLY,
    Damaged,
    damage,
    damage_reported,
    open_environment,
    used_bytes,
)
from embedgate.storage.cache.record import Entry, checksum, decode

_INDEX = "index"
_VECTORS = "vectors"
_LOCATOR = struct.Struct("<QII")  # offset, length, checksum
_END_KEY = b"end"  # keys of vectors are 16 bytes long
_END = struct.Struct("<8sQ")
_MAGIC = b"egvecto1"
_LOCK_FILE_BYTES = 16_384
_MAX_PARTS = 512  # below the least IOV_MAX that POSIX systems have
_LOOK_EVERY = 16
_COLD_READ_S = 25e-6  # four times what a vector of 1,536 numbers takes from memory, a quarter of a read from an SSD


class Rejected(NamedTuple):
    """An index entry whose record does not match its checksum."""

    generation: int
    key: bytes
    locator: bytes


class Generation:
    """An open generation. `find` may be called from any thread, `append` and `remove` from one, `close` after all."""

    def __init__(self, folder: Path, number: int) -> None:
        """Open generation `number`, which is in `folder`.

        Raises FileNotFoundError if it is gone, Damaged if it is not whole, OSError or lmdb.Error if it cannot be read.
        """
        self.number = number
        self.is_damaged = False
        with contextlib.ExitStack() as opened:
            self._file = os.open(folder / _VECTORS, os.O_RDWR)
            opened.callback(os.close, self._file)
            self.capacity_bytes = os.fstat(self._file).st_size
            if self.capacity_bytes == 0 or not (folder / _INDEX).is_file():
                raise Damaged("a file is missing or empty")
            self._index = open_environment(folder / _INDEX, self.capacity_bytes)
            opened.callback(self._index.close)
            self._vectors = mmap.mmap(self._file, self.capacity_bytes, access=mmap.ACCESS_READ)
            opened.callback(self._vectors.close)
            self._vectors.madvise(mmap.MADV_RANDOM)  # else every read from a cold disk fetches its surroundings too
            with damage_reported(), self._index.begin() as transaction:
                _unpack_end(transaction.get(_END_KEY), self.capacity_bytes)
            self._opened = opened.pop_all()

    def find(self, keys: Iterable[bytes]) -> tuple[dict[bytes, Entry], list[Rejected]]:
        """Entries of those keys that are here, each checked against its checksum, and index entries that failed.

        Raises Damaged or lmdb.Error; ValueError if the generation is closed meanwhile.
        """
        located = self._locate(keys)
        found: dict[bytes, Entry] = {}
        rejected: list[Rejected] = []
        is_warm = True
        for first in range(0, len(located), _LOOK_EVERY):
            begun_s = time.perf_counter()
            for key, locator in located[first : first + _LOOK_EVERY]:
                offset, length, expected = _LOCATOR.unpack(locator)
                record = self._vectors[offset : offset + length]
                entry = decode(record, self.number) if checksum(key, record) == expected else None
                if entry is not None:
                    found[key] = entry
                else:
                    rejected.append(Rejected(self.number, key, locator))
            if is_warm and time.perf_counter() - begun_s > _LOOK_EVERY * _COLD_READ_S:
                is_warm = False
                self._request(located[first + _LOOK_EVERY :])
        return found, rejected

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> bool:
        """Add records by key, all or none; a key that is here already gets the new one. False if there is no room.

        Blocks while another process appends. Raises OSError, Damaged or lmdb.Error.
        """
        size = sum(len(record) for _, record in records)
        try:
            with damage_reported(), self._index.begin(write=True) as transaction:
                end = _unpack_end(transaction.get(_END_KEY), self.capacity_bytes)
                if end + size + self._index_bound(len(records)) > self.capacity_bytes:
                    raise _NoRoom
                # What lies beyond the end belongs to whoever holds the lock of this transaction: if we are killed
                # before the commit, the next one writes over it. The file is not synced; after a power cut the
                # checksums tell which records arrived.
                _write(self._file, [record for _, record in records], end)
                transaction.cursor().putmulti(_located(records, end))
                transaction.put(_END_KEY, _END.pack(_MAGIC, end + size))
        except (_NoRoom, lmdb.MapFullError):
            return False
        return True

    def remove(self, rejected: Rejected) -> None:
        """Forget an index entry, unless it has been replaced meanwhile. Raises Damaged or lmdb.Error."""
        with damage_reported(), self._index.begin(write=True) as transaction:
            if transaction.get(rejected.key) == rejected.locator:
                transaction.delete(rejected.key)

    def usage(self) -> tuple[int, int]:
        """Entries, and bytes on disk. Raises Damaged or lmdb.Error."""
        with damage_reported(), self._index.begin() as transaction:
            end = _unpack_end(transaction.get(_END_KEY), self.capacity_bytes)
        return self._index.stat()["entries"] - 1, end + used_bytes(self._index) + _LOCK_FILE_BYTES

    def check_readers(self) -> None:
        """Free the places of killed readers, whose old pages would make the index grow. Raises lmdb.Error."""
        self._index.reader_check()

    def close(self) -> None:
        """Let go of the files. A `find` that runs in another thread finds nothing more."""
        self._opened.close()

    def _locate(self, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        try:
            with self._index.begin() as transaction:
                get = transaction.get
                return [(key, locator) for key in keys if (locator := get(key)) and len(locator) == _LOCATOR.size]
        except DAMAGE as error:
            raise damage(error) from error

    def _request(self, located: Sequence[tuple[bytes, bytes]]) -> None:
        """Have the kernel fetch records all at once, which a cold disk does far faster than one after the other.

        2,048 vectors of 1,536 numbers from a cold disk: 250 ms one by one, 26 ms so.
        """
        for _, locator in located:
            offset, length, _ = _LOCATOR.unpack(locator)
            start = offset - offset % mmap.PAGESIZE
            if offset + length <= self.capacity_bytes:
                self._vectors.madvise(mmap.MADV_WILLNEED, start, offset + length - start)

    def _index_bound(self, n_records: int) -> int:
        """Bytes that the index may take after `n_records` more: each copies a leaf and may split it."""
        pages = 2 * n_records + n_records // 32 + 16
        return used_bytes(self._index) + pages * self._index.stat()["psize"] + _LOCK_FILE_BYTES


def create_generation(folder: Path, capacity_bytes: int) -> None:
    """Make an empty generation in `folder`, in place of anything that is there.

    capacity_bytes: what vectors, index and lock file may take together. Raises OSError or lmdb.Error.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    file = os.open(folder / _VECTORS, os.O_RDWR | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    try:
        os.ftruncate(file, capacity_bytes)  # sparse: takes no room yet
    finally:
        os.close(file)
    index = open_environment(folder / _INDEX, capacity_bytes)
    try:
        with index.begin(write=True) as transaction:
            transaction.put(_END_KEY, _END.pack(_MAGIC, 0))
    finally:
        index.close()


def capacity_of(folder: Path) -> int:
    """What the generation in `folder` may take, 0 if it is not whole."""
    try:
        return (folder / _VECTORS).stat().st_size
    except OSError:
        return 0


def fits(record_bytes: int, capacity_bytes: int) -> bool:
    """Whether a record may be put into generations of that capacity."""
    return record_bytes <= capacity_bytes // 4


def max_group(capacity_bytes: int) -> tuple[int, int]:
    """How many records, and how many bytes of them, to append at once: so few that little is left over at the end."""
    return max(1, min(1024, capacity_bytes // 262_144)), min(4_000_000, capacity_bytes // 64)


class _NoRoom(Exception):
    """Ends a transaction that would overfill its generation."""


def _unpack_end(raw: bytes | None, capacity_bytes: int) -> int:
    if raw is None or len(raw) != _END.size:
        raise Damaged("the index has no end")
    magic, end = _END.unpack(raw)
    if magic != _MAGIC or end > capacity_bytes:
        raise Damaged("the index is of another format")
    return int(end)


def _located(records: Sequence[tuple[bytes, bytes]], offset: int) -> list[tuple[bytes, bytes]]:
    """Index entries of records that are written one after the other from `offset`, in the order of their keys."""
    located = []
    for key, record in records:
        located.append((key, _LOCATOR.pack(offset, len(record), checksum(key, record))))
        offset += len(record)
    located.sort()
    return located


def _write(file: int, parts: Sequence[bytes], offset: int) -> None:
    """Write parts one after the other. Raises OSError, also if only some of the bytes could be written."""
    for first in range(0, len(parts), _MAX_PARTS):
        group = parts[first : first + _MAX_PARTS]
        expected = sum(map(len, group))
        if os.pwritev(file, group, offset) != expected:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        offset += expected
