"""The memory tier: a segmented LRU, bounded in bytes. Knows no disk, no time and no thread.

A new entry is on probation; a hit moves it to the protected segment, which holds at most four fifths of the bytes and
demotes its least recently used entry. Eviction takes from probation first. So a million entries that are put once and
never hit pass through a fifth of the memory, and entries that are hit stay.
"""

from collections import OrderedDict

from embedgate.storage.cache.record import Entry

ENTRY_OVERHEAD_BYTES = 600
"""Memory of an entry besides its floats: key, array, records, list node. Resident memory grew by 460 bytes for one
that was put, by 590 for one that was read from disk."""

_PROTECTED_SHARE = 0.8


class MemoryTier:
    """Entries by key, least recently used evicted first. Not safe for threads."""

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
        """The entry of a key, which becomes the most recently used."""
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
        """Store an entry in place of the key's old one, evicting others. One that can never fit is not kept."""
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
        """Drop every entry."""
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
