"""Ollama's API on the wire: `POST /api/embed`, `GET /api/tags`, errors as one text.

Owns the translation of its JSON and its error table. The older `/api/embeddings` is a path of the ZIRI API here.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
import orjson
from msgspec import Meta, Struct

from embedgate.core.errors import GatewayError, MalformedRequest
from embedgate.core.types import EmbedRequest, EmbedResult
from embedgate.server.answer import Answer, common_headers, error_answer, error_message, rows_answer
from embedgate.server.credential import bearer_or_key
from embedgate.server.dialect import SplitName
from embedgate.server.fields import Fields

NAME: Literal["ollama"] = "ollama"
_LATEST = ":latest"
"""The tag that Ollama's clients add to a name without one."""
_NS_PER_MS = 1_000_000
_MODIFIED_AT = datetime(2026, 1, 1, tzinfo=UTC)
"""`modified_at` of every model: the API requires a time and none is known."""
SPELLINGS: Mapping[str, str] = {'"truncate": "end"': '"truncate": true', "GET /v1/models": "GET /api/tags"}
"""What this API calls the fields and paths of advice."""

secret = bearer_or_key


class ModelDetails(Struct, frozen=True):
    """What is known of the weights: nothing, since they are at providers."""

    family: str
    parameter_size: str
    quantization_level: str


class TaggedModel(Struct, frozen=True):
    """A model that can be used now."""

    name: Annotated[str, Meta(description="What to send as `model`.")]
    model: Annotated[str, Meta(description="The same.")]
    modified_at: Annotated[datetime, Meta(description="A fixed time, since the real one is not known.")]
    size: Annotated[int, Meta(ge=0, description="0, since the size is not known.")]
    digest: Annotated[str, Meta(description="Empty, since the digest is not known.")]
    details: ModelDetails


class TaggedModels(Struct, frozen=True):
    """The embedding models that can be used now."""

    models: tuple[TaggedModel, ...]


def read(body: bytes, split_name: SplitName) -> tuple[EmbedRequest, str]:
    """The request in a body, and the encoding format, which is always that of floats.

    How a server of Ollama's keeps and runs its models, `keep_alive` and `options`, has no meaning here.
    Raises a RequestError naming the field at fault.
    """
    fields = Fields(body)
    fields.required(("model",), "model is required: the id of an embedding model, see GET /api/tags.")
    fields.required(("input",), "input is required: a text or a list of texts.")
    model, provider = split_name((fields.text("model") or "").removesuffix(_LATEST))
    fields.take("keep_alive", str | int | float, "a text or a number")  # type: ignore[arg-type]  # a union is a type to msgspec
    fields.take("options", dict, "an object")
    request = EmbedRequest(
        model=model,
        inputs=fields.inputs(),
        dim=fields.whole("dimensions"),
        truncate="end" if fields.flag("truncate") else "none",
        provider=provider,
        options=fields.rest(),
    )
    if any(not isinstance(item, str) for item in request.inputs):
        raise MalformedRequest("input must be a text or a list of texts.", param="input")
    return request, "float"


def write(result: EmbedResult, _encoding_format: str, request_id: str) -> Answer:
    """The answer to a served request."""
    tail = b'],"total_duration":%d,"load_duration":0,"prompt_eval_count":%d}' % (
        round(result.timing.total_ms * _NS_PER_MS),
        result.usage.tokens,
    )
    lists = [(b'{"model":%s,"embeddings":[' % orjson.dumps(result.model), "float")]
    return rows_answer(result, common_headers(request_id, result.rate), lists, tail)


def write_models(names: Iterable[str], request_id: str) -> Answer:
    """The answer to `GET /api/tags`. names: ids and aliases."""
    details = ModelDetails("", "", "")
    listed = TaggedModels(tuple(TaggedModel(name, name, _MODIFIED_AT, 0, "", details) for name in names))
    return Answer(200, common_headers(request_id), msgspec.json.encode(listed))


def write_error(error: GatewayError, request_id: str) -> Answer:
    """The error table of this API."""
    body = {"error": error_message(error, request_id, SPELLINGS), "code": error.code}
    return error_answer(error, request_id, body)
