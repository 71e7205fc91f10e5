"""OpenAPI 3.1 document: every route with its requests and responses.

Owns the operations. Answers and errors come from the dialects, limits from the settings.
"""

import orjson

from embedgate.core.errors import (
    DependencyMissing,
    GatewayError,
    InputTooLong,
    InternalError,
    InvalidDimension,
    MalformedKey,
    MalformedRequest,
    MethodNotAllowed,
    MissingFields,
    MissingKey,
    NotAnEmbeddingModel,
    NotFound,
    Overloaded,
    RevokedKey,
    TooManyTokens,
    UnknownEntity,
    UnknownKey,
    UnknownModel,
)
from embedgate.core.models import Model
from embedgate.core.version import VERSION
from embedgate.govern.operations import OPERATIONS
from embedgate.server.answer import Answer
from embedgate.server.describe.administration import admin_paths, admin_schemas, admin_tag
from embedgate.server.describe.chat import chat_responses
from embedgate.server.describe.errors import (
    REQUEST_ID,
    DialectErrors,
    Json,
    error_samples,
    header_names,
    header_references,
)
from embedgate.server.describe.examples import (
    generation_example,
    listed_example,
    ranking_example,
    sample_result,
    with_every_header,
)
from embedgate.server.describe.schemas import components
from embedgate.server.describe.structs import query_parameters
from embedgate.server.dialects import openai, ziri
from embedgate.server.generation import GenerationQuery
from embedgate.server.idempotency import HEADER, MAX_CHARACTERS
from embedgate.server.models import ModelsQuery
from embedgate.settings import Settings

_KEY_ERRORS = (MissingKey, MalformedKey, UnknownKey, RevokedKey, Overloaded, InternalError)
"""Errors of every route that needs a key."""
_NOT_OF_EMBEDDINGS = (NotFound, MethodNotAllowed)
_NOT_OF_RANKINGS = (InputTooLong, TooManyTokens, InvalidDimension, NotAnEmbeddingModel)
_ONLY_OF_EMBEDDINGS = (DependencyMissing,)
_SHOWN_FORMATS = ("float", "base64", "int8")
_HEADERS = [name.decode() for name, _ in openai.headers(REQUEST_ID)]
"""Headers that no dialect writes."""
_ABOUT_CHAT = (
    "Answers with what the provider sends, byte for byte, streamed if asked to. What the answer may cost is held, and "
    "what it did cost is in the ledger before it ends. Whoever leaves a stream ends it, and pays for what had come."
)
_IDEMPOTENCY_KEY: Json = {
    "name": HEADER.decode(),
    "in": "header",
    "required": False,
    "description": "A text of your choice, new for every request. The same request with the same key is answered "
    "alike, with the header `idempotent-replayed`, and charged once.",
    "schema": {"type": "string", "pattern": f"^[!-~]{{1,{MAX_CHARACTERS}}}$"},
}
_SECURITY: dict[str, list[Json]] = {
    "OpenAI": [{"bearer": []}, {"apiKey": []}],
    "ZIRI": [{"apiKey": []}],
    "Operation": [],
}


def document(settings: Settings, model: Model) -> Json:
    """The description of a gateway with these settings, as JSON values. model: the one in the examples."""
    samples = error_samples(settings, model)
    openai_errors = DialectErrors(openai.write_error, "Error", samples)
    ziri_errors = DialectErrors(ziri.write_error, "ZiriError", samples)
    main = _openai_paths(model, openai_errors)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "embedgate",
            "version": VERSION,
            "summary": "One door to every text-embedding model.",
            "description": "Send texts, get vectors: one for each text, in your order, from the model you named.",
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": ".", "description": "This gateway, also behind a proxy that adds to its paths."}],
        "tags": _tags(openai_errors, ziri_errors),
        "paths": {
            **main,
            **{f"/api{path}": _aliases(path, item) for path, item in main.items()},
            "/v2/rerank": _aliases("/v1/rerank", main["/v1/rerank"], "OfCohere"),
            **_ziri_paths(model, ziri_errors),
            **admin_paths(OPERATIONS, ziri_errors),
            **_operation_paths(openai_errors),
        },
        "components": components(settings, model, openai_errors, ziri_errors, admin_schemas(OPERATIONS)),
    }


def _tags(openai_errors: DialectErrors, ziri_errors: DialectErrors) -> list[Json]:
    return [
        {
            "name": "OpenAI",
            "description": "For the OpenAI SDKs and all that is built on them. Their base URL is the address of this "
            "gateway and `/v1`, or `/api/v1`, which is the same.",
            "x-embedgate-errors": openai_errors.rows(),
        },
        {
            "name": "ZIRI",
            "description": "For clients of the ZIRI API: the request names its provider, errors are flat, and `_meta` "
            "tells the cost.",
            "x-embedgate-errors": ziri_errors.rows(),
        },
        admin_tag(OPERATIONS, ziri_errors),
        {"name": "Operation", "description": "For operators and tools. None of these needs a key."},
    ]


