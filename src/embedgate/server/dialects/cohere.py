"""Cohere's API on the wire: `POST /v2/embed`, `/v1/embed` and `/v2/rerank`, vectors by type, errors with a message.

Owns the translation of its JSON and its error table. `/v1/rerank` belongs to the OpenAI dialect.
"""

from collections.abc import Mapping
from typing import Literal

import orjson

from embedgate.core.errors import GatewayError, MissingFields
from embedgate.core.models import Truncate
from embedgate.core.quantise import PACKED
from embedgate.core.rerank import RerankResult
from embedgate.core.types import EmbedRequest, EmbedResult, InputType
from embedgate.server.answer import Answer, common_headers, error_answer, error_message, rows_answer
from embedgate.server.credential import bearer_or_key
from embedgate.server.dialect import SplitName
from embedgate.server.fields import ENCODING_FORMATS, EncodingFormat, Fields, quantisation_of
from embedgate.server.rerank_body import rerank_answer, rerank_of

NAME: Literal["cohere"] = "cohere"
INPUT_TYPES: Mapping[str, InputType] = {"search_query": "query", "search_document": "document"}
TRUNCATES: Mapping[str, Truncate] = {"NONE": "none", "START": "start", "END": "end"}
SPELLINGS: Mapping[str, str] = {
    '"truncate": "end"': '"truncate": "END"',
    "dimensions is ": "output_dimension is ",
    "; dimensions ": "; output_dimension ",
    "encoding_format ": "embedding_types ",
    "Leave dimensions out": "Leave output_dimension out",
}
"""What this API calls the fields of advice."""
_FLOATS = "floats"
"""The form of an answer of version 1 to a request that names no types: one list."""


class Embed:
    """The API in one of its versions."""

    NAME: Literal["cohere"] = NAME

    def __init__(self, version: Literal[1, 2]) -> None:
        self._version = version

    secret = staticmethod(bearer_or_key)

    def read(self, body: bytes, split_name: SplitName) -> tuple[EmbedRequest, str]:
        """The request in a body, and the requested types of embeddings, joined by commas.

        Raises a RequestError naming the field at fault.
        """
        fields = Fields(body)
        fields.required(("model",), "model is required: the id of an embedding model, see GET /v1/models.")
        fields.required(("texts",), "texts is required: a list of texts. Only texts are embedded here.")
        model, provider = split_name(fields.text("model") or "")
        kinds = self._kinds(fields)
        purpose, cut = fields.choice("input_type", tuple(INPUT_TYPES)), fields.choice("truncate", tuple(TRUNCATES))
        request = EmbedRequest(
            model=model,
            inputs=fields.inputs("texts"),
            dim=fields.whole("output_dimension"),
            input_type=INPUT_TYPES[purpose] if purpose else None,
            truncate=TRUNCATES[cut] if cut else "none",
            provider=provider,
            options=fields.rest(),
            quantisation=quantisation_of(_strictest(kinds)) if kinds else None,
        )
        return request, ",".join(kinds) or _FLOATS

    def _kinds(self, fields: Fields) -> tuple[EncodingFormat, ...]:
        """The requested types, each once; empty for the plain list of version 1."""
        named = fields.choices("embedding_types", ENCODING_FORMATS)
        if named is None:
            return () if self._version == 1 else ("float",)
        if not named:
            raise MissingFields("embedding_types is empty; leave it out for float.", param="embedding_types")
        return named

    def write(self, result: EmbedResult, encoding_format: str, request_id: str) -> Answer:
        """The answer to a served request."""
        is_plain = encoding_format == _FLOATS
        kinds = ["float"] if is_plain else encoding_format.split(",")
        names = [b"" if is_plain else b'"%s":' % kind.encode() for kind in kinds]
        before = [b'{"embeddings":' if is_plain else b'{"embeddings":{', *[b"],"] * (len(kinds) - 1)]
        lists = [(b"%s%s[" % (lead, name), kind) for lead, name, kind in zip(before, names, kinds, strict=True)]
        rest: dict[str, object] = {
            "id": request_id,
            "response_type": "embeddings_floats" if is_plain else "embeddings_by_type",
            "meta": {
                "api_version": {"version": str(self._version)},
                "billed_units": {"input_tokens": result.usage.tokens},
            },
        }
        tail = b"%s,%s" % (b"]" if is_plain else b"]}", orjson.dumps(rest)[1:])
        return rows_answer(result, common_headers(request_id, result.rate), lists, tail)

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error table of this API."""
        return write_error(error, request_id)


class Rerank:
    """The rerank API. The body is that of the OpenAI dialect, which has it from this API."""

    NAME: Literal["cohere"] = NAME

    secret = staticmethod(bearer_or_key)
    read_rerank = staticmethod(rerank_of)

    def write_rerank(self, result: RerankResult, request_id: str) -> Answer:
        """The answer to a served request."""
        return rerank_answer(result, request_id, common_headers(request_id, result.rate))

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The error table of this API."""
        return write_error(error, request_id)


def _strictest(kinds: tuple[EncodingFormat, ...]) -> EncodingFormat:
    """The type that asks most of the vectors: packed bits, then whole numbers, then floats."""
    return max(kinds, key=lambda kind: (kind in PACKED, quantisation_of(kind) is not None))


def write_error(error: GatewayError, request_id: str) -> Answer:
    """The error table of this API: statuses that make Cohere's SDKs raise the right class."""
    body = {"id": request_id, "message": error_message(error, request_id, SPELLINGS), "code": error.code}
    return error_answer(error, request_id, body)
