"""Rerank requests in the OpenAPI document: the operation, the schemas of requests and answers, the example."""

from collections.abc import Callable

from embedgate.core.errors import (
    GatewayError,
    InputTooLong,
    InvalidDimension,
    MethodNotAllowed,
    NotAnEmbeddingModel,
    NotFound,
    TooManyTokens,
)
from embedgate.core.rerank import RerankResult
from embedgate.core.types import Timing, Usage
from embedgate.server.answer import Answer
from embedgate.server.describe.errors import (
    EXAMPLE_RATE,
    REQUEST_ID,
    DialectErrors,
    Json,
    header_names,
    header_references,
)
from embedgate.server.describe.operation import body_of, operation
from embedgate.server.describe.schemas import list_of, object_of, steering, text_of
from embedgate.server.describe.structs import struct_schemas
from embedgate.server.fields import MAX_USER_BYTES
from embedgate.server.rerank_body import Ranking
from embedgate.settings import LimitSettings

RERANK_MODEL = "cohere/rerank-v4.0-fast"
"""The one in the examples."""
EXAMPLE_QUERY = "Where do cats sit?"
EXAMPLE_DOCUMENTS = ["A dog ran through the park.", "A cat sat on the mat."]
_NOT_OF_RANKINGS = (
    NotFound,
    MethodNotAllowed,
    InputTooLong,
    TooManyTokens,
    InvalidDimension,
    NotAnEmbeddingModel,
)


def ranking(
    operation_id: str,
    tag: str,
    write: Callable[[RerankResult, str], Answer],
    errors: DialectErrors,
    *,
    request: str = "RerankRequest",
    answer: str = "Ranking",
    parameters: list[Json] | None = None,
) -> Json:
    """A rerank operation. write: of its dialect. request, answer: names of the schemas."""
    example = write(_ranking_example(), REQUEST_ID)
    return operation(
        operation_id,
        tag,
        "Rerank documents",
        "Answers with the documents that answer the query best, by their position in the request."
        + ("" if tag == "TEI" else " The bodies are those of Cohere's and Jina's APIs."),
        {
            "200": {
                "description": "The order.",
                "headers": header_references(header_names(example)),
                "content": {
                    "application/json": {
                        "schema": {"$ref": f"#/components/schemas/{answer}"},
                        "example": body_of(example),
                    }
                },
            },
            **errors.responses(GatewayError, without=_NOT_OF_RANKINGS),
        },
        request=request,
        parameters=parameters,
    )


def rerank_schemas(limits: LimitSettings) -> Json:
    """Schemas of requests and answers by name."""
    return {"RerankRequest": _rerank_request(limits), **struct_schemas([Ranking])}


def _ranking_example() -> RerankResult:
    """An example rerank result for EXAMPLE_DOCUMENTS, with every possible field and header."""
    return RerankResult(
        model=RERANK_MODEL,
        provider="cohere",
        scores=((1, 0.912), (0, 0.034)),
        usage=Usage(70, is_estimated=True),
        searches=1,
        cost_picodollars=2_000_000_000,
        timing=Timing(total_ms=131.8, authenticate_ms=0.031, upstream_ms=131.2),
        documents=tuple(EXAMPLE_DOCUMENTS),
        rate=EXAMPLE_RATE,
    )


def _rerank_options() -> Json:
    return {
        "top_n": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "How many documents to answer with, the best first; all if absent.",
        },
        "top_k": {"type": ["integer", "null"], "minimum": 1, "description": "Another name of `top_n`."},
        "return_documents": {
            "type": ["boolean", "null"],
            "default": False,
            "description": "Whether the answer repeats the documents.",
        },
        "normalize": {
            "type": ["boolean", "null"],
            "default": False,
            "description": "Whether scores are scaled to 0 to 1, whatever the model's scale.",
        },
        "max_tokens_per_doc": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "How much is read of each document at most. Where a provider cuts none, longer ones are "
            "refused.",
        },
    }


def _rerank_request(limits: LimitSettings) -> Json:
    text: Json = {"type": "string", "minLength": 1}
    document: Json = {"oneOf": [text, {**object_of(text=text), "additionalProperties": True}]}
    query = text_of("The query.", minLength=1)
    documents = list_of(document, "The documents to rank.", minItems=1, maxItems=limits.max_documents)
    both: Json = {**object_of(query=query, documents=documents), "additionalProperties": False}
    wanted = _rerank_options()
    return {
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": text_of("Id of a rerank model, as in other requests.", minLength=1),
            "query": _or_null(query),
            "documents": _or_null(documents),
            **wanted,
            "input": {**_or_null(both), "description": "Alternative place of query and documents."},
            "parameters": {
                "type": ["object", "null"],
                "properties": wanted,
                "additionalProperties": False,
                "description": "Alternative place of options.",
            },
            "user": {
                "type": ["string", "null"],
                "maxLength": MAX_USER_BYTES,
                "description": f"Whom you serve: kept in the ledger beside your key. At most {MAX_USER_BYTES} bytes.",
            },
            "provider": steering(
                "A model to ask when no provider of the first one could answer. Its scores are other ones: do not "
                "compare them with a fixed number."
            ),
        },
        "oneOf": [
            _given({"query": "string", "documents": "array"}, "input"),
            _given({"input": "object"}, "query", "documents"),
        ],
        "additionalProperties": False,
        "description": "`query` and `documents` must be there, or `input` with both. A field that is null counts as "
        "absent. Fields that are not listed are refused by name.",
        "examples": [{"model": RERANK_MODEL, "query": EXAMPLE_QUERY, "documents": EXAMPLE_DOCUMENTS}],
    }


def _or_null(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


def _given(types: dict[str, str], *absent: str) -> Json:
    """Schema of an object with these fields, all optional, and no others."""
    properties = {**types, **dict.fromkeys(absent, "null")}
    return {"required": [*types], "properties": {name: {"type": kind} for name, kind in properties.items()}}
