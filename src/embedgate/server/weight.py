"""Weight of a JSON body: the memory that parsing it takes, estimated from its bytes before it is parsed.

Measured with msgspec: a body of texts takes its size once more, or four times more where characters are wide; each
value beside takes up to 130 bytes, however short it is. Two copies come on top: the body, and what a provider is sent.

Bytes are looked at in pieces, and other requests have their turn in between.
"""

import asyncio
from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from embedgate.core.errors import BodyTooLarge, MalformedRequest

UNREAD_FACTOR = 6
"""Weight of one byte of a body whose content is not known yet: the most, for a body of texts."""
_NARROW_FACTOR = 3
"""The same for a body of ASCII."""
_VALUE_BYTES = 128
MAX_FIELDS = 1_000
"""Fields of the outermost object. An embedding has a dozen, a chat some more, and a million take seconds to read."""
_PIECE_BYTES = 1 << 17
"""Looked at in one turn: less than a millisecond."""
_STRUCTURE = b",:[]{}"
_OTHERS = bytes(set(range(256)) - set(_STRUCTURE))


class Counts(Struct, frozen=True):
    """What a body has: values outside of texts, at least; fields of its outermost object."""

    values: int
    fields: int


async def weight_of(body: bytes, max_values: int) -> int:
    """Bytes of memory that the body and what is made of it may take.

    Raises BodyTooLarge for more than `max_values` values, MalformedRequest for more than MAX_FIELDS fields.
    """
    values = fields = 0
    is_wide = False
    for piece in _pieces(body, _PIECE_BYTES):
        values += piece.count(b",") + piece.count(b"[") + piece.count(b"{")
        fields += piece.count(b":")
        is_wide = is_wide or not piece.isascii() or b"\\u" in piece
        if values + fields > max_values or fields > MAX_FIELDS:  # perhaps in texts only
            counts = await count(body, max_values)
            values, fields = counts.values, counts.fields
            is_wide = not body.isascii() or b"\\u" in body
            break
        if len(piece) == _PIECE_BYTES:
            await asyncio.sleep(0)
    else:
        values += fields
    if values > max_values:
        raise BodyTooLarge(
            f"The body has {values} values or more, in lists and objects; at most {max_values} are taken. Send fewer "
            "inputs per request, or raise server.max_body_values."
        )
    if fields > MAX_FIELDS:
        raise MalformedRequest(f"The body has {fields} fields or more; at most {MAX_FIELDS} are taken.")
    return len(body) * (UNREAD_FACTOR if is_wide else _NARROW_FACTOR) + values * _VALUE_BYTES


async def count(body: bytes, max_values: int, piece_bytes: int = _PIECE_BYTES) -> Counts:
    """Count values and fields outside of texts, until there are too many of either. Takes any bytes.

    piece_bytes: how much is looked at in one turn.
    """
    values = fields = depth = texts = 0
    is_inside = False
    """Whether the piece begins inside of a text."""
    is_escaped = False
    """Whether its first byte is escaped."""
    for piece in _pieces(body, piece_bytes):
        if max(values, texts // 2) > max_values or fields > MAX_FIELDS:
            break
        plain, is_escaped = _without_escapes(piece, is_escaped)
        parts = plain.split(b'"')
        structure = b"".join(parts[is_inside::2]).translate(None, _OTHERS)
        texts += len(parts) - 1
        is_inside ^= len(parts) % 2 == 0
        values += len(structure) - structure.count(b"]") - structure.count(b"}")
        if structure:
            found = np.frombuffer(structure, np.uint8)
            opened = ((found == ord("[")) | (found == ord("{"))).astype(np.int64)
            closed = ((found == ord("]")) | (found == ord("}"))).astype(np.int64)
            depths = depth + np.cumsum(opened - closed)
            fields += int(np.count_nonzero((found == ord(":")) & (depths == 1)))
            depth = int(depths[-1])
        await asyncio.sleep(0)
    return Counts(max(values, texts // 2 if texts > 2 * max_values else 0), fields)


def _pieces(body: bytes, piece_bytes: int) -> Iterator[bytes]:
    return (body[start : start + piece_bytes] for start in range(0, len(body), piece_bytes))


def _without_escapes(piece: bytes, is_escaped: bool) -> tuple[bytes, bool]:
    """The piece with other bytes in place of its escapes, and whether its end escapes what follows."""
    if is_escaped:
        piece = b"_" + piece[1:]
    if b"\\" not in piece:
        return piece, False
    # From the left, so that each pair is what it is for a parser.
    plain = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    return plain, plain.endswith(b"\\")
