"""The API of Text Embeddings Inference on the wire: `POST /tei/{id}/embed`, `/embed`, `/tei/{id}/rerank`: bare lists.

`GET /tei/{id}/info` says what the model is.

Such a server has one model, so that no request names any: the base URL of its client does. `/embed` takes the field
`model` as well. Owns the translation of its JSON and its error table.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from embedgate.core.errors import (
    AccessError,
    GatewayError,
    MissingFields,
    Overloaded,
    RateLimited,
    RequestError,
    UnknownModel,
    UnsupportedOption,
)
from embedgate.core.models import Model, Truncate
from embedgate.core.rerank import RerankRequest, RerankResult
from embedgate.core.types import EmbedRequest, EmbedResult, InputType
from embedgate.core.version import VERSION
from embedgate.server.answer import Answer, common_headers, cost_headers, error_answer, error_message, rows_answer
from embedgate.server.credential import bearer_or_key
from embedgate.server.dialect import SplitName
from embedgate.server.fields import Fields
from embedgate.settings import LimitSettings

NAME: Literal["tei"] = "tei"
PROMPTS: Mapping[str, InputType] = {"query": "query", "document": "document", "passage": "document"}
"""The usual names of the prompts that sentence-transformers' models have."""
DIRECTIONS: Mapping[str, Truncate] = {"Right": "end", "Left": "start", "right": "end", "left": "start"}
"""As the server writes them, and as clients of Hugging Face do."""
SPELLINGS: Mapping[str, str] = {
    'Send "truncate": "end"': 'Send "truncation_direction": "Right"',
    '"truncate": "end"': '"truncate": true',
    "documents has ": "texts has ",
    "documents[": "texts[",
}
"""What this API calls the fields of advice."""
_NO_MODEL = (
    "No model is named. A server of this API has one, and this gateway has many: give the client the address of this "
    "gateway, /tei/ and the model, such as /tei/local/all-minilm-l6-v2, or send model."
)


class RankedText(Struct, frozen=True, omit_defaults=True):
    """One text with its score."""

    index: Annotated[int, Meta(ge=0, description="Its position in the request.")]
    score: Annotated[float, Meta(description="From 0 to 1, unless `raw_scores` is true.")]
    text: Annotated[str | None, Meta(description="With `return_text`: the text.")] = None


class ServerInfo(Struct, frozen=True):
    """What the model is, and how much it takes."""

    model_id: Annotated[str, Meta(description="Id of the model here.")]
    model_sha: Annotated[str | None, Meta(description="Not known.")]
    model_dtype: Annotated[str, Meta(description="Precision of the weights, where it is known.")]
    model_type: Annotated[
        dict[Literal["embedding", "reranker"], dict[str, str]],
        Meta(description="One field with no more facts: `embedding` or `reranker`."),
    ]
    max_input_length: Annotated[int, Meta(description="Tokens per text.")]
    max_batch_tokens: Annotated[int, Meta(description="Tokens of all texts of a request.")]
    max_client_batch_size: Annotated[int, Meta(description="Texts in a request.")]
    auto_truncate: Annotated[bool, Meta(description="A text that is too long is refused.")]
    version: Annotated[str, Meta(description="Of this gateway.")]


