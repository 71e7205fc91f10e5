"""The write-behind queue between the memory tier and the disk tier: one thread, bounded in bytes.

Nobody waits for a write, so the thread collects entries for a moment and writes them in groups. How they are written is
the caller's.
"""

import threading
from collections.abc import Callable, Sequence

from embedgate.storage.cache.record import Entry, record_bytes

_GATHER_S = 0.1  # a killed process loses the entries of this time and the group being written
_GROUP_BYTES = 4_000_000  # written without waiting for more
_TICK_S = 30.0  # an idle process holds files that another one has deleted for this long

Items = Sequence[tuple[bytes, Entry]]


class WriteBehind:
    """Write-behind queue: the newest entry of each key, and the thread that writes them. Safe for threads."""

    def __init__(self, write: Callable[[Items], None], max_bytes: int) -> None:
        """write: stores the entries and does not raise; called on the thread, at times with none.

        max_bytes: of the entries in the queue, those being written included.
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
        """Bytes of the entries in the queue, those being written included."""
        return self._waiting_bytes + self._leaving_bytes

    def offer(self, items: Items) -> int:
        """Queue as many of the first items as there is room for. Returns how many. Never waits."""
        with self._door:
            if self._is_closing:
                return 0
            n_accepted = 0
            waiting = self._waiting
            was_empty = not waiting
            max_bytes = self._max_bytes - self._leaving_bytes
            for key, entry in items:
                waiting_bytes = self._waiting_bytes + record_bytes(entry)
                if (old := waiting.get(key)) is not None:
                    waiting_bytes -= record_bytes(old)
                if waiting_bytes > max_bytes:
                    break
                waiting[key] = entry
                self._waiting_bytes = waiting_bytes
                n_accepted += 1
            # Waking the thread costs the event loop the interpreter lock, so only the first item and a full group do.
            if was_empty or self._waiting_bytes >= _GROUP_BYTES:
                self._door.notify()
        return n_accepted

    def find(self, key: bytes) -> Entry | None:
        """The queued entry of a key."""
        # In this order: an entry goes from waiting to leaving to disk, and must be found all the way.
        return self._waiting.get(key) or self._leaving.get(key)

    def forget(self) -> None:
        """Empty the queue. A group that is being written is no longer found here, but may still reach the disk."""
        with self._door:
            self._waiting = {}
            self._leaving = {}
            self._waiting_bytes = 0

    def wake(self) -> None:
        """Call `write` soon, even with nothing to write."""
        with self._door:
            self._is_woken = True
            self._door.notify()

    def close(self, patience_s: float) -> bool:
        """Write what is queued and end the thread. Returns False, leaving the thread, if that takes over patience_s."""
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
        """Wait until a write is due, and take what is queued. True if it is the last."""
        self._door.wait_for(lambda: self._waiting or self._is_woken or self._is_closing, _TICK_S)
        if self._waiting:
            self._door.wait_for(lambda: self._waiting_bytes >= _GROUP_BYTES or self._is_closing, _GATHER_S)
        self._is_woken = False
        self._leaving, self._waiting = self._waiting, {}
        self._leaving_bytes, self._waiting_bytes = self._waiting_bytes, 0
        return self._is_closing
