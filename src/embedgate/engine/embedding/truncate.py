"""Truncation of over-long inputs before a call, with the tokenizer of the model, where the host cannot do it."""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from embedgate.core.errors import InputTooLong, InvalidInput
from embedgate.core.models import Route, Side
from embedgate.core.ports import Tokenizers
from embedgate.core.types import EmbedRequest, Input, TokenIds
from embedgate.engine.ledger.tokens import aside, bound, size_bytes

_BYTES_OF_A_CHARACTER = 4
"""The most in UTF-8, and so the most tokens: none is shorter than a byte."""


NONE_CUT: frozenset[int] = frozenset()


class Truncated(NamedTuple):
    """A request as a route takes it, and the rows of the inputs that were cut for that."""

    request: EmbedRequest
    rows: frozenset[int] = NONE_CUT


def needs_truncation(request: EmbedRequest, route: Route) -> bool:
    """Whether over-long inputs of a request are cut here before they go to a route: its host does not do it."""
    return not route.host_truncates(request.truncate, route.prefix_of(request.input_type))


def most_tokens_each(request: EmbedRequest, route: Route) -> int | None:
    """The most tokens of an input that is cut in this process for a route; None where nothing is cut."""
    is_cut = request.truncate != "none" and (route.tokenizer == "local" or needs_truncation(request, route))
    return route.max_input_tokens if is_cut else None


async def truncated(
    request: EmbedRequest, rows: Sequence[int], route: Route, prefix: str, tokenizers: Tokenizers
) -> Truncated:
    """A request with those of its inputs cut that are too long for a route, at the side that it names.

    rows: the inputs that will be sent. prefix: what will stand before each of them, and counts. Large texts are cut on
    a worker thread. Raises InvalidInput naming the input if its token ids have to be decoded and cannot be.
    """
    inputs = list(request.inputs)
    over_long = []
    room = route.max_input_tokens - size_bytes(prefix)
    for row in rows:
        try:
            inputs[row] = _as_read(inputs[row], prefix, route, tokenizers)
        except InvalidInput as error:
            raise error.at(row) from error
        if bound(inputs[row]) > room:
            over_long.append(row)
    if not over_long:
        return Truncated(replace(request, inputs=tuple(inputs)))
    whole = [inputs[row] for row in over_long]
    side: Side = "start" if request.truncate == "start" else "end"
    for row, item in zip(over_long, await aside(whole, _cut, whole, route, side, prefix, tokenizers), strict=True):
        if not item:
            raise InputTooLong("has no beginning that fits. Shorten it.", index=row)
        inputs[row] = item
    changed = frozenset(row for row, before in zip(over_long, whole, strict=True) if inputs[row] != before)
    return Truncated(replace(request, inputs=tuple(inputs)), changed)


def _as_read(item: Input, prefix: str, route: Route, tokenizers: Tokenizers) -> Input:
    """An input as text, unless the route reads its token ids."""
    if isinstance(item, str) or (route.accepts_token_ids and not prefix):
        return item
    return tokenizers.decoder().decode(item)


def _cut(inputs: Sequence[Input], route: Route, side: Side, prefix: str, tokenizers: Tokenizers) -> list[Input]:
    """Inputs with at most as many tokens as a route takes. Empty where not even a character fits."""
    cutter = tokenizers.cutter(route)
    if cutter is None:  # no route is asked then: `resolve` leaves it out
        return list(inputs)
    limit = route.max_input_tokens
    return [
        cutter.cut(item, limit, side, prefix) if isinstance(item, str) else _cut_ids(item, limit, side, tokenizers)
        for item in inputs
    ]


def _cut_ids(ids: TokenIds, limit: int, side: Side, tokenizers: Tokenizers) -> TokenIds:
    """Token ids, at most `limit`, that end with a whole character, if those that were sent do."""
    if len(ids) <= limit:
        return ids
    decoder = tokenizers.decoder()
    for n in range(limit, max(0, limit - _BYTES_OF_A_CHARACTER), -1):
        left = ids[:n] if side == "end" else ids[len(ids) - n :]
        try:
            decoder.decode(left)
        except InvalidInput:
            continue
        return left
    return ids[:limit] if side == "end" else ids[len(ids) - limit :]
