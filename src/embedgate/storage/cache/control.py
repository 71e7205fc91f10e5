"""What all processes that share the store agree on: which generations live, and how often it was cleared.

One small LMDB environment with one record. Reading it takes under a microsecond; changing it locks every other
process out, and a process that is killed meanwhile changes nothing. Knows no generation from inside.
"""

import functools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from embedgate.storage.cache.environment import DAMAGE, Damaged, damage, damage_reported, open_environment

_MAP_BYTES = 1_048_576
CONTROL_BYTES = _MAP_BYTES + 65_536
"""More than the control file and its lock file can take."""

_KEY = b"state"
_RECORD = struct.Struct("<8sQQQ")
_MAGIC = b"egcache1"


class State(NamedTuple):
    """Generations `oldest` to `youngest` live, none if oldest > youngest. Numbers only grow. `clears` counts clears."""

    clears: int = 0
    oldest: int = 1
    youngest: int = 0


class Control:
    """The state of one store. `read` may be called from any thread; the environment must not be closed meanwhile."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises Damaged, OSError or lmdb.Error."""
        self._path = path
        self._environment = open_environment(path, _MAP_BYTES)
        found = path.stat()
        self._identity = (found.st_dev, found.st_ino)
        try:
            self.read()
        except Damaged:
            self._environment.close()
            raise

    def read(self) -> State:
        """The state as last committed by any process. Raises Damaged or lmdb.Error."""
        # Before every look-up in the cache: `damage_reported` would double its cost.
        try:
            with self._environment.begin() as transaction:
                return _unpack(transaction.get(_KEY))
        except DAMAGE as error:
            raise damage(error) from error

    def update(self, step: Callable[[State], State]) -> State:
        """Replace the state by what `step` makes of it, with all other processes and threads locked out.

        Changes nothing if `step` raises. Raises Damaged or lmdb.Error.
        """
        with damage_reported(), self._environment.begin(write=True) as transaction:
            state = _unpack(transaction.get(_KEY))
            changed = step(state)
            if changed != state:
                transaction.put(_KEY, _RECORD.pack(_MAGIC, *changed))
        return changed

    def is_in_place(self) -> bool:
        """Whether the file is still the one that was opened: people delete folders under running programs."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def close(self) -> None:
        """Let go of the file."""
        self._environment.close()


@functools.lru_cache(maxsize=1)
def _unpack(raw: bytes | None) -> State:
    if raw is None:
        return State()
    if len(raw) != _RECORD.size:
        raise Damaged("the state has a wrong length")
    magic, clears, oldest, youngest = _RECORD.unpack(raw)
    if magic != _MAGIC:
        raise Damaged("the state is of another format")
    return State(clears, oldest, youngest)
