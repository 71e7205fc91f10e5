"""The disk tier as the cache sees it: it never raises on the way of a request, and heals when the disk does.

Every failure costs entries, is told once by an event, and ends with another. Where entries lie is decided by `Store`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from embedgate.core.errors import ConfigError, InternalError
from embedgate.observe import events
from embedgate.storage.cache.files import Damaged
from embedgate.storage.cache.generation import Rejected
from embedgate.storage.cache.record import Entry
from embedgate.storage.cache.state import State
from embedgate.storage.cache.store import Store

_RETRY_S = 30.0
_MAX_REJECTED = 10_000
# ConfigError: the folder cannot be written. ValueError: another thread has closed the file that is being read.
_FAILURES = (OSError, Damaged, ConfigError, ValueError)


class DiskTier:
    """Generations of vectors in a folder, or nothing while that folder cannot be used. Safe for threads."""

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
        self._rejected: list[Rejected] = []
        self._changing = threading.Lock()  # held while files are written, opened or closed
        with self._changing:
            self._usable_store()

    @property
    def evictions(self) -> int:
        """Entries that this process has dropped for room."""
        store = self._store
        return self._past_evictions + (store.evictions if store is not None else 0)

    def state(self) -> State | None:
        """Which generations live; None while the disk cannot be read."""
        store = self._store
        try:
            return store.state() if store is not None else None
        except _FAILURES:
            return None

    def find(self, keys: Iterable[bytes], state: State) -> dict[bytes, Entry]:
        """Entries of those keys that are on disk and match their checksum. state: as read before."""
        store = self._store
        try:
            found = store.find(keys, state) if store is not None else None
        except _FAILURES:
            return {}
        if found is None:
            return {}
        if found.rejected:
            self.rejected += len(found.rejected)
            self._rejected = [*self._rejected, *found.rejected][-_MAX_REJECTED:]
        return found.entries

    def work(self, items: Sequence[tuple[bytes, Entry]]) -> None:
        """Follow other processes, forget what was rejected, and store the items. Blocks; what fails is counted."""
        left = len(items)
        with self._changing:
            store = self._usable_store()
            try:
                if store is not None:
                    rejected, self._rejected = self._rejected, []
                    store.follow(rejected)
                    for group in store.groups(items):
                        left -= store.append(group)
                    self._recover(bool(items))
            except _FAILURES as error:
                self._fail(error)
            self.dropped += left

    def clear(self) -> None:
        """Forget everything, for every process. Raises InternalError if the disk refuses."""
        with self._changing:
            if self._store is None:
                raise InternalError("the cache on disk cannot be cleared: its folder cannot be used; see the log")
            try:
                self._store.clear()
            except _FAILURES as error:
                raise InternalError(f"the cache on disk cannot be cleared: {error}") from error

    def usage(self) -> tuple[int, int]:
        """Entries and bytes on disk, copies counted; nothing while the disk cannot be read."""
        store = self._store
        try:
            return store.usage() if store is not None else (0, 0)
        except _FAILURES:
            return 0, 0

    def close(self) -> None:
        """Let go of all files."""
        with self._changing:
            self._close()

    def _close(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            self._past_evictions += store.evictions
            store.close()

    def _usable_store(self) -> Store | None:
        """The open store. One that is closed, or whose folder was taken away, is opened anew from time to time."""
        if self._store is not None and not self._store.is_in_place():
            self._close()
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
            events.CACHE_DISK_FAILED.emit(reason=f"{type(error).__name__}: {error}")
        if not isinstance(error, OSError):  # a full disk leaves what is there readable
            self._close()
        self._retry_at_s = self._clock() + _RETRY_S

    def _recover(self, has_written: bool) -> None:
        if self._is_failing and has_written:
            self._is_failing = False
            events.CACHE_DISK_RECOVERED.emit()
