"""Reads reply bodies: JSON as typed records, vectors, counts of tokens and searches. Pure.

Vendor modules find the JSON of each vector, a list of numbers or base64, and that of each count. The shape of an answer
is checked here for all vendors; messages never show its content. Bookkeeping never spoils a good answer: a count that
cannot be read counts as not told, and is then estimated.
"""

import math
import struct
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import numpy as np
import orjson

from embedgate.core.errors import UpstreamGarbled, UpstreamMismatch
from embedgate.core.types import Batch, ProviderReply
from embedgate.core.vectors import Vectors, from_base64
from embedgate.transport.records import HttpReply, ScannedReply

_Body = TypeVar("_Body")
NOTHING_TOLD = msgspec.Raw(b"null")
"""The default of a field for usage."""
_MOST_COUNTED = 10**9
"""Largest count that is believed: a larger one is wrong, and its cost might not fit the ledger."""
_ANYTHING = msgspec.json.Decoder()
_MAX_DIGITS = 20
_QUOTE = ord('"')


def decode(reply: HttpReply, decoder: msgspec.json.Decoder[_Body]) -> _Body:
    """A reply's body as a typed record; fields that the record does not name are skipped.

    Raises UpstreamGarbled if it is not JSON, UpstreamMismatch if it is not of that shape. The message names places and
    types, no values.
    """
    try:
        return decoder.decode(reply.body)
    except msgspec.ValidationError as error:
        raise UpstreamMismatch(f"{reply.provider} sent an answer of another shape: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamGarbled(f"{reply.provider} sent an answer that is not JSON") from error


def read_embeddings(
    reply: HttpReply,
    batch: Batch,
    rows: Sequence[msgspec.Raw],
    *,
    positions: list[int | None] | None = None,
    tokens: int | None = None,
    model: str | None = None,
    truncated: tuple[int, ...] = (),
    read: Callable[[msgspec.Raw, str], Vectors] | None = None,
) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of the inputs, from one piece of JSON for each.

    positions: the index that each row reports; without any, rows are in the order of the inputs. tokens: the
    provider's count, as `read_count` reads it. read: reads one row, given the provider's name for messages;
    `read_vector` if absent.
    Raises UpstreamMismatch, with the billed tokens, unless there is one vector for each input, all of one length.
    """
    try:
        if len(rows) != len(batch.inputs):
            raise UpstreamMismatch(f"{reply.provider} sent {len(rows)} vectors for {len(batch.inputs)} inputs")
        if positions is not None and positions != [0]:
            rows = [rows[place] for place in _order(positions, reply.provider)]
        vectors = _vectors(rows, reply, read or read_vector)
    except UpstreamGarbled as error:
        error.billed_tokens = tokens or 0
        raise
    return ProviderReply(vectors, tokens, model, truncated)


def read_vectors(
    rows: Sequence[msgspec.Raw], provider: str, read: Callable[[msgspec.Raw, str], Vectors] | None = None
) -> Vectors:
    """Vectors of one length, (n, d) float32, from one piece of JSON for each; at least one. read: as above.

    Raises UpstreamMismatch.
    """
    read = read or read_vector
    first = read(rows[0], provider)
    if len(rows) == 1:
        return first[np.newaxis]
    # Row by row: a list of rows would take the same memory again, and the system gives memory anew for each answer.
    vectors = np.empty((len(rows), first.size), np.float32)
    for position, raw in enumerate(rows):
        row = read(raw, provider)
        if row.size != first.size:
            raise UpstreamMismatch(f"{provider} sent vectors of {first.size} and of {row.size} in one answer")
        vectors[position] = row
    return vectors


def read_vector(raw: msgspec.Raw, provider: str) -> Vectors:
    """One vector, (d,) float32, from JSON: a list of numbers or base64. Either is accepted, whichever was asked for.

    Raises UpstreamMismatch.
    """
    view = memoryview(raw)
    if view[0] == _QUOTE:
        try:
            return from_base64(view[1:-1])
        except UpstreamMismatch:
            if b"\\" not in bytes(view):
                raise
            return from_base64(orjson.loads(view))  # some JSON writers escape the slash, which base64 uses
    text = bytes(view)
    # Packing takes true and false for numbers; of all JSON, only they and null have a "u" or an "l".
    if text.startswith(b"[") and b"u" not in text and b"l" not in text:
        try:
            packed = _packed(orjson.loads(text))
        except (orjson.JSONDecodeError, struct.error, TypeError, OverflowError) as error:
            raise UpstreamMismatch(f"{provider} sent an embedding that is not a flat list of numbers") from error
        if packed:
            return np.frombuffer(packed, dtype=np.float32)
    raise UpstreamMismatch(f"{provider} sent an embedding that is neither a list of numbers nor base64")


def read_count(told: object) -> int | None:
    """Tokens or searches that a provider reports, rounded up; None if it cannot be a count.

    told: a value, or the JSON of one. A number may be written as a text.
    """
    if type(told) is int:  # as of most hosts
        return told if 0 <= told <= _MOST_COUNTED else None
    if isinstance(told, msgspec.Raw):
        told = _decoded(told)
    if isinstance(told, str):
        told = _number(told)
    if isinstance(told, bool) or not isinstance(told, (int, float)):
        return None
    return math.ceil(told) if 0 <= told <= _MOST_COUNTED else None


def read_usage(raw: msgspec.Raw, *names: str) -> int | None:
    """The first of these fields of an object that is a count; None if none is, or it is no object."""
    usage = read_object(raw)
    for name in names:
        if (count := read_count(usage.get(name))) is not None:
            return count
    return None


def read_object(raw: msgspec.Raw) -> dict[str, Any]:
    """An object of a reply; an empty one in place of anything else."""
    found = _decoded(raw)
    return found if isinstance(found, dict) else {}


def _packed(numbers: list[float]) -> bytes:
    """Numbers as float32, rounded as numpy rounds. Raises what `struct` raises for a text or a list among them.

    Half the time of an array, which gives infinity for what float32 cannot hold, and a quarter of that of numpy, which
    takes texts.
    """
    try:
        return struct.pack(f"{len(numbers)}f", *numbers)
    except OverflowError:
        return array("f", numbers).tobytes()


def _read_scanned(
    scanned: ScannedReply, read: Callable[[msgspec.Raw, str], Vectors], raw: msgspec.Raw, provider: str
) -> Vectors:
    """One vector, read already or not."""
    place = scanned.place(raw)
    return scanned.vectors[place] if place is not None else read(raw, provider)


def _order(positions: list[int | None], provider: str) -> list[int]:
    """Position of the row of each input."""
    order = list(range(len(positions)))
    if positions == order or not any(position is not None for position in positions):
        return order
    places = {position: place for place, position in enumerate(positions)}
    if places.keys() != set(order):
        raise UpstreamMismatch(f"{provider} sent indexes that are not 0 to {len(positions) - 1}, each once")
    return [places[position] for position in order]


def _vectors(rows: Sequence[msgspec.Raw], reply: HttpReply, read: Callable[[msgspec.Raw, str], Vectors]) -> Vectors:
    if reply.scanned is not None:
        found = reply.scanned.rows(rows)
        if found is not None:
            return found
        read = partial(_read_scanned, reply.scanned, read)
    return read_vectors(rows, reply.provider, read)


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return _ANYTHING.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # such as a number out of range
        return None


def _number(text: str) -> float | None:
    try:
        return float(text) if len(text) <= _MAX_DIGITS else None
    except ValueError:
        return None
