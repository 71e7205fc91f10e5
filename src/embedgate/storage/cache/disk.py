"""The disk tier: `Store` with its failures handled.

Owns what happens when the disk fails: requests go on without the disk tier, one event reports the failure, one the
recovery, and the folder is tried again every 30 seconds. `Store` decides where entries lie.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from embedgate.core.errors import ConfigError, InternalError
from embedgate.observe import events
from embedgate.storage.cache.files import Damaged
from embedgate.storage.cache.generation import Rejected
from embedgate.storage.cache.record import Entry
from embedgate.storage.cache.store import State, Store

_RETRY_S = 30.0
_MAX_REJECTED = 10_000
# ConfigError: the folder cannot be written. ValueError: another thread has closed the file that is being read.
_FAILURES = (OSError, Damaged, ConfigError, ValueError)


class DiskTier:
    """Vectors on disk, or none while the folder cannot be used. Only `clear` raises. Safe for threads."""

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the folder; if that fails, emit an event. max_bytes: of all files. clock: monotonic seconds."""
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
        """Entries that this process has evicted."""
        store = self._store
        return self._past_evictions + (store.evictions if store is not None else 0)

    def state(self) -> State | None:
        """Which generations are live; None while the disk cannot be read."""
        store = self._store
        try:
            return store.state() if store is not None else None
        except _FAILURES:
            return None

    def find(self, keys: Sequence[bytes], state: State) -> dict[bytes, Entry]:
        """The entries of the keys that are on disk and match their checksum. state: as `state` returned it."""
        store = self._store
        try:
            if store is None:
                return {}
            found = store.find(keys, state)
        except _FAILURES:
            return {}
        if found.rejected:
            self.rejected += len(found.rejected)
            self._rejected = [*self._rejected, *found.rejected][-_MAX_REJECTED:]
        return found.entries

    def work(self, items: Sequence[tuple[bytes, Entry]]) -> None:
        """Write the items, after following other processes and forgetting what `find` rejected. Blocks.

        Counts in `dropped` what could not be written.
        """
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
        """Delete every entry, for all processes on the folder. Raises InternalError if that fails."""
        with self._changing:
            if self._store is None:
                raise InternalError("the cache on disk cannot be cleared: its folder cannot be used; see the log")
            try:
                self._store.clear()
            except _FAILURES as error:
                raise InternalError(f"the cache on disk cannot be cleared: {error}") from error

    def usage(self) -> tuple[int, int]:
        """Entries and bytes on disk; 0 and 0 while it cannot be read. An entry in two generations counts twice."""
        store = self._store
        try:
            return store.usage() if store is not None else (0, 0)
        except _FAILURES:
            return 0, 0

    def close(self) -> None:
        """Close all files."""
        with self._changing:
            self._close()

    def _close(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            self._past_evictions += store.evictions
            store.close()

    def _usable_store(self) -> Store | None:
        """The open store. Opens it again if it is closed and a retry is due, or if its folder has been deleted."""
        if self._store is not None and not self._store.is_in_place():
            self._close()
            self._retry_at_s = self._clock()
        if self._store is None and self._clock() >= self._retry_at_s:
            try:
                self._store = self._open_store()
            except _FAILURES as error:
                self._fail(error)
        return self._store

    def _open_store(self) -> Store:
        return Store(self._folder, self._max_bytes)

    def _fail(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            events.CACHE_DISK_FAILED.emit(reason=f"{type(error).__name__}: {error}")
        if not isinstance(error, OSError):  # when the disk is full, what it holds can still be read
            self._close()
        self._retry_at_s = self._clock() + _RETRY_S

    def _recover(self, has_written: bool) -> None:
        if self._is_failing and has_written:
            self._is_failing = False
            events.CACHE_DISK_RECOVERED.emit()
