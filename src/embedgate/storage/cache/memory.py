"""The memory tier: entries by key within a bound on their bytes. Knows no disk, no time and no thread.

A segmented LRU. What is new is on probation; a hit takes it to the protected part, which may hold four fifths of the
bytes and sends back what was hit longest ago. Room is made from probation first. So a million rows that are put once
and not asked for again pass through a fifth of the memory, and what is asked for stays.
"""

from collections import OrderedDict

from embedgate.storage.cache.record import Entry

ENTRY_OVERHEAD_BYTES = 600
"""What an entry takes besides its floats: key, array, records, its place in the order. Resident memory grew by 460
bytes for one that was put, by 590 for one that was read from disk."""

_PROTECTED_SHARE = 0.8


class MemoryTier:
    """Entries by key. Not safe for threads."""

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of all entries, overhead included."""
        self.size_bytes = 0
        self.evictions = 0
        self._max_bytes = max_bytes
        self._max_protected_bytes = int(max_bytes * _PROTECTED_SHARE)
        self._protected_bytes = 0
        self._probation: OrderedDict[bytes, Entry] = OrderedDict()
        self._protected: OrderedDict[bytes, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def get(self, key: bytes) -> Entry | None:
        """The entry of a key; it is now the one that was hit last."""
        entry = self._protected.get(key)
        if entry is not None:
            self._protected.move_to_end(key)
            return entry
        entry = self._probation.pop(key, None)
        if entry is not None:
            self._protected[key] = entry
            self._protected_bytes += _size_bytes(entry)
            self._demote()
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry, in place of the key's old one. What does not fit pushes others out, or is not kept."""
        if (old := self._protected.get(key)) is not None:
            growth = _size_bytes(entry) - _size_bytes(old)
            self._protected[key] = entry
            self._protected_bytes += growth
            self.size_bytes += growth
            self._demote()
        else:
            if (old := self._probation.pop(key, None)) is not None:
                self.size_bytes -= _size_bytes(old)
            self._probation[key] = entry
            self.size_bytes += _size_bytes(entry)
        while self.size_bytes > self._max_bytes:
            self._evict()

    def clear(self) -> None:
        """Forget everything."""
        self._probation.clear()
        self._protected.clear()
        self.size_bytes = self._protected_bytes = 0

    def _demote(self) -> None:
        while self._protected_bytes > self._max_protected_bytes:
            key, entry = self._protected.popitem(last=False)
            self._protected_bytes -= _size_bytes(entry)
            self._probation[key] = entry

    def _evict(self) -> None:
        if self._probation:
            _, entry = self._probation.popitem(last=False)
        else:
            _, entry = self._protected.popitem(last=False)
            self._protected_bytes -= _size_bytes(entry)
        self.size_bytes -= _size_bytes(entry)
        self.evictions += 1


def _size_bytes(entry: Entry) -> int:
    return entry.cached.vector.nbytes + ENTRY_OVERHEAD_BYTES
