"""Entries on their way to disk: one thread, a bound on their bytes. What writing means is the caller's.

Nothing waits for the thread, so it lets entries gather for a moment and writes them in groups.
"""

import threading
from collections.abc import Callable, Sequence

from embedgate.storage.cache.record import Entry, record_bytes

_GATHER_S = 0.1  # what a killed process loses at most, beside what is being written
_GROUP_BYTES = 4_000_000  # enough waits to write at once
_TICK_S = 30.0  # how long an idle process holds files that another one has deleted

Items = Sequence[tuple[bytes, Entry]]


class WriteBehind:
    """A queue of entries, the newest of each key, and the thread that empties it. All methods are safe for threads."""

    def __init__(self, write: Callable[[Items], None], max_bytes: int) -> None:
        """write: stores what it is given and does not raise; called on the thread only, also with nothing now and then.

        max_bytes: of the entries that wait or are being written.
        """
        self._write = write
        self._max_bytes = max_bytes
        self._door = threading.Condition()
        self._waiting: dict[bytes, Entry] = {}
        self._leaving: dict[bytes, Entry] = {}
        self._waiting_bytes = 0
        self._leaving_bytes = 0
        self._is_woken = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="embedgate-cache", daemon=True)
        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        """Bytes of the entries that wait or are being written."""
        return self._waiting_bytes + self._leaving_bytes

    def offer(self, items: Items) -> int:
        """Queue the first of the items, as many as there is room for. Returns how many. Never waits."""
        with self._door:
            if self._is_closing:
                return 0
            n_accepted = 0
            was_empty = not self._waiting
            for key, entry in items:
                old = self._waiting.get(key)
                growth = record_bytes(entry) - (record_bytes(old) if old is not None else 0)
                if self.pending_bytes + growth > self._max_bytes:
                    break
                self._waiting[key] = entry
                self._waiting_bytes += growth
                n_accepted += 1
            # Each waking takes the interpreter lock from the event loop; between first and last there is no cause.
            if was_empty or self._waiting_bytes >= _GROUP_BYTES:
                self._door.notify()
        return n_accepted

    def find(self, key: bytes) -> Entry | None:
        """The entry of a key that is not written yet."""
        # In this order: an entry goes from waiting to leaving to disk, and must be seen on its way.
        return self._waiting.get(key) or self._leaving.get(key)

    def forget(self) -> None:
        """Drop what waits. What is being written is no longer found here, but may still be written."""
        with self._door:
            self._waiting = {}
            self._leaving = {}
            self._waiting_bytes = 0

    def wake(self) -> None:
        """Have `write` called soon, even with nothing to write."""
        with self._door:
            self._is_woken = True
            self._door.notify()

    def close(self, patience_s: float) -> bool:
        """Write what waits and end the thread. False if that takes longer than patience_s; the thread is then left."""
        with self._door:
            self._is_closing = True
            self._door.notify()
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._door:
                is_last = self._gather()
                items = list(self._leaving.items())
            self._write(items)
            with self._door:
                self._leaving = {}
                self._leaving_bytes = 0
            if is_last:
                return

    def _gather(self) -> bool:
        """Wait for a cause to write and take what waits. True if nothing will come after it."""
        self._door.wait_for(lambda: self._waiting or self._is_woken or self._is_closing, _TICK_S)
        if self._waiting:
            self._door.wait_for(lambda: self._waiting_bytes >= _GROUP_BYTES or self._is_closing, _GATHER_S)
        self._is_woken = False
        self._leaving, self._waiting = self._waiting, {}
        self._leaving_bytes, self._waiting_bytes = self._waiting_bytes, 0
        return self._is_closing
