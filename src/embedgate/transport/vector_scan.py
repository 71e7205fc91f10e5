"""Scan of a large answer as it arrives: each vector goes into its row of one array, the rest is left as JSON.

A vector is found by the key in front of it and read as `read_vector` reads it. In the text that is left a mark stands
in its place, and the vendor module reads that text as it reads any answer: counts, indexes, the model and the usage are
checked there. What is no vector of the expected length is left as it stands. So the answer is never whole in memory, no
step holds the interpreter lock for more than a vector, and there is one reader of what an answer says.

Why the text that is left says the same as the whole: a quote with a letter before it and a colon behind it ends a key,
of that name or of a longer one that ends with it, so what follows is its value. It is replaced by another value, and
only if it is a list of numbers or a text in itself. Where the answer is not JSON, what is left is none either, for the
same reason. No host can know a mark: each answer has random ones.
"""

import re
import secrets
import struct

import numpy as np
import orjson
import pybase64

from embedgate.transport.records import ScannedReply

_TO_VALUE = re.compile(rb"[ \t\r\n]*(:[ \t\r\n]*)?")
"""What stands between a key and its value; without the group it is no key."""
_QUOTE = ord('"')
_ENDS = {ord("["): b"]", _QUOTE: b'"'}
_LITTLE_ENDIAN_FLOAT32 = np.dtype("<f4")
_BYTES_PER_NUMBER = 64
"""More than a number takes, with the white space of an indented answer. What is longer is left as it stands."""
_SPARE_BYTES = 1024


class VectorScan:
    """The scan of one answer: `write` its bytes in order, then `end`."""

    def __init__(self, field: str, n: int, dim: int) -> None:
        """field: the key of each vector. n, dim: vectors expected, and their length.

        The memory of the array is taken by the system as its rows are written.
        """
        self._key = b'"%s"' % field.encode()
        self._vectors = np.empty((n, dim), _LITTLE_ENDIAN_FLOAT32)
        self._memory = self._vectors.data.cast("B")
        self._row_bytes = dim * _LITTLE_ENDIAN_FLOAT32.itemsize
        self._numbers = struct.Struct(f"<{dim}f")  # half the time of an array, a fifth of that of numpy
        self._n = 0
        self._mark = b'"%s:' % secrets.token_hex(16).encode()
        self._max_bytes = dim * _BYTES_PER_NUMBER + _SPARE_BYTES
        self._left: list[bytes] = []
        self._rest = b""

    def write(self, piece: memoryview) -> None:
        """Take the next bytes. Keeps of them what is no vector, and the beginning of one whose end is to come."""
        text = self._rest + piece if self._rest else bytes(piece)
        key, left, view = self._key, self._left, memoryview(text)
        kept = at = 0
        self._rest = b""
        while (hit := text.find(key, at)) >= 0:
            at = hit + len(key)
            start, end = _value(text, at)
            if end < 0 and len(text) - hit <= self._max_bytes:
                left.append(text[kept:hit])
                self._rest = text[hit:]
                return
            if 0 <= start < end and self._read(view[start:end]):
                left += (text[kept:start], b'%s%d"' % (self._mark, self._n - 1))
                kept = at = end
        # Of the end so much as a key may have begun in.
        following = max(kept, len(text) - len(key))
        left.append(text[kept:following])
        self._rest = text[following:]

    def end(self) -> ScannedReply:
        """The text that is left, and the vectors that were read, in the order in which they stood there."""
        body = b"".join([*self._left, self._rest])
        self._left.clear()
        return ScannedReply(body, self._vectors[: self._n].astype(np.float32, copy=False), self._mark)

    def _read(self, text: memoryview) -> bool:
        """Read a vector into the next row; False if it is none of the expected length, or if no row is left.

        As `read_vector`, without its copies.
        """
        if self._n == len(self._vectors):
            return False
        begin, end = self._n * self._row_bytes, (self._n + 1) * self._row_bytes
        try:
            if text[0] == _QUOTE:
                self._memory[begin:end] = pybase64.b64decode(text[1:-1], validate=True)
            else:
                raw = bytes(text)
                if b"u" in raw or b"l" in raw:  # true and false would be taken for numbers
                    return False
                self._numbers.pack_into(self._memory, begin, *orjson.loads(raw))
        except (ValueError, struct.error, OverflowError):
            return False
        self._n += 1
        return True


def _value(text: bytes, at: int) -> tuple[int, int]:
    """Where the value of a key begins and ends that itself ends before `at`.

    The end is -1 where it is not there yet, and the beginning where there is no value that could be a vector.
    """
    found = _TO_VALUE.match(text, at)
    start = at if found is None else found.end()
    if start == len(text):
        return start, -1
    closing = _ENDS.get(text[start])
    if closing is None or found is None or found[1] is None:
        return -1, at
    end = text.find(closing, start + 1)
    return start, end if end < 0 else end + 1