def _openai_paths(model: Model, errors: DialectErrors) -> dict[str, dict[str, Json]]:
    result = sample_result(model)
    answers = {form: openai.write(result, form, REQUEST_ID) for form in _SHOWN_FORMATS}
    listed = listed_example(model)
    return {
        "/v1/embeddings": {
            "post": _operation(
                "createEmbeddings",
                "OpenAI",
                "Embed texts",
                "Answers with one vector for each input, in the order of the request.",
                {
                    "200": _vectors("EmbeddingList", answers, openai.write(with_every_header(result), "float", "")),
                    **errors.responses(GatewayError, without=_NOT_OF_EMBEDDINGS),
                },
                request="EmbeddingsRequest",
            )
        },
        "/v1/rerank": {"post": _rerank(errors)},
        "/v1/models": {
            "get": _operation(
                "listModels",
                "OpenAI",
                "List the models",
                "Those that you can use now: a provider of theirs is on, and the policies permit it to your key. Other "
                "fields of the query are ignored.",
                {
                    "200": _answer("The models.", "ListedModels", {"object": "list", "data": [listed]}),
                    **_with_key(errors, MalformedRequest),
                },
                parameters=[*query_parameters(ModelsQuery)],
            )
        },
        "/v1/models/{id}": {
            "get": _operation(
                "showModel",
                "OpenAI",
                "Show one model",
                "What it can do, what it costs, where it is served, and how its routes are doing.",
                {"200": _answer("The model.", "ListedModel", listed), **_with_key(errors, UnknownModel)},
                parameters=[_model_parameter(model)],
            )
        },
        "/v1/generation": {
            "get": _operation(
                "showGeneration",
                "OpenAI",
                "Show what a request cost",
                "And who served it: from the ledger, at once. You see requests of your own, an administrator all. What "
                "was refused before a provider was paid is not in the ledger.",
                {
                    "200": _answer("The request.", "Generation", generation_example(result, model)),
                    **_with_key(errors, MissingFields, MalformedRequest, UnknownEntity),
                },
                parameters=[_generation_parameter()],
            )
        },
        "/v1/chat/completions": {"post": _chat(errors)},
    }


def _chat(errors: DialectErrors) -> Json:
    responses = chat_responses(openai.write_chat, "ChatCompletion", errors)
    return _operation("createChatCompletion", "OpenAI", "Chat", _ABOUT_CHAT, responses, request="ChatRequest")


def _ziri_chat(errors: DialectErrors) -> Json:
    responses = chat_responses(ziri.write_chat, "ZiriChatCompletion", errors)
    title = "Chat at a provider"
    return _operation("createZiriChatCompletion", "ZIRI", title, _ABOUT_CHAT, responses, request="ZiriChatRequest")


def _rerank(errors: DialectErrors) -> Json:
    answer = openai.write_rerank(ranking_example(), REQUEST_ID)
    return _operation(
        "createRanking",
        "OpenAI",
        "Rerank documents",
        "Answers with the documents that answer the query best, by their position in the request. The bodies are those "
        "of Cohere's and Jina's APIs.",
        {
            "200": {
                "description": "The order.",
                "headers": header_references(header_names(answer)),
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/Ranking"},
                        "example": _body(answer),
                    }
                },
            },
            **errors.responses(GatewayError, without=(*_NOT_OF_EMBEDDINGS, *_NOT_OF_RANKINGS)),
        },
        request="RerankRequest",
    )


def _ziri_paths(model: Model, errors: DialectErrors) -> dict[str, dict[str, Json]]:
    result = sample_result(model)
    answers = {form: ziri.write(result, form, REQUEST_ID) for form in _SHOWN_FORMATS}
    return {
        "/api/embeddings": {
            "post": _operation(
                "createZiriEmbeddings",
                "ZIRI",
                "Embed texts at a provider",
                "Answers with one vector for each input, in the order of the request, and with what it cost.",
                {
                    "200": _vectors("ZiriEmbeddingList", answers, ziri.write(with_every_header(result), "float", "")),
                    **errors.responses(GatewayError, without=_NOT_OF_EMBEDDINGS),
                },
                request="ZiriEmbeddingsRequest",
            )
        },
        "/api/chat/completions": {"post": _ziri_chat(errors)},
    }


