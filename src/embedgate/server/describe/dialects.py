"""The smaller dialects in the OpenAPI document: Azure's deployments, Cohere's embed, Ollama's, TEI's.

Answers and errors come from the dialects themselves, so that they cannot drift from the code.
"""

from collections.abc import Iterable
from typing import NamedTuple

from embedgate.core.errors import DependencyMissing, GatewayError, MethodNotAllowed, NotFound, UnknownModel
from embedgate.core.models import Model
from embedgate.server.describe.chat import CHAT_MODEL, chat_responses
from embedgate.server.describe.errors import REQUEST_ID, DialectErrors, Json
from embedgate.server.describe.examples import sample_result, with_every_header
from embedgate.server.describe.operation import (
    KEY_ERRORS,
    answer_of,
    body_of,
    model_parameter,
    operation,
    vectors_of,
)
from embedgate.server.describe.rerank import EXAMPLE_DOCUMENTS, EXAMPLE_QUERY, RERANK_MODEL, ranking
from embedgate.server.describe.schemas import (
    EXAMPLE_INPUT,
    object_of,
    openai_properties,
    openai_request,
    text_of,
)
from embedgate.server.describe.structs import struct_schemas
from embedgate.server.dialect import Dialect
from embedgate.server.dialects import cohere, ollama, openai, tei
from embedgate.server.fields import ENCODING_FORMATS
from embedgate.settings import LimitSettings

Paths = dict[str, dict[str, Json]]
"""Operations by path, then by method."""

_NOT_OF_EMBEDDINGS = (NotFound, MethodNotAllowed)
_ABOUT = "Answers with one vector for each input, in the order of the request."
_NUMBERS: Json = {"type": "array", "items": {"type": "number"}, "minItems": 1}
_VECTORS: Json = {"type": "array", "items": _NUMBERS, "description": "One for each input, in the order of the request."}
_TEXTS: Json = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
_TOKENS: Json = {"type": "integer", "minimum": 0}


class DialectsDescribed(NamedTuple):
    """The part of the smaller dialects in the document."""

    tags: list[Json]
    paths: Paths
    schemas: Json


def describe_dialects(model: Model, samples: Iterable[GatewayError], openai_errors: DialectErrors) -> DialectsDescribed:
    """The tags, paths and schemas of all of them. model: the one in the examples."""
    samples = tuple(samples)
    errors = {
        "Azure": DialectErrors(openai.write_azure_error, "AzureError", samples),
        "Cohere": DialectErrors(cohere.write_error, "CohereError", samples),
        "Ollama": DialectErrors(ollama.write_error, "OllamaError", samples),
        "TEI": DialectErrors(tei.write_error, "TeiError", samples),
    }
    tags: list[Json] = [
        {"name": name, "description": _TAGS[name], "x-embedgate-errors": each.rows()} for name, each in errors.items()
    ]
    paths = {
        **_engine_paths(model, openai_errors),
        **_azure_paths(model, errors["Azure"]),
        **_cohere_paths(model, errors["Cohere"]),
        **_ollama_paths(model, errors["Ollama"]),
        **_tei_paths(model, errors["TEI"]),
    }
    schemas: Json = {
        **_engine_schemas(model),
        **_cohere_schemas(model),
        **_ollama_schemas(model),
        **_tei_schemas(model),
        "AzureError": object_of(
            error=_fault(errors["Azure"], message=_said(), type=_kind(errors["Azure"]), param=_PARAM)
        ),
        "CohereError": _fault(errors["Cohere"], id=text_of("The id in `x-request-id`."), message=_said()),
        "OllamaError": _fault(errors["Ollama"], error=_said()),
        "TeiError": _fault(errors["TEI"], error=_said(), error_type=_kind(errors["TEI"])),
    }
    return DialectsDescribed(tags, paths, schemas)


