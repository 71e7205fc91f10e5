"""The shared state of all processes on the folder: which generations are live, and how often the cache was cleared.

Owns one small file. A process changes it under the lock of the folder, and reads it without: a record that is half
written fails its checksum.
"""

import functools
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from embedgate.storage.cache.files import Damaged, MappedFile, create_file

_RECORD = struct.Struct("<8sQQQI")
_MAGIC = b"egcache1"
_FILE_BYTES = 4096
MAX_GENERATION = 1_000_000_000
"""Highest number of a generation, and of clears: one a second reaches it in thirty years."""


class State(NamedTuple):
    """Generations `oldest` to `youngest` are live, none if oldest > youngest. Numbers are never used again."""

    clears: int = 0
    oldest: int = 1
    youngest: int = 0


class StateFile:
    """The state file of one folder. `read` may be called on any thread."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises Damaged or OSError."""
        self._file = MappedFile(path)
        try:
            if self._file.size_bytes != _FILE_BYTES:
                raise Damaged(f"{path.name} has {self._file.size_bytes} bytes, not {_FILE_BYTES}")
            self.read()
        except BaseException:
            self._file.close()
            raise

    def read(self) -> State:
        """The state as any process wrote it last. Raises Damaged, also for a moment while another process writes."""
        return _unpack(self._file.map[: _RECORD.size])

    def write(self, state: State) -> None:
        """Replace the state and flush it. The caller holds the lock of the folder. Raises OSError."""
        self._file.write([_pack(state)], 0)
        self._file.sync()

    def is_in_place(self) -> bool:
        """Whether the path still names this file."""
        return self._file.is_in_place()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def create_state(path: Path, state: State) -> None:
    """Create the state file atomically. Raises OSError."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    create_file(draft, _FILE_BYTES, _pack(state))
    draft.rename(path)


def _pack(state: State) -> bytes:
    raw = _RECORD.pack(_MAGIC, *state, 0)[:-4]
    return raw + zlib.crc32(raw).to_bytes(4, "little")


@functools.lru_cache(maxsize=4)  # it is read before every look-up, and changes a few times a day
def _unpack(raw: bytes) -> State:
    magic, clears, oldest, youngest, checksum = _RECORD.unpack(raw)
    if magic != _MAGIC or checksum != zlib.crc32(raw[:-4]):
        raise Damaged("the state is of another format")
    if clears > MAX_GENERATION or youngest > MAX_GENERATION or not 0 < oldest <= youngest + 1:
        raise Damaged("the state has numbers that cannot be")
    return State(clears, oldest, youngest)
