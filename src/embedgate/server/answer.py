"""HTTP answers: status, headers, and the body whole or in pieces."""

import math
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import orjson
from msgspec import Struct

from embedgate.core.access import Rate
from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import (
    AccessError,
    AnswerNotKept,
    GatewayError,
    InternalError,
    MethodNotAllowed,
    UpstreamError,
)
from embedgate.core.money import usd_text
from embedgate.core.quantise import QUANTISERS
from embedgate.core.types import EmbedResult, Usage
from embedgate.core.vectors import Vectors, to_base64, to_json

Headers = list[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")
PIECE_BYTES = 128 * 1024
"""Size of one piece of a large body: encoding it blocks the event loop for a millisecond at most."""


MAX_POSITIONS_BYTES = 512
"""Of a list of positions in a header. nginx takes 4 KB of headers from a server, all together."""
MAX_CONTENT_TYPE_BYTES = 256
"""Of the content type that a provider gives; a longer one is cut."""

_NO_SPELLINGS: Mapping[str, str] = MappingProxyType({})
_HEAD = b'{"object":"list","data":['
_FIRST = b'{"object":"embedding","index":0,"embedding":'


class Answer(Struct, frozen=True):
    """One HTTP answer. `pieces` follow `body`, produced one at a time, so that a large body is never in memory whole.

    `stream` follows `body` in place of them where each piece must be awaited.
    """

    status: int
    headers: Headers
    body: bytes
    pieces: Iterator[bytes] | None = None
    stream: AsyncGenerator[bytes, None] | None = None


class Billed(Protocol):
    """What every result says of its provider, its usage and its cost."""

    @property
    def provider(self) -> str:
        """The route that served it."""
        ...

    @property
    def usage(self) -> Usage:
        """Its token usage."""
        ...

    @property
    def cost_picodollars(self) -> int:
        """What it cost."""
        ...


def vector_answer(result: EmbedResult, encoding_format: str, headers: Headers, tail: bytes) -> Answer:
    """An embeddings answer in the OpenAI format. headers: those of the dialect. tail: what follows the data items.

    The body is one piece if it is one vector, as most are, else made as it is sent.
    """
    found = headers + result_headers(result)
    if len(result.vectors) > 1:
        pieces = _vector_pieces(result, encoding_format, tail)
        return Answer(200, found, next(pieces), pieces)
    quote = b'"' if encoding_format == "base64" else b""
    encoded = _encoder(encoding_format, result)(result.vectors[0])
    return Answer(200, found, b"%s%s%s%s%s}%s" % (_HEAD, _FIRST, quote, encoded, quote, tail))


def _vector_pieces(result: EmbedResult, encoding_format: str, tail: bytes) -> Iterator[bytes]:
    """Pieces of the body: head, the data items, `tail`, joined to PIECE_BYTES."""
    encode = _encoder(encoding_format, result)
    quote = b'"' if encoding_format == "base64" else b""
    parts = [_HEAD]
    size = 0
    for index, vector in enumerate(result.vectors):
        encoded = encode(vector)
        lead = b'%s{"object":"embedding","index":%d,"embedding":%s' % (b"," if index else b"", index, quote)
        parts += (lead, encoded, quote, b"}")
        size += len(encoded) + len(lead)
        if size >= PIECE_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    parts.append(tail)
    yield b"".join(parts)


def rows_answer(result: EmbedResult, headers: Headers, lists: Sequence[tuple[bytes, str]], tail: bytes) -> Answer:
    """An embeddings answer with lists of bare vectors. headers: those of the dialect. tail: what follows the last list.

    lists: for each, what stands before its first vector, and the encoding format of its vectors.
    """
    pieces = _row_pieces(result, lists, tail)
    return Answer(200, headers + result_headers(result), next(pieces), pieces)


def _row_pieces(result: EmbedResult, lists: Sequence[tuple[bytes, str]], tail: bytes) -> Iterator[bytes]:
    """Pieces of the body, joined to PIECE_BYTES."""
    parts: list[bytes] = []
    size = 0
    for lead, encoding_format in lists:
        encode = _encoder(encoding_format, result)
        quote = b'"' if encoding_format == "base64" else b""
        parts.append(lead)
        for index, vector in enumerate(result.vectors):
            encoded = encode(vector)
            parts += (b"," if index else b"", quote, encoded, quote)
            size += len(encoded)
            if size >= PIECE_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
    parts.append(tail)
    yield b"".join(parts)


def _encoder(encoding_format: str, result: EmbedResult) -> Callable[[Vectors], bytes]:
    """The encoder of one vector of a result for an encoding format, without quotes."""
    if encoding_format == "base64":
        return to_base64
    quantise = QUANTISERS.get(encoding_format)
    if quantise is not None:
        return lambda vector: to_json(quantise(vector))
    # The texts of one large answer would take the place of all that are kept.
    return result.json_of if len(result.vectors) == 1 else to_json


def result_headers(result: EmbedResult) -> Headers:
    """Headers of an embeddings answer: its cost, its route, and the truncated inputs."""
    found = cost_headers(result)
    if result.truncated:
        found.append((b"x-embedgate-truncated", positions_text(result.truncated).encode()))
    return found


def positions_text(positions: Sequence[int]) -> str:
    """Positions as the value of a header: all of them, else as ranges, else the first ranges and how many more.

    positions: in ascending order. Proxies refuse answers whose headers are too long, and callers choose how many.
    """
    text = ",".join(map(str, positions))
    if len(text) <= MAX_POSITIONS_BYTES:
        return text
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1][1:] = [position]
        else:
            runs.append([position])
    written, left = "", len(positions)
    for run in runs:
        part = "-".join(map(str, run))
        if len(written) + len(part) > MAX_POSITIONS_BYTES:
            return f"{written} and {left} more"
        written += f",{part}" if written else part
        left -= run[-1] - run[0] + 1
    return written


