"""Received bytes that wait to be parsed, taken in parts of a few heads and lines, so that each takes little time.

The parser calls back for each line of a head and for each chunk of a body: 250 KB of the shortest, which come with one
read of the socket, would hold the event loop for 30 ms.
"""

HEADS = 4
"""Heads in one part, at most."""
LINES = 64
"""Lines of heads, and of the framing of chunks, in one part."""
FEW_LINES = 12
"""So many lines have no more than `HEADS` heads that are a request."""
_END_OF_HEAD = b"\n\r\n"
"""In every end of a head: the parser takes no other line ends."""


def is_much(data: bytes, lines: int) -> bool:
    """Whether it has more than one part. lines: that are in it."""
    return lines > LINES or data.count(_END_OF_HEAD) > HEADS


class Received:
    """Bytes of one connection that wait to be parsed."""

    __slots__ = ("_taken", "data")

    def __init__(self) -> None:
        """Nothing waits."""
        self.data = b""
        """What is kept, taken or not; empty once all is taken."""
        self._taken = 0

    def add(self, data: bytes) -> None:
        """Put more behind what waits."""
        self.data = self.data[self._taken :] + data if self.data else data
        self._taken = 0

    def take(self, body_bytes: int) -> bytes:
        """The next part. body_bytes: so many more are of a body of known length, in which lines do not matter."""
        data, start = self.data, self._taken
        end = min(start + body_bytes, len(data)) if body_bytes else _after(data, b"\n", LINES, start)
        if not body_bytes and data.count(_END_OF_HEAD, start, end) > HEADS:
            end = _after(data, _END_OF_HEAD, HEADS, start)
        self._taken = end
        if end == len(data):
            self.clear()
        return data[start:end]

    def clear(self) -> None:
        """Forget what waits."""
        self.data, self._taken = b"", 0


def _after(data: bytes, wanted: bytes, n: int, start: int) -> int:
    """Where the n-th of what is wanted ends; the end of all if there are fewer."""
    for _ in range(n):
        found = data.find(wanted, start)
        if found < 0:
            return len(data)
        start = found + len(wanted)
    return start
