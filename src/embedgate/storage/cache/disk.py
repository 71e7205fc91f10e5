"""The disk tier as the cache sees it: it never raises on the way of a request, and heals when the disk does.

Every failure costs entries, is told once by an event, and ends with another. Where entries lie is decided by `Store`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import lmdb

from embedgate import telemetry
from embedgate.core.errors import ConfigError, InternalError
from embedgate.storage.cache.control import State
from embedgate.storage.cache.environment import Damaged
from embedgate.storage.cache.generation import Rejected
from embedgate.storage.cache.record import Entry
from embedgate.storage.cache.store import Store

_RETRY_S = 30.0
_MAX_REJECTED = 10_000
# ConfigError: the folder cannot be written. ValueError: a file was closed by the thread that opens and closes.
_FAILURES = (OSError, lmdb.Error, Damaged, ConfigError, ValueError)


class DiskTier:
    """Generations of vectors in a folder, or nothing while that folder cannot be used.

    `state`, `find`, `clear` and `usage` may be called from any thread; `work` and `close` from one at a time.
    """

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the folder, or say by an event why it cannot be used. clock: monotonic seconds."""
        self.dropped = 0
        self.rejected = 0
        self._folder = folder
        self._max_bytes = max_bytes
        self._clock = clock
        self._store: Store | None = None
        self._past_evictions = 0
        self._retry_at_s = clock()
        self._is_failing = False
        self._to_remove: list[Rejected] = []
        self._usable_store()

    @property
    def evictions(self) -> int:
        """Entries that this process has dropped for room."""
        return self._past_evictions + (self._store.evictions if self._store else 0)

    def state(self) -> State | None:
        """Which generations live; None while the disk cannot be read."""
        try:
            return self._store.state() if self._store else None
        except _FAILURES:
            return None

    def find(self, keys: Iterable[bytes], state: State) -> dict[bytes, Entry]:
        """Entries of those keys that are on disk and match their checksum. state: as read before."""
        try:
            found = self._store.find(keys, state) if self._store else None
        except _FAILURES:
            return {}
        if found is None:
            return {}
        if found.rejected:
            self.rejected += len(found.rejected)
            self._to_remove = [*self._to_remove, *found.rejected][-_MAX_REJECTED:]
        return found.entries

    def work(self, items: Sequence[tuple[bytes, Entry]]) -> None:
        """Follow other processes, forget what was rejected, and store the items. Blocks; what fails is counted."""
        store = self._usable_store()
        left = len(items)
        try:
            if store is not None:
                store.adopt()
                rejected, self._to_remove = self._to_remove, []
                store.remove(rejected)
                for group in store.groups(items):
                    left -= store.append(group)
                if items:
                    self._recover()
        except _FAILURES as error:
            self._fail(error)
        self.dropped += left

    def clear(self) -> State:
        """Forget everything, for every process; the state afterwards. Raises InternalError if the disk refuses."""
        store = self._store
        if store is None:
            raise InternalError("the cache on disk cannot be cleared: its folder cannot be used; see the log")
        try:
            return store.clear()
        except _FAILURES as error:
            raise InternalError(f"the cache on disk cannot be cleared: {error}") from error

    def usage(self) -> tuple[int, int]:
        """Entries and bytes on disk, copies counted; nothing while the disk cannot be read."""
        try:
            return self._store.usage() if self._store else (0, 0)
        except _FAILURES:
            return 0, 0

    def close(self) -> None:
        """Let go of all files."""
        if self._store is not None:
            store, self._store = self._store, None
            self._past_evictions += store.evictions
            store.close()

    def _usable_store(self) -> Store | None:
        """The open store. One that is closed, or whose folder was taken away, is opened anew from time to time."""
        if self._store is not None and not self._store.is_in_place():
            self.close()
            self._retry_at_s = self._clock()
        if self._store is None and self._clock() >= self._retry_at_s:
            try:
                self._store = Store(self._folder, self._max_bytes)
            except _FAILURES as error:
                self._fail(error)
        return self._store

    def _fail(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            telemetry.CACHE_DISK_FAILED.emit(reason=f"{type(error).__name__}: {error}")
        # A full disk leaves what is there readable. After any other failure LMDB may refuse to go on.
        if not isinstance(error, (OSError, lmdb.DiskError)):
            self.close()
        self._retry_at_s = self._clock() + _RETRY_S

    def _recover(self) -> None:
        if self._is_failing:
            self._is_failing = False
            telemetry.CACHE_DISK_RECOVERED.emit()