class Server:
    """The API of one model. model: the one in the path; None for the one in the body."""

    NAME: Literal["tei"] = NAME

    def __init__(self, model: str | None = None) -> None:
        self._model = model

    secret = staticmethod(bearer_or_key)

    def read(self, body: bytes, split_name: SplitName) -> tuple[EmbedRequest, str]:
        """The request in a body, and the encoding format, which is always that of floats.

        Raises a RequestError naming the field at fault.
        """
        fields = Fields(body)
        wanted = self._wanted(fields)
        fields.required(("inputs",), "inputs is required: a text or a list of texts.")
        model, provider = split_name(wanted)
        if fields.flag("normalize") is False:
            raise UnsupportedOption("Vectors come at unit length here; leave normalize out.", param="normalize")
        prompt, direction = (
            fields.choice("prompt_name", tuple(PROMPTS)),
            fields.choice("truncation_direction", tuple(DIRECTIONS)),
        )
        is_cut = fields.flag("truncate")
        request = EmbedRequest(
            model=model,
            inputs=fields.inputs("inputs"),
            dim=fields.whole("dimensions"),
            input_type=PROMPTS[prompt] if prompt else None,
            truncate=DIRECTIONS[direction or "Right"] if is_cut else "none",
            provider=provider,
            options=fields.rest(),
        )
        return request, "float"

    def _wanted(self, fields: Fields) -> str:
        """The name of the model: that of the path counts. Raises MissingFields."""
        named = fields.text("model")
        wanted = self._model or named
        if not wanted:
            raise MissingFields(_NO_MODEL, param="model")
        return wanted

    def write(self, result: EmbedResult, _encoding_format: str, request_id: str) -> Answer:
        """The answer to a served request."""
        return rows_answer(result, common_headers(request_id, result.rate), [(b"[", "float")], b"]")

    def read_rerank(self, body: bytes, split_name: SplitName) -> RerankRequest:
        """The rerank request in a body. Scores are made to be from 0 to 1 unless `raw_scores` is true.

        Raises a RequestError naming the field at fault.
        """
        fields = Fields(body)
        wanted = self._wanted(fields)
        fields.required(("query", "texts"), "query and texts are required: a text, and a list of texts.")
        model, provider = split_name(wanted)
        if fields.flag("truncate") is False:
            reason = "Whether a long text is cut is up to the provider here; leave truncate out."
            raise UnsupportedOption(reason, param="truncate")
        fields.choice("truncation_direction", ("Right", "right"))
        request = RerankRequest(
            model=model,
            query=fields.text("query") or "",
            documents=fields.take("texts", tuple[str, ...], "a list of texts") or (),
            returns_documents=fields.flag("return_text") or False,
            provider=provider,
            normalizes=not fields.flag("raw_scores"),
        )
        if unknown := fields.rest():
            names = ", ".join(sorted(unknown)[:5])
            raise UnsupportedOption(f"Ranking does not take: {names[:200]}. Leave it out.", param=min(unknown)[:100])
        return request

    def write_rerank(self, result: RerankResult, request_id: str) -> Answer:
        """The answer to a served rerank request: the best text first."""
        texts = result.documents
        ranked = [RankedText(index, score, texts[index] if texts else None) for index, score in result.scores]
        headers = [*common_headers(request_id, result.rate), *cost_headers(result)]
        return Answer(200, headers, msgspec.json.encode(ranked))

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error table of this API."""
        return write_error(error, request_id)


def write_info(model: Model, precision: str, limits: LimitSettings, request_id: str) -> Answer:
    """The answer to `GET /tei/{id}/info`. Raises UnknownModel for a model that neither embeds nor ranks."""
    if model.action == "chat":
        raise UnknownModel(f"{model.id} makes no vectors and ranks no texts. See GET /v1/models.", param="model")
    is_ranker = model.action == "rerank"
    info = ServerInfo(
        model_id=model.id,
        model_sha=None,
        model_dtype=precision,
        model_type={"reranker" if is_ranker else "embedding": {}},
        max_input_length=model.max_input_tokens,
        max_batch_tokens=limits.max_tokens,
        max_client_batch_size=limits.max_documents if is_ranker else limits.max_inputs,
        auto_truncate=False,
        version=VERSION,
    )
    return Answer(200, common_headers(request_id), msgspec.json.encode(info))


def write_error(error: GatewayError, request_id: str) -> Answer:
    """The error table of this API. `code` is ours."""
    body = {"error": error_message(error, request_id, SPELLINGS), "error_type": _type(error), "code": error.code}
    return error_answer(error, request_id, body)


def _type(error: GatewayError) -> str:
    if isinstance(error, (RateLimited, Overloaded)):
        return "Overloaded"
    if isinstance(error, AccessError):
        return "Unauthorized"
    return "Validation" if isinstance(error, RequestError) else "Backend"
