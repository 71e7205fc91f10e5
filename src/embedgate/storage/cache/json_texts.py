"""JSON texts of vectors that are asked for as floats again and again, bounded in bytes. Knows no tier and no key.

To write 1,536 numbers as JSON takes 30 to 50 us, to find what was written before 2 us. A text is found by the bytes of
its vector, so that it can never be that of another one.
"""

import threading
from collections import OrderedDict

from embedgate.core.types import TierStats
from embedgate.core.vectors import Vectors, to_json

_OVERHEAD_BYTES = 250
"""Memory of a text besides its bytes and those of its vector: two objects and a node of the list."""


class JsonTexts:
    """JSON texts of vectors, the least recently used evicted first. Safe for threads."""

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of all texts with their vectors, overhead included; 0 keeps none."""
        self._max_bytes = max_bytes
        self._texts: OrderedDict[bytes, bytes] = OrderedDict()
        self._size_bytes = self._hits = self._evictions = 0
        self._lock = threading.Lock()

    def of(self, vector: Vectors) -> bytes:
        """The vector as a JSON list, as `to_json` writes it. vector: (d,), C-contiguous."""
        if not self._max_bytes:
            return to_json(vector)
        key = vector.tobytes()
        with self._lock:
            text = self._texts.get(key)
            if text is not None:
                self._texts.move_to_end(key)
                self._hits += 1
                return text
        text = to_json(vector)
        with self._lock:
            self._keep(key, text)
        return text

    def clear(self) -> None:
        """Drop every text."""
        with self._lock:
            self._texts.clear()
            self._size_bytes = 0

    def stats(self) -> TierStats:
        """Sizes now, and counts since the start."""
        with self._lock:
            return TierStats(len(self._texts), self._size_bytes, self._hits, self._evictions)

    def _keep(self, key: bytes, text: bytes) -> None:
        size_bytes = _size_bytes(key, text)
        if key in self._texts or size_bytes > self._max_bytes:
            return
        self._texts[key] = text
        self._size_bytes += size_bytes
        while self._size_bytes > self._max_bytes:
            self._size_bytes -= _size_bytes(*self._texts.popitem(last=False))
            self._evictions += 1


def _size_bytes(key: bytes, text: bytes) -> int:
    return len(key) + len(text) + _OVERHEAD_BYTES
