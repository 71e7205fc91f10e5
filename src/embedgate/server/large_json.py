"""Large JSON values, decoded in pieces: on a worker, no call keeps the interpreter from the event loop for long.

A parser written in C takes no breaks: it keeps the interpreter lock for all of a body, on whichever thread it runs.
What comes out is what the parser makes of the whole. A value is cut where an item or a character may end, and a piece
counts only if the parser takes it as complete: then what follows it begins as it would have in the whole.
"""

import codecs
import io
from typing import Annotated, TypeVar

import msgspec

T = TypeVar("T")

LARGE_BYTES = 250_000
"""About half a millisecond of decoding. What is no larger is decoded at once."""
_TRIES = 13
"""Places tried before a text is taken as not decodable: an escaped pair of surrogates has twelve bytes."""
REFUSALS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the parser raises."""

_TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_text = msgspec.json.Decoder(str)
_texts = msgspec.json.Decoder(tuple[str, ...])
_ids = msgspec.json.Decoder(tuple[_TokenId, ...])
_id_lists = msgspec.json.Decoder(tuple[tuple[_TokenId, ...], ...])
_raw_items = msgspec.json.Decoder(tuple[msgspec.Raw, ...])


def decode_texts(raw: memoryview) -> tuple[str, ...]:
    """The value of a JSON list of texts. Raises what msgspec does."""
    if len(raw) <= LARGE_BYTES:
        return _texts.decode(raw)
    found = _in_pieces(_texts, raw, b'",')
    if found is None:  # texts that are longer than a piece
        return tuple([decode_text(memoryview(each)) for each in raw_items(raw)])
    return found


def decode_ids(raw: memoryview) -> tuple[int, ...]:
    """The value of a JSON list of token ids. Raises what msgspec does."""
    found = _in_pieces(_ids, raw, b",") if len(raw) > LARGE_BYTES else None
    return _ids.decode(raw) if found is None else found


def decode_id_lists(raw: memoryview) -> tuple[tuple[int, ...], ...]:
    """The value of a JSON list of lists of token ids. Raises what msgspec does."""
    found = _in_pieces(_id_lists, raw, b"],") if len(raw) > LARGE_BYTES else None
    return _id_lists.decode(raw) if found is None else found


def decode_text(raw: memoryview) -> str:
    """The value of a JSON text. Raises what msgspec does."""
    if len(raw) <= LARGE_BYTES:
        return _text.decode(raw)
    found: list[str] = []
    start, last = 1, len(raw) - 1
    while last - start > LARGE_BYTES:
        piece = bytes(raw[start : start + LARGE_BYTES])
        last_end = piece.rfind(b" ") + 1 or len(piece)  # no escape and no character goes over a blank
        for end in range(last_end, max(last_end - _TRIES, 0), -1):
            part = _decoded(_text, b'"%b"' % piece[:end])
            if part is not None:
                break
        else:
            return _text.decode(raw)
        found.append(part)
        start += end
    part = _decoded(_text, b'"%b' % bytes(raw[start:]))
    if part is None:
        return _text.decode(raw)  # which says where the fault is
    return "".join((*found, part))


def raw_items(raw: memoryview) -> tuple[msgspec.Raw, ...]:
    """The items of a JSON list, not decoded."""
    return _raw_items.decode(raw)


def check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError unless all of it is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), LARGE_BYTES):
            decoder.decode(body[start : start + LARGE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        body.decode()  # which says where the fault is
        raise


def copied(raw: memoryview) -> bytes:
    """A copy of a value. Bytes that are copied at once take ten times as long where memory is new to the process."""
    if len(raw) <= LARGE_BYTES:
        return bytes(raw)
    found = io.BytesIO()
    for start in range(0, len(raw), LARGE_BYTES):
        found.write(raw[start : start + LARGE_BYTES])
    return found.getvalue()


def _in_pieces(decoder: "msgspec.json.Decoder[tuple[T, ...]]", raw: memoryview, ends: bytes) -> tuple[T, ...] | None:
    """The items of a large list; None if they cannot be had in pieces, which says nothing of the list.

    ends: what every item but the last ends with, a comma included.
    """
    found: list[T] = []
    start = 1
    while len(raw) - start > LARGE_BYTES:
        piece = bytes(raw[start : start + LARGE_BYTES])
        end = len(piece)
        for _ in range(_TRIES):
            end = piece.rfind(ends, 0, end)
            if end < 0:
                return None
            items = _decoded(decoder, b"[%b]" % piece[: end + len(ends) - 1])
            if items:
                break
        else:
            return None
        found += items
        start += end + len(ends)
    items = _decoded(decoder, b"[%b" % bytes(raw[start:]))
    return (*found, *items) if items else None


def _decoded(decoder: "msgspec.json.Decoder[T]", raw: bytes) -> T | None:
    try:
        return decoder.decode(raw)
    except REFUSALS:
        return None
