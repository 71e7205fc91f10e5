"""The OpenAI embeddings format, as OpenAI and everyone who copies it speak it: translation only.

No sockets, retries, clocks or logging. How one host departs from the format is in its route and in `hosts.toml`.
"""

from array import array
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from embedgate.core.errors import UpstreamGarbled
from embedgate.core.types import Batch, ProviderReply, Route
from embedgate.core.vectors import Vectors, from_base64
from embedgate.transport import HttpCall, HttpProvider, HttpReply, classify, decode, encode, put

DEFAULT_PATH: Final = "/embeddings"


class _Item(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped."""

    data: list[_Item]
    model: str | None = None
    usage: _Usage | None = None


_BODY = msgspec.json.Decoder(_Body)


def provider(path: str = DEFAULT_PATH, *, sends_usage: bool = True) -> HttpProvider:
    """The vendor module of one host.

    path: what follows the base URL. sends_usage: whether its token counts are to be believed.
    """
    return HttpProvider(partial(build, path=path), partial(parse, sends_usage=sends_usage), classify)


def build(batch: Batch, route: Route, *, path: str = DEFAULT_PATH) -> HttpCall:
    """One call for one batch. A field that was not asked for is left out, never null: several hosts refuse null."""
    body: dict[str, Any] = {"model": route.upstream_model, "input": batch.inputs}
    if route.accepts_unknown_options:
        # Our own fields are written after these, so that no option can take the place of one.
        body = {name: orjson.Fragment(raw) for name, raw in batch.options.items()} | body
    for name, value in route.required_params:
        put(body, name, value)
    if route.accepts_base64:
        body["encoding_format"] = "base64"
    if batch.dim is not None:
        put(body, route.dim_field, batch.dim)
    if batch.user is not None and route.accepts_user:
        body["user"] = batch.user
    input_type = _input_type(batch, route)
    if route.input_type_field is not None and input_type is not None:
        put(body, route.input_type_field, input_type)
    return HttpCall("POST", path, encode(body))


def _input_type(batch: Batch, route: Route) -> str | None:
    match batch.input_type:
        case "query":
            return route.query_input_type
        case "document":
            return route.document_input_type
    return None


def parse(reply: HttpReply, batch: Batch, _route: Route, *, sends_usage: bool = True) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, whichever encoding was asked for, and the usage.

    Raises UpstreamGarbled unless there is one list of numbers, or one base64 text, per input, all of one length.
    """
    body = decode(reply, _BODY)
    tokens = _tokens(body.usage) if sends_usage else None
    try:
        vectors = _vectors(body.data, reply.provider, len(batch.inputs))
    except UpstreamGarbled as error:
        error.billed_tokens = tokens or 0
        raise
    return ProviderReply(vectors, tokens, body.model)


def _vectors(items: list[_Item], provider_name: str, n: int) -> Vectors:
    if len(items) != n:
        raise UpstreamGarbled(f"{provider_name} sent {len(items)} vectors for {n} inputs")
    ordered = _in_order(items, provider_name)
    first = _vector(ordered[0].embedding, provider_name)
    if n == 1:
        return first[np.newaxis]
    vectors = np.empty((n, first.size), np.float32)  # filled row by row: a list of rows would take as much again
    for position, item in enumerate(ordered):
        row = _vector(item.embedding, provider_name)
        if row.size != first.size:
            raise UpstreamGarbled(f"{provider_name} sent vectors of {first.size} and of {row.size} in one answer")
        vectors[position] = row
    return vectors


def _in_order(items: list[_Item], provider_name: str) -> list[_Item]:
    """Items by `index`, or as they are if none has one."""
    positions = [item.index for item in items]
    order = list(range(len(items)))
    if positions == order or not any(position is not None for position in positions):
        return items
    slots: list[_Item | None] = [None] * len(items)
    for item in items:
        if item.index is not None and 0 <= item.index < len(items):
            slots[item.index] = item
    found = [item for item in slots if item is not None]
    if len(found) != len(items):
        raise UpstreamGarbled(f"{provider_name} sent indexes that are not 0 to {len(items) - 1}, each once")
    return found


def _vector(raw: msgspec.Raw, provider_name: str) -> Vectors:
    """One vector, (d,) float32, from JSON: a list of numbers or base64. What was asked for does not matter."""
    text = bytes(raw)
    if text.startswith(b'"'):
        # Some JSON writers escape the slash, which base64 uses.
        return from_base64(orjson.loads(text) if b"\\" in text else memoryview(text)[1:-1])
    # array() takes true and false for numbers; of all JSON, only they and null have a "u" or an "l".
    if text.startswith(b"[") and b"u" not in text and b"l" not in text:
        try:
            # The C cast of array() is the rounding that numpy does, and refuses texts and lists, which numpy does not.
            numbers = array("f", orjson.loads(text))
        except (orjson.JSONDecodeError, TypeError, OverflowError) as error:
            raise UpstreamGarbled(f"{provider_name} sent an embedding that is not a flat list of numbers") from error
        if numbers:
            return np.frombuffer(numbers, dtype=np.float32)
    raise UpstreamGarbled(f"{provider_name} sent an embedding that is neither a list of numbers nor base64")


def _tokens(usage: _Usage | None) -> int | None:
    """The provider's count for the whole call; None if it gave none that can be one."""
    if usage is None:
        return None
    tokens = usage.prompt_tokens if usage.prompt_tokens is not None else usage.total_tokens
    return tokens if tokens is not None and tokens >= 0 else None
