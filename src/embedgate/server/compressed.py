"""Content encodings of request bodies: gzip and deflate, decoded within a bound.

RFC 9110 (8.4). The formats are those of RFC 1952 and 1950, and 1951, which some clients send as "deflate".
"""

import asyncio
import zlib
from collections.abc import Iterator

from embedgate.core.errors import MalformedRequest, UnsupportedEncoding

DECODED = ("gzip", "deflate")
_STEP_BYTES = 256_000
_ON_LOOP_BYTES = 16_384
"""A body of more bytes is decoded on a worker, where zlib lets others run; how many, a small one does not tell."""
_WINDOWS = {"gzip": (zlib.MAX_WBITS | 16,), "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}
"""How zlib calls the formats, in the order in which they are tried."""


async def decoded_size(encoding: str, body: bytes, max_bytes: int) -> int:
    """Bytes of a decoded body, of which none is kept; a number over max_bytes where there are more.

    Raises UnsupportedEncoding, or MalformedRequest if it is not in its encoding to its end.
    """
    if encoding not in DECODED:
        raise UnsupportedEncoding(
            f"content-encoding is {encoding[:100]}; {' and '.join(DECODED)} are decoded here. Send the body in one of "
            "them, or as it is."
        )
    return await asyncio.to_thread(_size, encoding, body, max_bytes)


async def decoded(encoding: str, body: bytes, size_bytes: int) -> bytes:
    """A decoded body. size_bytes: what `decoded_size` has found."""
    if size_bytes <= _ON_LOOP_BYTES:
        return b"".join(_pieces(encoding, body))
    return await asyncio.to_thread(lambda: b"".join(_pieces(encoding, body)))


def _size(encoding: str, body: bytes, max_bytes: int) -> int:
    size_bytes = 0
    for piece in _pieces(encoding, body):
        size_bytes += len(piece)
        if size_bytes > max_bytes:
            break
    return size_bytes


def _pieces(encoding: str, body: bytes) -> Iterator[bytes]:
    """The decoded body in small pieces. Raises MalformedRequest unless the body is whole and nothing follows it."""
    fault: object = "it ends too early"
    for window in _WINDOWS[encoding]:
        decoder = zlib.decompressobj(window)
        has_begun = False
        try:
            while piece := decoder.decompress(decoder.unconsumed_tail if has_begun else body, _STEP_BYTES):
                has_begun = True
                yield piece
        except zlib.error as error:
            fault = error
            if has_begun:
                break
            continue
        if decoder.eof and not decoder.unused_data:
            return
        if decoder.eof:
            fault = "other bytes follow its end"
        break
    raise MalformedRequest(f"The body cannot be decoded as {encoding}, which content-encoding says it is: {fault}.")