_TAGS = {
    "Azure": "For Azure's clients of the OpenAI SDKs: `azure_endpoint` is the address of this gateway, a deployment is "
    "the id of a model, `api-key` a key of this gateway; `api-version` is ignored. Bodies and answers are OpenAI's. "
    "Below `/openai/v1` is the OpenAI API itself.",
    "Cohere": "For Cohere's SDKs: their base URL is the address of this gateway. Documents are put in order at "
    "`/v2/rerank`.",
    "Ollama": "For Ollama's clients: their host is the address of this gateway, and they send the key as a Bearer "
    "token.",
    "TEI": "For clients of Text Embeddings Inference: their address is that of this gateway, `/tei/` and the id of a "
    "model.",
}
_PARAM: Json = {"type": ["string", "null"], "description": "The field at fault, if it is one."}


def _said() -> Json:
    return text_of("What is wrong: the value seen, the value allowed, the next step.")


def _kind(errors: DialectErrors) -> Json:
    return text_of("The family of the error.", enum=errors.types())


def _fault(errors: DialectErrors, **fields: object) -> Json:
    """Schema of an error with these fields and the code."""
    return object_of(**fields, code=text_of("Which error it is; stable.", enum=errors.codes()))


class _Told(NamedTuple):
    """What is told of an operation: its id, its tag, its summary, its schemas, and the form of the answer to show."""

    name: str
    tag: str
    summary: str
    request: str
    answer: str = "EmbeddingList"
    form: str = "float"


def _embeds(path: str, told: _Told, dialect: Dialect, model: Model, errors: DialectErrors) -> Paths:
    """An operation that embeds."""
    result = sample_result(model)
    full = dialect.write(with_every_header(result), told.form, "")
    responses = {
        "200": vectors_of(told.answer, {told.form: dialect.write(result, told.form, REQUEST_ID)}, full),
        **errors.responses(GatewayError, without=_NOT_OF_EMBEDDINGS),
    }
    named = [model_parameter(model)] if "{id}" in path else None
    described = operation(told.name, told.tag, told.summary, _ABOUT, responses, told.request, named)
    return {path: {"post": described}}


def _engine_paths(model: Model, errors: DialectErrors) -> Paths:
    summary = "Embed texts, model in the path"
    told = _Told("createEngineEmbeddings", "OpenAI", summary, "EngineEmbeddingsRequest")
    return _embeds("/v1/engines/{id}/embeddings", told, openai.Engine(model.id), model, errors)


def _azure_paths(model: Model, errors: DialectErrors) -> Paths:
    deployment = openai.Deployment(model.id)
    told = _Told("createDeploymentEmbeddings", "Azure", "Embed texts", "EngineEmbeddingsRequest")
    chats = operation(
        "createDeploymentChatCompletion",
        "Azure",
        "Chat",
        "Answers with what the provider sends, byte for byte, streamed if asked to.",
        chat_responses(deployment.write_chat, "ChatCompletion", errors),
        request="DeploymentChatRequest",
        parameters=[{**model_parameter(model), "example": CHAT_MODEL}],
    )
    return {
        **_embeds("/openai/deployments/{id}/embeddings", told, deployment, model, errors),
        "/openai/deployments/{id}/chat/completions": {"post": chats},
    }


def _cohere_paths(model: Model, errors: DialectErrors) -> Paths:
    told = _Told("embedByType", "Cohere", "Embed texts", "CohereEmbedRequest", "CohereEmbeddings", "float,int8")
    older = _Told("embedFloats", "Cohere", "Embed texts, version 1", "CohereEmbedRequest", "CohereFloats", "floats")
    return {
        **_embeds("/v2/embed", told, cohere.Embed(2), model, errors),
        **_embeds("/v1/embed", older, cohere.Embed(1), model, errors),
        "/v2/rerank": {"post": ranking("rankForCohere", "Cohere", cohere.Rerank().write_rerank, errors)},
    }


def _ollama_paths(model: Model, errors: DialectErrors) -> Paths:
    told = _Told("embedForOllama", "Ollama", "Embed texts", "OllamaEmbedRequest", "OllamaEmbeddings")
    listed = ollama.write_models([model.id], REQUEST_ID)
    tags = operation(
        "listOllamaTags",
        "Ollama",
        "List the embedding models",
        "Those that you can use now.",
        {
            "200": answer_of("The models.", "TaggedModels", body_of(listed)),
            **errors.responses(*KEY_ERRORS, without=(DependencyMissing,)),
        },
    )
    return {**_embeds("/api/embed", told, ollama, model, errors), "/api/tags": {"get": tags}}


