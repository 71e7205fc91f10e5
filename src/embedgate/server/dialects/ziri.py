"""The ZIRI API on the wire: `POST /api/embeddings` and `/api/chat/completions`, X-API-Key, flat errors, `_meta`.

Owns the translation of its JSON and its error table.
"""

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec
import orjson
from msgspec.structs import replace

from embedgate.core.access import Rate
from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import (
    AnswerNotKept,
    BodyTooLarge,
    BodyTooSlow,
    BudgetExhausted,
    Conflict,
    GatewayError,
    IdempotencyKeyReused,
    InvalidCredentials,
    InvalidPolicy,
    MalformedKey,
    MethodNotAllowed,
    MissingFields,
    MissingKey,
    ModelNotAtProvider,
    NotAnEmbeddingModel,
    NotFound,
    NotPermitted,
    Overloaded,
    ProviderKeyMissing,
    RateLimited,
    RequestError,
    RequestInProgress,
    RevokedKey,
    SpaceChange,
    UnknownEntity,
    UnknownKey,
    UnknownModel,
    UnknownProvider,
    UnsupportedEncoding,
    UpstreamError,
    UpstreamMisconfigured,
    UpstreamRejected,
    WrongAction,
)
from embedgate.core.money import usd_text
from embedgate.core.types import ChatRequest, EmbedRequest, EmbedResult
from embedgate.server.answer import JSON, Answer, Headers, chat_answer, error_headers, error_message, vector_answer
from embedgate.server.chat_body import chat_request, open_chat
from embedgate.server.dialect import SplitName
from embedgate.server.fields import CACHE_USES, ENCODING_FORMATS, INPUT_TYPES, TRUNCATES, Fields, plain, quantisation_of

NAME: Literal["ziri"] = "ziri"
WINDOW_S = 60
_EMERGENCY = "isEmergency"
_MISSING_KEY = "API key required. Include X-API-Key header."
_MISSING_FIELDS = "provider, model, and input are required"
_MISSING_CHAT_FIELDS = "provider, model, and messages are required"

TABLE: tuple[tuple[type[GatewayError], int, str], ...] = (
    (MissingKey, 400, "API_KEY_REQUIRED"),
    (MalformedKey, 401, "INVALID_API_KEY_FORMAT"),
    (UnknownKey, 403, "API_KEY_INVALID"),
    (RevokedKey, 403, "API_KEY_REVOKED_OR_DISABLED"),
    (InvalidCredentials, 401, "INVALID_CREDENTIALS"),
    (NotPermitted, 403, "AUTHORIZATION_DENIED"),
    (BudgetExhausted, 403, "AUTHORIZATION_DENIED"),
    (RateLimited, 429, "RATE_LIMIT_EXCEEDED"),
    (Overloaded, 503, "QUEUE_FULL"),
    (MissingFields, 400, "MISSING_FIELDS"),
    (NotAnEmbeddingModel, 400, "ACTION_NOT_SUPPORTED"),
    (WrongAction, 400, "ACTION_NOT_SUPPORTED"),
    (UnknownModel, 400, "MODEL_NOT_SUPPORTED"),
    (ModelNotAtProvider, 400, "MODEL_NOT_SUPPORTED"),
    (UnknownProvider, 404, "PROVIDER_NOT_FOUND"),
    (ProviderKeyMissing, 500, "PROVIDER_KEY_MISSING"),
    (NotFound, 404, "NOT_FOUND"),
    (UnknownEntity, 404, "NOT_FOUND"),
    (SpaceChange, 409, "SPACE_CHANGE"),
    (Conflict, 409, "CONFLICT"),
    (AnswerNotKept, 409, "CONFLICT"),
    (RequestInProgress, 409, "CONFLICT"),
    (IdempotencyKeyReused, 422, "INVALID_REQUEST"),
    (MethodNotAllowed, 405, "METHOD_NOT_ALLOWED"),
    (BodyTooSlow, 408, "INVALID_REQUEST"),
    (BodyTooLarge, 413, "INVALID_REQUEST"),
    (UnsupportedEncoding, 415, "INVALID_REQUEST"),
    (InvalidPolicy, 400, "INVALID_POLICY"),
    (RequestError, 400, "INVALID_REQUEST"),
    (UpstreamMisconfigured, 502, "LLM_PROVIDER_ERROR"),
    (UpstreamRejected, 400, "INVALID_REQUEST"),
    (UpstreamError, 502, "LLM_PROVIDER_ERROR"),
    (GatewayError, 500, "INTERNAL_ERROR"),
)
"""Error class, status, code. The first match counts, so general classes come last."""


BEGINNINGS: Mapping[str, str] = {
    "INVALID_API_KEY_FORMAT": "Invalid API key format",
    "AUTHORIZATION_DENIED": "Authorization denied",
    "RATE_LIMIT_EXCEEDED": "Rate limit exceeded",
}
"""First words of messages, by code. Clients of this API test for them."""


def secret(headers: Mapping[bytes, bytes]) -> str | None:
    """The credential in X-API-Key; None without one."""
    return headers.get(b"x-api-key", b"").decode("latin-1") or None


def read(body: bytes, _split_name: SplitName) -> tuple[EmbedRequest, str]:
    """The request in a body, and the requested encoding format.

    The provider is a separate field here, so model names are not split.
    Raises a RequestError naming the field at fault.
    """
    if (common := plain(body)) is not None and common.model and common.provider:
        return common.request(common.model, common.provider.lower())
    return _read_each(body)