def cost_headers(result: Billed) -> Headers:
    """Headers with the cost and the route of a served request."""
    found: Headers = [
        (b"x-embedgate-cost-usd", usd_text(result.cost_picodollars).encode()),
        (b"x-embedgate-cached-tokens", b"%d" % result.usage.reused_tokens),
        (b"x-embedgate-provider", result.provider.encode()),
    ]
    if result.usage.is_estimated:
        found.append((b"x-embedgate-usage", b"estimated"))
    return found


def chat_answer(completion: ChatResult | ChatStream, others: Headers) -> Answer:
    """Answer of a chat completion, byte for byte as the provider sent it. others: the dialect's common headers."""
    found: Headers = [
        (b"content-type", completion.content_type.encode("latin-1", "replace")[:MAX_CONTENT_TYPE_BYTES]),
        *untyped(others),
        (b"cache-control", b"no-store"),
    ]
    if completion.provider is not None and completion.model is not None:
        found.append((b"x-embedgate-provider", completion.provider.encode()))
        found.append((b"x-embedgate-model", completion.model.encode()))
    if isinstance(completion, ChatStream):
        # A buffering proxy would defeat the stream; nginx reads this header.
        return Answer(200, [*found, (b"x-accel-buffering", b"no")], completion.ready(), stream=completion.pieces)
    found += [
        (b"x-embedgate-cost-usd", usd_text(completion.cost_picodollars).encode()),
        (b"x-embedgate-cached-tokens", b"%d" % completion.cached_tokens),
    ]
    if completion.usage.is_estimated:
        found.append((b"x-embedgate-usage", b"estimated"))
    return Answer(200, found, completion.body)


def untyped(headers: Headers) -> Headers:
    """Headers of a JSON answer without their content type: for an answer of another type, or without a body."""
    return [header for header in headers if header != JSON]


def common_headers(request_id: str, rate: Rate | None = None) -> Headers:
    """Common headers of the answers of most dialects, errors included. rate: of the caller; None without limits."""
    common: Headers = [JSON, (b"x-request-id", request_id.encode())]
    return common if rate is None else [*common, *_rate_headers(rate)]


def _rate_headers(rate: Rate) -> Headers:
    """Limits of the caller. What has no limit has no header: clients that parse them expect numbers."""
    requests = (rate.limit_requests, rate.remaining_requests, rate.reset_requests_s)
    tokens = (rate.limit_tokens, rate.remaining_tokens, rate.reset_tokens_s)
    found: Headers = []
    for kind, (limit, remaining, reset_s) in ((b"requests", requests), (b"tokens", tokens)):
        if limit is None:
            continue
        found += [
            (b"x-ratelimit-limit-" + kind, b"%d" % limit),
            (b"x-ratelimit-remaining-" + kind, b"%d" % (remaining or 0)),
            (b"x-ratelimit-reset-" + kind, b"%gs" % round(reset_s, 3)),
        ]
    return found


def error_message(error: GatewayError, request_id: str, spellings: Mapping[str, str] = _NO_SPELLINGS) -> str:
    """What a caller reads of an error. Of our own faults, only where the details are.

    spellings: what a dialect calls the fields that the engine names as the OpenAI dialect does, so that its advice can
    be followed there.
    """
    if isinstance(error, InternalError):
        return f"The gateway failed. Its log has the details under request id {request_id}."
    message = error.message
    for ours, theirs in spellings.items():
        message = message.replace(ours, theirs)
    return message


def error_answer(error: GatewayError, request_id: str, body: object) -> Answer:
    """The answer to a failed request, for dialects with the common headers. body: as the dialect has it, for JSON."""
    return Answer(error.status, [*common_headers(request_id, error.rate), *error_headers(error)], orjson.dumps(body))


def error_headers(error: GatewayError) -> Headers:
    """Headers of an error: `retry-after`, `allow`, and whether SDKs should retry."""
    found: Headers = []
    if error.retry_after_s is not None and isinstance(error, (AccessError, UpstreamError)):
        found.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, MethodNotAllowed):
        found.append((b"allow", ", ".join(error.allowed).encode()))
    if isinstance(error, (InternalError, UpstreamError, AnswerNotKept)) and not error.may_retry:
        found.append((b"x-should-retry", b"false"))
    return found