def _tei_paths(model: Model, errors: DialectErrors) -> Paths:
    told = _Told("embedForTei", "TEI", "Embed texts", "TeiEmbedRequest", "TeiEmbeddings")
    told_of = tei.write_info(model, model.routes[0].precision, LimitSettings(), REQUEST_ID)
    info = operation(
        "showTeiInfo",
        "TEI",
        "Show the model",
        "What it is, and how much a request may hold.",
        {
            "200": answer_of("The model.", "ServerInfo", body_of(told_of)),
            **errors.responses(*KEY_ERRORS, UnknownModel, without=(DependencyMissing,)),
        },
        parameters=[model_parameter(model)],
    )
    named = _Told("embedForTeiByModel", "TEI", "Embed texts, model in the body", "TeiNamedRequest", "TeiEmbeddings")
    return {
        **_embeds("/tei/{id}/embed", told, tei.Server(model.id), model, errors),
        **_embeds("/embed", named, tei.Server(), model, errors),
        "/tei/{id}/rerank": {
            "post": ranking(
                "rankForTei",
                "TEI",
                tei.Server(model.id).write_rerank,
                errors,
                request="TeiRerankRequest",
                answer="TeiRanking",
                parameters=[{**model_parameter(model), "example": RERANK_MODEL}],
            )
        },
        "/tei/{id}/info": {"get": info},
    }


def _engine_schemas(model: Model) -> Json:
    request = openai_request(model)
    named: Json = {"type": ["string", "null"], "description": "Of no effect: the path names the model."}
    properties = {**openai_properties(model), "model": named}
    examples = [{"input": EXAMPLE_INPUT}]
    return {
        "EngineEmbeddingsRequest": {**request, "required": ["input"], "properties": properties, "examples": examples}
    }


def _cohere_schemas(model: Model) -> Json:
    kinds: Json = {"type": "string", "enum": [*ENCODING_FORMATS]}
    billed = object_of(
        api_version=object_of(version={"type": "string", "enum": ["1", "2"]}),
        billed_units=object_of(input_tokens=_TOKENS),
    )
    about: Json = {"id": text_of("The id in `x-request-id`."), "meta": billed}
    of_type: Json = {"type": "array", "items": {"oneOf": [_NUMBERS, {"type": "string", "minLength": 1}]}}
    by_type = object_of(
        **about,
        embeddings={"type": "object", "properties": dict.fromkeys(ENCODING_FORMATS, of_type)},
        response_type={"type": "string", "const": "embeddings_by_type"},
    )
    floats = object_of(**about, embeddings=_VECTORS, response_type={"type": "string", "const": "embeddings_floats"})
    return {
        "CohereEmbedRequest": {
            "type": "object",
            "required": ["model", "texts"],
            "properties": {
                "model": _model(model),
                "texts": _TEXTS,
                "input_type": _choice(cohere.INPUT_TYPES, "What the texts are for."),
                "embedding_types": {
                    "type": ["array", "null"],
                    "items": kinds,
                    "minItems": 1,
                    "description": "Each gives one more list of the same vectors. Absent: `float`, in version 1 as a "
                    "list without a name.",
                },
                "output_dimension": _size(),
                "truncate": _choice(
                    cohere.TRUNCATES, "Where to cut a text that is too long. Absent, it is refused, as with `NONE`."
                ),
            },
            "additionalProperties": True,
            "description": "Fields that are not listed go to providers that take them, and are refused by name "
            "otherwise.",
            "examples": [{"model": model.id, "texts": EXAMPLE_INPUT}],
        },
        "CohereEmbeddings": by_type,
        "CohereFloats": {"oneOf": [floats, by_type], "required": ["id", "embeddings", "meta", "response_type"]},
    }


