"""Files of the cache: of a fixed length, read through memory and written by calls. Knows nothing of what is in them."""

import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

_OWNER_ONLY = 0o600
_MAX_PARTS = 512  # of one call; the least that POSIX systems take is 1,024
_BLOCK_BYTES = 512
_CHUNK_BYTES = 1_048_576


class Damaged(Exception):
    """A file of the cache is foreign or broken. Never leaves the cache: what is damaged is set aside and begun anew."""


class MappedFile:
    """An open file. Reading is free of system calls; `write` is not, so that a full disk is an error, not a signal.

    `map` may be read from any thread, and raises ValueError once the file is closed.
    """

    def __init__(self, path: Path, *, is_map_writable: bool = False) -> None:
        """Open the file at its present length. Raises Damaged if it is empty, OSError if it cannot be opened.

        is_map_writable: only for a file that has all its room on disk already.
        """
        self.path = path
        self._file = os.open(path, os.O_RDWR)
        try:
            self.size_bytes = os.fstat(self._file).st_size
            if self.size_bytes == 0:
                raise Damaged(f"{path.name} is empty")
            self.map = mmap.mmap(
                self._file, self.size_bytes, access=mmap.ACCESS_WRITE if is_map_writable else mmap.ACCESS_READ
            )
        except BaseException:
            os.close(self._file)
            raise

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        """Write parts one after the other. Raises OSError, also if only some of the bytes could be written."""
        for first in range(0, len(parts), _MAX_PARTS):
            group = parts[first : first + _MAX_PARTS]
            expected = sum(map(len, group))
            if os.pwritev(self._file, group, offset) != expected:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            offset += expected

    def sync(self) -> None:
        """Return once what was written survives a power cut. Raises OSError."""
        os.fsync(self._file)

    def expect_scattered_reads(self) -> None:
        """Have the system fetch what is read from a cold disk without its surroundings, which can be megabytes."""
        self.map.madvise(mmap.MADV_RANDOM)

    def request(self, offset: int, length: int) -> None:
        """Have the system fetch a part of the file, without waiting for it."""
        start = offset - offset % mmap.PAGESIZE
        if length and offset + length <= self.size_bytes:
            self.map.madvise(mmap.MADV_WILLNEED, start, offset + length - start)

    def used_bytes(self) -> int:
        """What the file takes on disk: parts that were never written take nothing. Raises OSError."""
        return os.fstat(self._file).st_blocks * _BLOCK_BYTES

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file: people delete folders under running programs."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file))
        except OSError:
            return False

    def close(self) -> None:
        """Let go of the file."""
        self.map.close()
        os.close(self._file)


def create_file(path: Path, size_bytes: int, content: bytes) -> None:
    """Make a file that begins with `content` and goes on with zeros, all of it on disk. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    try:
        for offset in range(0, size_bytes, _CHUNK_BYTES):
            chunk = content[offset : offset + _CHUNK_BYTES].ljust(min(_CHUNK_BYTES, size_bytes - offset), b"\0")
            if os.pwrite(file, chunk, offset) != len(chunk):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)


def create_sparse_file(path: Path, size_bytes: int) -> None:
    """Make a file that takes room only where it is written. Raises OSError.

    It must not be read elsewhere: in a file system that lives in memory even that takes room, and kills the reader if
    there is none.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    try:
        os.ftruncate(file, size_bytes)
    finally:
        os.close(file)
