"""Memory-mapped files of a fixed length: read through the mapping, written by system calls. Knows no content."""

import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from embedgate.storage.cache.truncation import guard, release

_OWNER_ONLY = 0o600
_MAX_PARTS = 512  # of one call; the least that POSIX systems take is 1,024
_BLOCK_BYTES = 512
_CHUNK_BYTES = 1_048_576


class Damaged(Exception):
    """A file of the cache is damaged or of another format. Never leaves the cache: such a file is set aside."""


class MappedFile:
    """An open file with its mapping, `map`, which any thread may read; it raises ValueError once the file is closed.

    A file that others cut short reads as zeros from then on, and does not end the process.

    `write` is a system call, because a full disk is then an error. A write through the mapping would be a signal.
    """

    def __init__(self, path: Path, *, is_map_writable: bool = False) -> None:
        """Open the file at its present length. Raises Damaged if it is empty, OSError if it cannot be opened.

        is_map_writable: only for a file whose blocks are all allocated, so that the disk cannot be full.
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
            self._region = guard(self.map)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        """Write the parts one after the other. Raises OSError, also when only some of the bytes were written."""
        for first in range(0, len(parts), _MAX_PARTS):
            group = parts[first : first + _MAX_PARTS]
            expected = sum(map(len, group))
            if os.pwritev(self._file, group, offset) != expected:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            offset += expected

    def sync(self) -> None:
        """Flush to the device: what was written survives a power cut. Raises OSError."""
        os.fsync(self._file)

    def expect_scattered_reads(self) -> None:
        """Turn off read-ahead, which can fetch megabytes around each record from a cold disk."""
        self.map.madvise(mmap.MADV_RANDOM)

    def request(self, offset: int, length: int) -> None:
        """Start reading a part of the file into the page cache, without waiting for it."""
        start = offset - offset % mmap.PAGESIZE
        if length and offset + length <= self.size_bytes:
            self.map.madvise(mmap.MADV_WILLNEED, start, offset + length - start)

    def used_bytes(self) -> int:
        """Bytes allocated on disk; parts that were never written take none. Raises OSError."""
        return os.fstat(self._file).st_blocks * _BLOCK_BYTES

    def is_lost(self) -> bool:
        """Whether the file was cut short, or its disk failed, under the mapping, which reads as zeros since then."""
        return self._region.is_lost

    def is_in_place(self) -> bool:
        """Whether the path still names this file; the folder may have been deleted under the running process."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file))
        except OSError:
            return False

    def close(self) -> None:
        """Close the mapping and the file."""
        release(self._region)
        self.map.close()
        os.close(self._file)


def create_file(path: Path, size_bytes: int, content: bytes) -> None:
    """Create a file of `content` and zeros, with every block allocated. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    try:
        for offset in range(0, size_bytes, _CHUNK_BYTES):
            chunk = content[offset : offset + _CHUNK_BYTES].ljust(min(_CHUNK_BYTES, size_bytes - offset), b"\0")
            if os.pwrite(file, chunk, offset) != len(chunk):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)


def create_sparse_file(path: Path, size_bytes: int) -> None:
    """Create a file whose blocks are allocated when they are written. Raises OSError.

    Read only what was written: on a full tmpfs, reading anything else through a mapping is a fault (SIGBUS).
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    try:
        os.ftruncate(file, size_bytes)
    finally:
        os.close(file)