def _ollama_schemas(model: Model) -> Json:
    return {
        **struct_schemas([ollama.TaggedModels]),
        "OllamaEmbedRequest": {
            "type": "object",
            "required": ["model", "input"],
            "properties": {
                "model": _model(model),
                "input": {"oneOf": [{"type": "string", "minLength": 1}, _TEXTS]},
                "dimensions": _size(),
                "truncate": {
                    "type": ["boolean", "null"],
                    "description": "Whether to cut a text that is too long at its end. Absent, it is refused.",
                },
                "keep_alive": {"type": ["string", "number", "null"], "description": "Of no effect."},
                "options": {"type": ["object", "null"], "description": "Of no effect."},
            },
            "additionalProperties": True,
            "description": "Fields that are not listed go to providers that take them, and are refused by name "
            "otherwise.",
            "examples": [{"model": model.id, "input": EXAMPLE_INPUT}],
        },
        "OllamaEmbeddings": object_of(
            model=text_of("Id of the model that made the vectors."),
            embeddings=_VECTORS,
            total_duration={**_TOKENS, "description": "Nanoseconds."},
            load_duration={"type": "integer", "const": 0},
            prompt_eval_count={**_TOKENS, "description": "Tokens of all inputs."},
        ),
    }


def _tei_schemas(model: Model) -> Json:
    properties: Json = {
        "inputs": {"oneOf": [{"type": "string", "minLength": 1}, _TEXTS]},
        "model": {"type": ["string", "null"], "description": "Id of the model, where the path names none."},
        "truncate": {"type": ["boolean", "null"], "description": "Whether to cut a text that is too long."},
        "truncation_direction": _choice(tei.DIRECTIONS, "Which side is cut."),
        "prompt_name": _choice(tei.PROMPTS, "What the texts are for."),
        "normalize": {
            "type": ["boolean", "null"],
            "enum": [True, None],
            "description": "`false` is refused: vectors come at unit length.",
        },
        "dimensions": _size(),
    }
    request: Json = {
        "type": "object",
        "required": ["inputs"],
        "properties": properties,
        "additionalProperties": True,
        "examples": [{"inputs": EXAMPLE_INPUT}],
    }
    return {
        "TeiEmbedRequest": request,
        "TeiNamedRequest": {
            **request,
            "properties": {**properties, "model": _model(model)},
            "required": ["model", "inputs"],
            "examples": [{"model": model.id, "inputs": EXAMPLE_INPUT}],
        },
        "TeiEmbeddings": _VECTORS,
        **struct_schemas([tei.ServerInfo, tei.RankedText]),
        "TeiRerankRequest": _tei_rerank_request(),
        "TeiRanking": {"type": "array", "items": {"$ref": "#/components/schemas/RankedText"}},
    }


def _tei_rerank_request() -> Json:
    properties: Json = {
        "query": text_of("What the texts are ranked by.", minLength=1),
        "texts": {**_TEXTS, "description": "The texts to put in order."},
        "model": {"type": ["string", "null"], "description": "Of no effect: the path names the model."},
        "raw_scores": {"type": ["boolean", "null"], "description": "Scores as the model gives them, not from 0 to 1."},
        "return_text": {"type": ["boolean", "null"], "description": "Whether the answer repeats the texts."},
        "truncate": {
            "type": ["boolean", "null"],
            "enum": [True, None],
            "description": "`false` is refused: whether a long text is cut is up to the provider.",
        },
        "truncation_direction": _choice(("Right", "right"), "Which side may be cut."),
    }
    return {
        "type": "object",
        "required": ["query", "texts"],
        "properties": properties,
        "additionalProperties": False,
        "examples": [{"query": EXAMPLE_QUERY, "texts": EXAMPLE_DOCUMENTS}],
    }


def _model(model: Model) -> Json:
    return text_of("Id of the model, as in other requests.", minLength=1, examples=[model.id])


def _size() -> Json:
    return {"type": ["integer", "null"], "minimum": 1, "description": "Length of the vectors. Absent: the model's own."}


def _choice(options: Iterable[str], description: str) -> Json:
    return {"type": ["string", "null"], "enum": [*options, None], "description": description}