def _read_each(body: bytes) -> tuple[EmbedRequest, str]:
    """Read a body that is not plain, field by field."""
    fields = Fields(body)
    fields.required(("provider", "model", "input"), _MISSING_FIELDS)
    provider, model = fields.text("provider"), fields.text("model")
    if not provider or not model:
        raise MissingFields(_MISSING_FIELDS)
    encoding_format = fields.choice("encoding_format", ENCODING_FORMATS) or "float"
    is_emergency = fields.flag(_EMERGENCY) or False
    request = EmbedRequest(
        model=model,
        inputs=fields.inputs(),
        dim=fields.whole("dimensions"),
        input_type=fields.choice("input_type", INPUT_TYPES),
        truncate=fields.choice("truncate", TRUNCATES) or "none",
        user=fields.user(),
        provider=provider.lower(),
        cache=fields.choice("cache", CACHE_USES) or "store",
        options=fields.rest(),
        quantisation=quantisation_of(encoding_format),
        is_emergency=is_emergency,
    )
    return request, encoding_format


def write(result: EmbedResult, encoding_format: str, request_id: str) -> Answer:
    """The answer to a served request: the OpenAI body with the bare model name, and `_meta`."""
    tokens = result.usage.tokens
    meta = _meta(request_id, result, result.usage.reused_tokens)
    tail = b'],"model":%s,"usage":{"prompt_tokens":%d,"total_tokens":%d},"_meta":%s}' % (
        orjson.dumps(result.model.partition("/")[2]),
        tokens,
        tokens,
        meta,
    )
    return vector_answer(result, encoding_format, headers(request_id, result.rate), tail)


def read_chat(body: bytes, _split_name: SplitName) -> ChatRequest:
    """The chat completion in a body. Raises a RequestError naming the field at fault."""
    fields = open_chat(body)
    fields.required(("provider", "model", "messages"), _MISSING_CHAT_FIELDS)
    provider, model = fields.text("provider"), fields.text("model")
    if not provider or not model:
        raise MissingFields(_MISSING_CHAT_FIELDS)
    if fields.peek("messages", list[msgspec.Raw], "a list of objects, each with a role and a content") == []:
        raise MissingFields(_MISSING_CHAT_FIELDS, param="messages")
    is_emergency = fields.flag(_EMERGENCY) or False
    return chat_request(fields, model, provider.lower(), is_emergency=is_emergency)


def write_chat(completion: ChatResult | ChatStream, request_id: str) -> Answer:
    """The answer to a chat completion: what the provider sent, and `_meta` at the end of an object that is whole."""
    answer = chat_answer(completion, headers(request_id, completion.rate))
    if isinstance(completion, ChatStream):
        return answer
    body = completion.body.rstrip()
    if not body.startswith(b"{") or not body.endswith(b"}"):
        return answer
    inside = body[:-1].rstrip()
    comma = b"" if inside.endswith(b"{") else b","
    meta = _meta(request_id, completion, completion.cached_tokens)
    return replace(answer, body=b'%s%s"_meta":%s}' % (inside, comma, meta))


def _meta(request_id: str, result: EmbedResult | ChatResult, cached_tokens: int) -> bytes:
    """Cost and timing of the request as JSON. cached_tokens: input tokens billed at a lower price."""
    cost = usd_text(result.cost_picodollars).encode()
    return (
        b'{"requestId":%s,"cost":{"actual":%s,"inputTokens":%d,"outputTokens":%d,"cachedTokens":%d,"totalCost":%s},'
        b'"timing":{"totalMs":%.3f,"authMs":%.3f,"llmMs":%.3f}}'
    ) % (
        orjson.dumps(request_id),
        cost,
        result.usage.tokens,
        result.usage.output_tokens,
        cached_tokens,
        cost,
        result.timing.total_ms,
        result.timing.authenticate_ms,
        result.timing.upstream_ms,
    )


def headers(request_id: str, rate: Rate | None = None) -> Headers:
    """Common headers of every answer, errors included: requests per minute, "Infinity" without a limit."""
    limit, remaining, reset_s = b"Infinity", b"Infinity", float(WINDOW_S)
    if rate is not None and rate.limit_requests is not None:
        limit, remaining = b"%d" % rate.limit_requests, b"%d" % (rate.remaining_requests or 0)
        reset_s = rate.reset_requests_s
    return [
        JSON,
        (b"x-request-id", request_id.encode()),
        (b"x-ratelimit-limit", limit),
        (b"x-ratelimit-remaining", remaining),
        (b"x-ratelimit-reset", b"%d" % (_unix_s() + math.ceil(reset_s))),
    ]


def write_error(error: GatewayError, request_id: str) -> Answer:
    """The error table of this API."""
    status, code = next((status, code) for kind, status, code in TABLE if isinstance(error, kind))
    message = error_message(error, request_id)
    if isinstance(error, MissingKey):
        message = _MISSING_KEY
    if beginning := BEGINNINGS.get(code):
        message = f"{beginning}. {message}"
    body: dict[str, object] = {"error": message, "code": code, "requestId": request_id}
    if isinstance(error, (NotPermitted, BudgetExhausted)):
        body["reason"] = error.message
    if isinstance(error, RateLimited) and error.retry_after_s is not None:
        body["retryAfter"] = max(1, math.ceil(error.retry_after_s))
        body["resetAt"] = _iso_text(_unix_s() + max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, InvalidPolicy):
        body["mistakes"] = error.mistakes
    return Answer(status, [*headers(request_id, error.rate), *error_headers(error)], orjson.dumps(body))


def _iso_text(unix_s: int) -> str:
    """A moment as this API's clients parse it: `2026-01-01T00:00:30.000Z`."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S}.000Z"


def _unix_s() -> int:
    return time.time_ns() // 1_000_000_000
