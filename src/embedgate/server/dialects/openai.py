"""The OpenAI API on the wire: `POST /v1/embeddings`, `POST /v1/chat/completions`, and the same under `/api/v1`.

`POST /v1/engines/{id}/embeddings` is the same for the model in the path. `POST /v1/rerank`, which OpenAI does not have,
takes the bodies of Cohere and Jina.
Owns the translation of its JSON and its error table.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
import orjson

from embedgate.core.access import Rate
from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import GatewayError, MissingFields
from embedgate.core.rerank import RerankRequest, RerankResult
from embedgate.core.types import ChatRequest, Dialect, EmbedRequest, EmbedResult, Routing
from embedgate.server.answer import JSON, Answer, Headers, chat_answer, error_headers, error_message, vector_answer
from embedgate.server.chat_body import chat_request, open_chat
from embedgate.server.dialects.dialect import SplitName
from embedgate.server.fields import CACHE_USES, ENCODING_FORMATS, INPUT_TYPES, TRUNCATES, Fields, plain, quantisation_of
from embedgate.server.rerank_body import rerank_answer, rerank_request

NAME: Literal["openai"] = "openai"

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    502: "upstream_error",
    503: "overloaded_error",
    504: "upstream_error",
}


def secret(headers: Mapping[bytes, bytes]) -> str | None:
    """The credential: `Authorization: Bearer`, else `x-api-key`, else Azure's `api-key`, else None."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    raw = token.strip() if scheme.lower() == b"bearer" else b""
    raw = raw or headers.get(b"x-api-key") or headers.get(b"api-key", b"")
    return raw.decode("latin-1") or None


class Engine:
    """The API of one model, as in its first version: `POST /v1/engines/{id}/embeddings`."""

    NAME: Dialect = NAME

    def __init__(self, model: str) -> None:
        """model: the one in the path, whatever the body says."""
        self.model = model

    def secret(self, headers: Mapping[bytes, bytes]) -> str | None:
        """The credential that came with a request."""
        return secret(headers)

    def read(self, body: bytes, split_name: SplitName) -> tuple[EmbedRequest, str]:
        """The request in a body, and the requested encoding format. Raises a RequestError naming the field at fault."""
        return _read_each(body, split_name, self.model)

    def write(self, result: EmbedResult, encoding_format: str, request_id: str) -> Answer:
        """The answer to a served request."""
        return write(result, encoding_format, request_id)

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error table of this API."""
        return write_error(error, request_id)


def read(body: bytes, split_name: SplitName) -> tuple[EmbedRequest, str]:
    """The request in a body, and the requested encoding format.

    split_name: takes `author/name:provider` apart. Raises a RequestError naming the field at fault.
    """
    if (common := plain(body)) is not None and common.provider is None:
        return common.request(*split_name(common.model))
    return _read_each(body, split_name)


def _read_each(body: bytes, split_name: SplitName, path_model: str | None = None) -> tuple[EmbedRequest, str]:
    """Read a body that is not plain, field by field. path_model: the one in the path, which counts."""
    fields = Fields(body)
    if path_model is None:
        fields.required(("model",), "model is required: the id of an embedding model, see GET /v1/models.")
    fields.required(("input",), "input is required: a text or a list of texts.")
    named = fields.text("model")
    model, provider = split_name(path_model or named or "")
    steering = _steering(fields)
    encoding_format = fields.choice("encoding_format", ENCODING_FORMATS) or "float"
    request = EmbedRequest(
        model=model,
        inputs=fields.inputs(),
        dim=fields.whole("dimensions"),
        input_type=fields.choice("input_type", INPUT_TYPES),
        truncate=fields.choice("truncate", TRUNCATES) or "none",
        user=fields.user(),
        provider=provider,
        routing=_routing(steering),
        fallback_model=steering.fallback if steering else None,
        cache=fields.choice("cache", CACHE_USES) or "store",
        allow_space_change=fields.flag("allow_space_change") or False,
        options=fields.rest(),
        quantisation=quantisation_of(encoding_format),
    )
    return request, encoding_format


def read_chat(body: bytes, split_name: SplitName, path_model: str | None = None) -> ChatRequest:
    """The chat completion in a body.

    split_name: takes `author/name:provider` apart. path_model: the one in the path, which counts. Raises a RequestError
    naming the field at fault.
    """
    fields = open_chat(body)
    if path_model is None:
        fields.required(("model",), "model is required: the id of a chat model.")
    fields.required(("messages",), "messages is required: a list of messages, each with a role and a content.")
    return chat_request(fields, *_asked(fields, split_name, path_model))


def read_rerank(body: bytes, split_name: SplitName) -> RerankRequest:
    """The rerank request in a body.

    split_name: takes `author/name:provider` apart. Raises a RequestError naming the field at fault.
    """
    fields = Fields(body)
    fields.required(("model",), "model is required: the id of a model that orders documents.")
    return rerank_request(fields, *_asked(fields, split_name))


def _asked(
    fields: Fields, split_name: SplitName, path_model: str | None = None
) -> tuple[str, str | None, Routing | None, str | None]:
    """The requested model and provider, order of routes, and fallback model."""
    named = fields.text("model")
    model, provider = split_name(path_model or named or "")
    steering = _steering(fields)
    return model, provider, _routing(steering), steering.fallback if steering else None


class _RoutingField(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["order", "priority"]
    providers: list[str] = []
    primary_factor: Literal["latency", "price", "throughput", "weight"] | None = None


class _ProviderField(msgspec.Struct, forbid_unknown_fields=True):
    routing: _RoutingField | None = None
    fallback: str | None = None


def _steering(fields: Fields) -> _ProviderField | None:
    return fields.take("provider", _ProviderField, "an object with routing or fallback")


def _routing(steering: _ProviderField | None) -> Routing | None:
    routing = steering.routing if steering else None
    if routing is None:
        return None
    if routing.type == "order":
        if not routing.providers:
            raise MissingFields("provider.routing of type 'order' needs providers.", param="provider.routing.providers")
        return Routing(order=tuple(routing.providers))
    return Routing(by=routing.primary_factor or "price")


def write(result: EmbedResult, encoding_format: str, request_id: str) -> Answer:
    """The answer to a served request."""
    tail = b'],"model":%s,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        orjson.dumps(result.model),
        result.usage.tokens,
        result.usage.tokens,
    )
    return vector_answer(result, encoding_format, headers(request_id, result.rate), tail)


def write_chat(completion: ChatResult | ChatStream, request_id: str) -> Answer:
    """The answer to a chat completion: what the provider sent."""
    return chat_answer(completion, headers(request_id, completion.rate))


def write_rerank(result: RerankResult, request_id: str) -> Answer:
    """The answer to a served rerank request."""
    return rerank_answer(result, request_id, headers(request_id, result.rate))


def headers(request_id: str, rate: Rate | None = None) -> Headers:
    """Common headers of every answer, errors included. rate: of the caller; None without limits."""
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


def write_error(error: GatewayError, request_id: str) -> Answer:
    """The error table of this API: statuses that make the SDKs raise the right class."""
    status = error.status
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    message = error_message(error, request_id)
    body = {"error": {"message": message, "type": kind, "param": error.param, "code": error.code}}
    return Answer(status, [*headers(request_id, error.rate), *error_headers(error)], orjson.dumps(body))
