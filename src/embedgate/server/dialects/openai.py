"""The OpenAI API on the wire: `POST /v1/embeddings`, `POST /v1/chat/completions`, and the same under `/api/v1`.

`POST /v1/engines/{id}/embeddings` is the same for the model in the path. `POST /v1/rerank`, which OpenAI does not have,
takes the bodies of Cohere and Jina. Azure's form of the API, with the model in the path, is here, too.
Owns the translation of its JSON and its error tables.
"""

import functools
from collections.abc import Mapping
from typing import Literal

import orjson

from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import GatewayError, RateLimited, UnknownModel
from embedgate.core.rerank import RerankResult
from embedgate.core.types import ChatRequest, Dialect, EmbedRequest, EmbedResult
from embedgate.server.answer import Answer, chat_answer, common_headers, error_answer, error_message, vector_answer
from embedgate.server.chat_body import chat_request, open_chat
from embedgate.server.credential import bearer_or_key
from embedgate.server.dialect import SplitName
from embedgate.server.fields import CACHE_USES, ENCODING_FORMATS, INPUT_TYPES, TRUNCATES, Fields, plain, quantisation_of
from embedgate.server.rerank_body import rerank_answer, rerank_of
from embedgate.server.steering import asked_model

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


secret = bearer_or_key
headers = common_headers
read_rerank = rerank_of


class Engine:
    """The API of one model, as in its first version: `POST /v1/engines/{id}/embeddings`."""

    NAME: Dialect = NAME

    def __init__(self, model: str) -> None:
        """model: the one in the path, whatever the body says."""
        self.model = model

    secret = staticmethod(bearer_or_key)

    def read(self, body: bytes, split_name: SplitName) -> tuple[EmbedRequest, str]:
        """The request in a body, and the requested encoding format. Raises a RequestError naming the field at fault."""
        return _read_each(body, split_name, self.model)

    def write(self, result: EmbedResult, encoding_format: str, request_id: str) -> Answer:
        """The answer to a served request."""
        return write(result, encoding_format, request_id)

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error table of this API."""
        return write_error(error, request_id)


class Deployment(Engine):
    """Azure's API of one deployment, the model of the path. Bodies and answers are OpenAI's."""

    NAME: Dialect = "azure"

    def read_chat(self, body: bytes, split_name: SplitName) -> ChatRequest:
        """The chat completion in a body. Raises a RequestError naming the field at fault."""
        return read_chat(body, split_name, self.model)

    def write_chat(self, completion: ChatResult | ChatStream, request_id: str) -> Answer:
        """The answer to a chat completion: what the provider sent."""
        return write_chat(completion, request_id)

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error table of this API."""
        return write_azure_error(error, request_id)


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
    model, provider, routing, fallback_model = asked_model(fields, split_name, path_model)
    encoding_format = fields.choice("encoding_format", ENCODING_FORMATS) or "float"
    request = EmbedRequest(
        model=model,
        inputs=fields.inputs(),
        dim=fields.whole("dimensions"),
        input_type=fields.choice("input_type", INPUT_TYPES),
        truncate=fields.choice("truncate", TRUNCATES) or "none",
        user=fields.user(),
        provider=provider,
        routing=routing,
        fallback_model=fallback_model,
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
    return chat_request(fields, *asked_model(fields, split_name, path_model))


def write(result: EmbedResult, encoding_format: str, request_id: str) -> Answer:
    """The answer to a served request."""
    tail = b'],"model":%s,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        _quoted(result.model),
        result.usage.tokens,
        result.usage.tokens,
    )
    return vector_answer(result, encoding_format, headers(request_id, result.rate), tail)


@functools.lru_cache(maxsize=1024)
def _quoted(model: str) -> bytes:
    """The id of a model as JSON."""
    return orjson.dumps(model)


def write_chat(completion: ChatResult | ChatStream, request_id: str) -> Answer:
    """The answer to a chat completion: what the provider sent."""
    return chat_answer(completion, headers(request_id, completion.rate))


def write_rerank(result: RerankResult, request_id: str) -> Answer:
    """The answer to a served rerank request."""
    return rerank_answer(result, request_id, headers(request_id, result.rate))


def write_error(error: GatewayError, request_id: str) -> Answer:
    """The error table of this API: statuses that make the SDKs raise the right class."""
    return _error_answer(error, request_id, error.code)


def write_azure_error(error: GatewayError, request_id: str) -> Answer:
    """The error table of Azure: OpenAI's, but for the codes that Azure's own gate has."""
    code = error.code
    if isinstance(error, UnknownModel):
        code = "DeploymentNotFound"
    elif isinstance(error, RateLimited) or error.status == 401:
        code = str(error.status)
    return _error_answer(error, request_id, code)


def _error_answer(error: GatewayError, request_id: str, code: str) -> Answer:
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    fault = {"message": error_message(error, request_id), "type": kind, "param": error.param, "code": code}
    return error_answer(error, request_id, {"error": fault})