def _operation_paths(errors: DialectErrors) -> dict[str, dict[str, Json]]:
    failed = errors.responses(InternalError, without=_ONLY_OF_EMBEDDINGS)
    page = _operation(
        "showPage",
        "Operation",
        "Read about the API",
        "This description as an HTML page.",
        {"200": _html_page(), **failed},
    )
    health: dict[str, Json] = {
        "get": _operation(
            "checkHealth",
            "Operation",
            "Is it alive",
            "Answers as long as the process is alive.",
            {"200": _answer("It is.", "Health", {"status": "ok"}), **failed},
        )
    }
    return {
        "/healthz": health,
        "/health": _aliases("/healthz", health, "ByName"),
        "/api/health": _aliases("/healthz", health, "OfApi"),
        "/readyz": {
            "get": _operation(
                "checkReadiness",
                "Operation",
                "Check readiness",
                "Send it no traffic while it answers 503.",
                {
                    "200": _answer("It can.", "Ready", {"status": "ready"}),
                    "503": _answer(
                        "Starting up or shutting down.", "NotReady", {"status": "not ready", "missing": ["database"]}
                    ),
                    **failed,
                },
            )
        },
        "/metrics": {
            "get": _operation(
                "showMetrics",
                "Operation",
                "Read the metrics",
                "Requests, calls, tokens and the cache, for Prometheus. No caller, text or key is in it.",
                {"200": _plain_text(), **failed},
            )
        },
        "/openapi.json": {
            "get": _operation(
                "describeApi",
                "Operation",
                "Read the OpenAPI document",
                "This OpenAPI 3.1 document.",
                {"200": _answer("The document.", "Document", None), **failed},
            )
        },
        "/docs": {"get": page},
        "/": _aliases("/docs", {"get": page}),
    }


def _with_key(errors: DialectErrors, *more: type[GatewayError]) -> dict[str, Json]:
    """The errors of a route that needs a key and makes no embeddings."""
    return errors.responses(*_KEY_ERRORS, *more, without=_ONLY_OF_EMBEDDINGS)


def _operation(
    operation_id: str,
    tag: str,
    summary: str,
    description: str,
    responses: dict[str, Json],
    request: str | None = None,
    parameters: list[Json] | None = None,
) -> Json:
    """request: name of the schema of its body, if it takes one."""
    operation: Json = {
        "operationId": operation_id,
        "tags": [tag],
        "summary": summary,
        "description": description,
        "security": _SECURITY[tag],
    }
    if parameters:
        operation["parameters"] = parameters
    if request:
        operation["parameters"] = [*(parameters or ()), _IDEMPOTENCY_KEY]
        schema = {"$ref": f"#/components/schemas/{request}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {**operation, "responses": responses}


def _aliases(path: str, item: dict[str, Json], suffix: str = "Alias") -> dict[str, Json]:
    """The same operations at another path. suffix: of their operation ids."""
    return {
        method: {**operation, "operationId": f"{operation['operationId']}{suffix}", "x-embedgate-alias-of": path}
        for method, operation in item.items()
    }


def _model_parameter(model: Model) -> Json:
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "Id of the model; its slash may be sent as it is, or as `%2F`. A bare name will do where only "
        "one model has it.",
        "schema": {"type": "string", "minLength": 1},
        "example": model.id,
    }


def _generation_parameter() -> Json:
    (parameter,) = query_parameters(GenerationQuery)
    return {**parameter, "required": True, "example": REQUEST_ID}


def _answer(description: str, schema: str, example: object) -> Json:
    content: Json = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if example is not None:
        content["example"] = example
    return {
        "description": description,
        "headers": header_references(_HEADERS),
        "content": {"application/json": content},
    }


def _html_page() -> Json:
    return {
        "description": "The page.",
        "headers": header_references(["content-security-policy", *_HEADERS]),
        "content": {"text/html": {"schema": {"type": "string"}}},
    }


def _plain_text() -> Json:
    return {
        "description": "Counters, gauges and histograms in the Prometheus text format.",
        "headers": header_references(["x-request-id"]),
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }


def _vectors(schema: str, examples: dict[str, Answer], with_every_header: Answer) -> Json:
    """An embeddings answer. examples: by encoding format, as the dialect writes them."""
    return {
        "description": "The vectors. Those of the examples are shortened to four numbers.",
        "headers": header_references(header_names(with_every_header)),
        "content": {
            "application/json": {
                "schema": {"$ref": f"#/components/schemas/{schema}"},
                "examples": {form: {"value": _body(answer)} for form, answer in examples.items()},
            }
        },
    }


def _body(answer: Answer) -> object:
    return orjson.loads(b"".join([answer.body, *(answer.pieces or ())]))
