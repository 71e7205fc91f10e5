"""The vector cache of the gateway: memory tier, write-behind queue, disk tier, and the time to live of entries.

Owns the order of the tiers and when an entry is written again. Storage and eviction are the tiers'.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from embedgate.core.clock import utc_ms
from embedgate.core.types import CachedVector, CacheStats, TierStats
from embedgate.core.vectors import Vectors
from embedgate.settings import CacheSettings
from embedgate.storage.cache.disk import DiskTier
from embedgate.storage.cache.json_texts import JsonTexts
from embedgate.storage.cache.memory import MemoryTier
from embedgate.storage.cache.record import Entry
from embedgate.storage.cache.store import GENERATIONS, State
from embedgate.storage.cache.writer import WriteBehind

_FOLDER = "cache"
_CLOSE_PATIENCE_S = 10.0
# An entry that is hit in the older half of the generations is written again. So it outlives its last hit by at least
# half the bound of writes, and is on disk at most twice.
_REFRESH_AGE = GENERATIONS // 2


def open_cache(settings: CacheSettings, data_dir: Path) -> "TieredCache":
    """Open the cache that the settings describe, with its disk tier in the folder `cache` of `data_dir`.

    Never fails: if the folder cannot be used, there is no disk tier, and an event says why.
    """
    disk = DiskTier(data_dir / _FOLDER, settings.disk_bytes) if settings.disk_bytes else None
    texts = JsonTexts(settings.json_bytes)
    return TieredCache(MemoryTier(settings.memory_bytes), disk, settings.max_pending_bytes, settings.ttl_s, texts=texts)


class TieredCache:
    """core.ports.VectorCache in two tiers. `get_many` and `put_many` are made for the event loop. Safe for threads.

    2,048 vectors of 1,536 numbers take 0.4 ms from the memory tier, and about 10 ms from files in the page cache of the
    system. From a cold disk `get_many` waits; look a large batch up on a worker thread then.
    A forked child finds nothing and stores nothing.
    """

    def __init__(
        self,
        memory: MemoryTier,
        disk: DiskTier | None,
        max_pending_bytes: int,
        ttl_s: float | None = None,
        clock: Callable[[], int] = utc_ms,
        texts: JsonTexts | None = None,
    ) -> None:
        """disk: None for a memory tier only. max_pending_bytes: of the write-behind queue.

        ttl_s: time to live; older entries are misses. clock: UTC milliseconds. texts: of vectors as JSON; none are kept
        if absent.
        """
        self._texts = texts or JsonTexts(0)
        self._memory = memory
        self._disk = disk
        self._ttl_ms = None if ttl_s is None else int(ttl_s * 1000)
        self._clock = clock
        self._process = os.getpid()
        self._is_closed = False
        self._lock = threading.Lock()  # guards the memory tier, the state and the counts
        self._state: State | None = None
        self._least_fresh = self._to_come = 0
        if disk is not None and (state := disk.state()) is not None:
            self._see(state)
        self._memory_hits = self._disk_hits = self._misses = self._dropped = 0
        self._writer = WriteBehind(disk.work, max_pending_bytes) if disk is not None else None

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Look keys up in both tiers: the vector of each key, in order, None for a miss."""
        if self._is_closed or os.getpid() != self._process:
            return [None] * len(keys)
        state = self._follow()
        if len(keys) == 1 and self._ttl_ms is None:
            return [self._get(keys[0], state)]
        oldest_ms = self._clock() - self._ttl_ms if self._ttl_ms is not None else None
        with self._lock:
            entries = self._recall(keys, oldest_ms)
        n_recalled = len(keys) - entries.count(None)
        if n_recalled < len(keys) and state is not None:
            missing = list(dict.fromkeys(key for key, entry in zip(keys, entries, strict=True) if entry is None))
            if found := self._load(missing, state, oldest_ms):
                entries = [entry or found.get(key) for key, entry in zip(keys, entries, strict=True)]
        n_missing = entries.count(None)
        with self._lock:
            self._memory_hits += n_recalled
            self._disk_hits += len(keys) - n_recalled - n_missing
            self._misses += n_missing
        return [entry.cached if entry is not None else None for entry in entries]

    def _get(self, key: bytes, state: State | None) -> CachedVector | None:
        """`get_many` of one key where entries never expire: the most common look-up, in half of the calls."""
        with self._lock:
            entry = self._memory.get(key)
            if entry is None and self._writer is not None and self._writer.pending_bytes:
                entry = self._writer.find(key)
            if entry is not None:
                self._memory_hits += 1
                if entry.generation < self._least_fresh:
                    self._refresh([(key, entry)])
                return entry.cached
        found = self._load([key], state, None) if state is not None else None
        with self._lock:
            if not found:
                self._misses += 1
                return None
            self._disk_hits += 1
        return found[key].cached

    def put_many(self, items: Sequence[tuple[bytes, CachedVector]]) -> None:
        """Store vectors: found from now on, on disk soon. Copies rows of a larger array."""
        if self._is_closed or os.getpid() != self._process:
            return
        # As of the last look-up, and nearly every put follows one. What another process has cleared since then, it
        # has cleared after this put: the next look-up follows.
        created_ms, generation = self._clock(), self._to_come
        entries = [(key, Entry(_owned(cached), created_ms, generation)) for key, cached in items]
        with self._lock:
            n_queued = self._writer.offer(entries) if self._writer is not None and self._state is not None else 0
            put = self._memory.put
            for key, entry in entries:
                put(key, entry)
            if n_queued < len(entries) and self._writer is not None:  # the others stay in memory alone
                self._dropped += len(entries) - n_queued
                for key, entry in entries[n_queued:]:
                    put(key, replace(entry, generation=0))

    def stats(self) -> CacheStats:
        """Sizes now, and counts since the cache was opened."""
        disk_entries, disk_bytes = self._disk.usage() if self._disk is not None else (0, 0)
        with self._lock:
            memory, disk = self._memory, self._disk
            return CacheStats(
                memory=TierStats(len(memory), memory.size_bytes, self._memory_hits, memory.evictions),
                disk=TierStats(disk_entries, disk_bytes, self._disk_hits, disk.evictions if disk is not None else 0),
                misses=self._misses,
                dropped=self._dropped + (disk.dropped if disk is not None else 0),
                rejected=disk.rejected if disk is not None else 0,
                pending_bytes=self._writer.pending_bytes if self._writer is not None else 0,
                texts=self._texts.stats(),
            )

    def json_of(self, vector: Vectors) -> bytes:
        """A vector that was found, as a JSON list; its text is kept for the next time. vector: (d,), C-contiguous."""
        return self._texts.of(vector)

    def clear(self) -> None:
        """Delete every entry, for all processes on the folder. Raises InternalError if the disk fails."""
        if not self._is_usable():
            return
        with self._lock:
            self._forget()
        if self._disk is not None:
            self._disk.clear()
            self._follow()  # drops what was read from disk meanwhile

    def close(self) -> None:
        """Write what is queued, for at most 10 seconds, and close files and threads. Blocks."""
        if not self._is_usable():
            return
        self._is_closed = True
        # A thread that waits for the lock of another process or a dead disk keeps its files: closing them under it
        # could end the process.
        if self._writer is not None and self._disk is not None and self._writer.close(_CLOSE_PATIENCE_S):
            self._disk.close()
        with self._lock:
            self._memory.clear()

    def _is_usable(self) -> bool:
        # Neither threads nor locks survive a fork.
        return not self._is_closed and os.getpid() == self._process

    def _follow(self) -> State | None:
        """Read the state of the disk tier, and follow a clear or a new generation of any process. None without disk."""
        if self._disk is None or self._writer is None:
            return None
        state = self._disk.state()  # read through a mapping: no system call, and no release of the interpreter lock
        if state is None or state == self._state:
            return state
        with self._lock:
            if self._state is None or state.clears != self._state.clears:
                self._forget()
            self._see(state)
        self._writer.wake()
        return state

    def _see(self, state: State) -> None:
        """Go on with a state of the disk tier, and work out what follows from it."""
        self._state = state
        self._to_come = max(state.oldest, state.youngest)
        """The generation into which entries are written now, or the next one; 0 without a disk tier."""
        self._least_fresh = max(1, state.youngest - _REFRESH_AGE + 1)
        """The oldest generation whose entries are not written again on a hit. Entries in no generation always are."""

    def _forget(self) -> None:
        self._memory.clear()
        self._texts.clear()
        if self._writer is not None:
            self._writer.forget()

    def _recall(self, keys: Sequence[bytes], oldest_ms: int | None) -> list[Entry | None]:
        """Entries in the memory tier or the write-behind queue."""
        recall = self._memory.get
        entries = [recall(key) for key in keys]
        if self._writer is not None and self._writer.pending_bytes:
            queued = self._writer.find
            entries = [entry or queued(key) for key, entry in zip(keys, entries, strict=True)]
        if entries.count(None) == len(entries):
            return entries
        if oldest_ms is not None:
            entries = [entry if entry is not None and entry.created_ms >= oldest_ms else None for entry in entries]
        if least := self._least_fresh:
            aged = [(k, e) for k, e in zip(keys, entries, strict=True) if e is not None and e.generation < least]
            self._refresh(aged)
        return entries

    def _load(self, keys: Sequence[bytes], state: State, oldest_ms: int | None) -> dict[bytes, Entry]:
        """Entries in the disk tier, which are copied to the memory tier."""
        found = self._disk.find(keys, state) if self._disk is not None else {}
        if not found:
            return found
        if oldest_ms is not None:
            found = {key: entry for key, entry in found.items() if entry.created_ms >= oldest_ms}
        with self._lock:
            if self._state is not None and self._state.clears == state.clears:
                for key, entry in found.items():
                    self._memory.put(key, entry)
                least = self._least_fresh
                self._refresh([(key, entry) for key, entry in found.items() if entry.generation < least])
        return found

    def _refresh(self, aged: Sequence[tuple[bytes, Entry]]) -> None:
        """Queue entries for writing again before their generation is evicted, if the queue has room."""
        if not aged or self._writer is None:
            return
        renewed = [(key, replace(entry, generation=self._to_come)) for key, entry in aged]
        for key, entry in renewed[: self._writer.offer(renewed)]:
            self._memory.put(key, entry)


def _owned(cached: CachedVector) -> CachedVector:
    """Copy the vector if it is part of an array: a row would keep the whole batch in memory, and could be changed."""
    vector = cached.vector
    if vector.base is None and not vector.flags.writeable:
        return cached
    # Not by `copy`, which gives up the interpreter lock each time: beside a busy thread, 128 of them took 15 ms, not 1.
    owned = np.empty_like(vector)
    owned.data[:] = vector.data
    owned.flags.writeable = False
    return CachedVector(owned, cached.tokens, cached.is_truncated)
