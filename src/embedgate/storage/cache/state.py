"""What all processes on the folder agree on: which generations live, and how often the cache was cleared.

One small record in a file. Whoever changes it holds the lock of the folder; reading it takes no lock, as a record that
is half written fails its checksum. Knows no generation from inside.
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


class State(NamedTuple):
    """Generations `oldest` to `youngest` live, none if oldest > youngest. Numbers only grow. `clears` counts clears."""

    clears: int = 0
    oldest: int = 1
    youngest: int = 0


class StateFile:
    """The state of one folder. `read` may be called from any thread."""

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
        """The state as last written by any process. Raises Damaged, for a moment also while another process writes."""
        return _unpack(self._file.map[: _RECORD.size])

    def write(self, state: State) -> None:
        """Replace the state, on disk when this returns. The caller holds the lock. Raises OSError."""
        self._file.write([_pack(state)], 0)
        self._file.sync()

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file."""
        return self._file.is_in_place()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def create_state(path: Path, state: State) -> None:
    """Make the file, whole or not at all. Raises OSError."""
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
    return State(clears, oldest, youngest)
