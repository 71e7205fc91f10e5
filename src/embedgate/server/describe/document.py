"""OpenAPI 3.1 document: every route with its requests and responses.

Owns the operations. Answers and errors come from the dialects, limits from the settings.
"""

from embedgate.core.errors import (
    DependencyMissing,
    GatewayError,
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    MissingFields,
    NotFound,
    UnknownEntity,
    UnknownModel,
)
from embedgate.core.models import Model
from embedgate.core.version import VERSION
from embedgate.govern.operations import OPERATIONS
from embedgate.server.describe.administration import admin_paths, admin_schemas, admin_tag
from embedgate.server.describe.chat import chat_responses, chat_schemas
from embedgate.server.describe.dialects import describe_dialects
from embedgate.server.describe.errors import (
    REQUEST_ID,
    DialectErrors,
    Json,
    error_samples,
    header_references,
)
from embedgate.server.describe.examples import (
    generation_example,
    listed_example,
    sample_result,
    with_every_header,
)
from embedgate.server.describe.operation import (
    COMMON_HEADERS,
    KEY_ERRORS,
    aliases,
    answer_of,
    model_parameter,
    operation,
    vectors_of,
)
from embedgate.server.describe.rerank import ranking, rerank_schemas
from embedgate.server.describe.schemas import components
from embedgate.server.describe.structs import query_parameters
from embedgate.server.dialects import openai, ziri
from embedgate.server.generation import GenerationQuery
from embedgate.server.models import ModelsQuery
from embedgate.settings import Settings

_NOT_OF_EMBEDDINGS = (NotFound, MethodNotAllowed)
_ONLY_OF_EMBEDDINGS = (DependencyMissing,)
_SHOWN_FORMATS = ("float", "base64", "int8")
_AT_AZURE = ("/v1/embeddings", "/v1/chat/completions", "/v1/models")
_ABOUT_CHAT = (
    "Answers with what the provider sends, byte for byte, streamed if asked to. What the answer may cost is held, and "
    "what it did cost is in the ledger before it ends. Whoever leaves a stream ends it, and pays for what had come."
)


def document(settings: Settings, model: Model) -> Json:
    """The description of a gateway with these settings, as JSON values. model: the one in the examples."""
    samples = error_samples(settings, model)
    openai_errors = DialectErrors(openai.write_error, "Error", samples)
    ziri_errors = DialectErrors(ziri.write_error, "ZiriError", samples)
    main = _openai_paths(model, openai_errors)
    smaller = describe_dialects(model, samples, openai_errors)
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
        "tags": _tags(openai_errors, ziri_errors, smaller.tags),
        "paths": {
            **main,
            **{f"/api{path}": aliases(path, item) for path, item in main.items()},
            **{f"/openai{path}": aliases(path, main[path], "OfAzure") for path in _AT_AZURE},
            **_ziri_paths(model, ziri_errors),
            **smaller.paths,
            **admin_paths(OPERATIONS, ziri_errors),
            **_operation_paths(openai_errors),
        },
        "components": components(
            settings,
            model,
            openai_errors,
            ziri_errors,
            chat_schemas() | rerank_schemas(settings.limits) | admin_schemas(OPERATIONS) | smaller.schemas,
        ),
    }


def _tags(openai_errors: DialectErrors, ziri_errors: DialectErrors, smaller: list[Json]) -> list[Json]:
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
        *smaller,
        admin_tag(OPERATIONS, ziri_errors),
        {"name": "Operation", "description": "For operators and tools. None of these needs a key."},
    ]


def _openai_paths(model: Model, errors: DialectErrors) -> dict[str, dict[str, Json]]:
    result = sample_result(model)
    answers = {form: openai.write(result, form, REQUEST_ID) for form in _SHOWN_FORMATS}
    listed = listed_example(model)
    return {
        "/v1/embeddings": {
            "post": operation(
                "createEmbeddings",
                "OpenAI",
                "Embed texts",
                "Answers with one vector for each input, in the order of the request.",
                {
                    "200": vectors_of("EmbeddingList", answers, openai.write(with_every_header(result), "float", "")),
                    **errors.responses(GatewayError, without=_NOT_OF_EMBEDDINGS),
                },
                request="EmbeddingsRequest",
            )
        },
        "/v1/rerank": {"post": ranking("createRanking", "OpenAI", openai.write_rerank, errors)},
        "/v1/models": {
            "get": operation(
                "listModels",
                "OpenAI",
                "List the models",
                "Those that you can use now: a provider of theirs is on, and the policies permit it to your key. Other "
                "fields of the query are ignored.",
                {
                    "200": answer_of("The models.", "ListedModels", {"object": "list", "data": [listed]}),
                    **_with_key(errors, MalformedRequest),
                },
                parameters=[*query_parameters(ModelsQuery)],
            )
        },
        "/v1/models/{id}": {
            "get": operation(
                "showModel",
                "OpenAI",
                "Show one model",
                "What it can do, what it costs, where it is served, and how its routes are doing.",
                {"200": answer_of("The model.", "ListedModel", listed), **_with_key(errors, UnknownModel)},
                parameters=[model_parameter(model)],
            )
        },
        "/v1/generation": {
            "get": operation(
                "showGeneration",
                "OpenAI",
                "Show what a request cost",
                "And who served it: from the ledger, at once. You see requests of your own, an administrator all. What "
                "was refused before a provider was paid is not in the ledger.",
                {
                    "200": answer_of("The request.", "Generation", generation_example(result, model)),
                    **_with_key(errors, MissingFields, MalformedRequest, UnknownEntity),
                },
                parameters=[_generation_parameter()],
            )
        },
        "/v1/chat/completions": {"post": _chat(errors)},
    }


def _chat(errors: DialectErrors) -> Json:
    responses = chat_responses(openai.write_chat, "ChatCompletion", errors)
    return operation("createChatCompletion", "OpenAI", "Chat", _ABOUT_CHAT, responses, request="ChatRequest")


def _ziri_chat(errors: DialectErrors) -> Json:
    responses = chat_responses(ziri.write_chat, "ZiriChatCompletion", errors)
    title = "Chat at a provider"
    return operation("createZiriChatCompletion", "ZIRI", title, _ABOUT_CHAT, responses, request="ZiriChatRequest")


def _ziri_paths(model: Model, errors: DialectErrors) -> dict[str, dict[str, Json]]:
    result = sample_result(model)
    answers = {form: ziri.write(result, form, REQUEST_ID) for form in _SHOWN_FORMATS}
    return {
        "/api/embeddings": {
            "post": operation(
                "createZiriEmbeddings",
                "ZIRI",
                "Embed texts at a provider",
                "Answers with one vector for each input, in the order of the request, and with what it cost.",
                {
                    "200": vectors_of("ZiriEmbeddingList", answers, ziri.write(with_every_header(result), "float", "")),
                    **errors.responses(GatewayError, without=_NOT_OF_EMBEDDINGS),
                },
                request="ZiriEmbeddingsRequest",
            )
        },
        "/api/chat/completions": {"post": _ziri_chat(errors)},
    }


def _operation_paths(errors: DialectErrors) -> dict[str, dict[str, Json]]:
    failed = errors.responses(InternalError, without=_ONLY_OF_EMBEDDINGS)
    page = operation(
        "showPage",
        "Operation",
        "Read about the API",
        "This description as an HTML page.",
        {"200": _html_page(), **failed},
    )
    health: dict[str, Json] = {
        "get": operation(
            "checkHealth",
            "Operation",
            "Is it alive",
            "Answers as long as the process is alive.",
            {"200": answer_of("It is.", "Health", {"status": "ok"}), **failed},
        )
    }
    return {
        "/healthz": health,
        "/health": aliases("/healthz", health, "ByName"),
        "/api/health": aliases("/healthz", health, "OfApi"),
        "/readyz": {
            "get": operation(
                "checkReadiness",
                "Operation",
                "Check readiness",
                "Send it no traffic while it answers 503.",
                {
                    "200": answer_of("It can.", "Ready", {"status": "ready"}),
                    "503": answer_of(
                        "Starting up or shutting down.", "NotReady", {"status": "not ready", "missing": ["database"]}
                    ),
                    **failed,
                },
            )
        },
        "/metrics": {
            "get": operation(
                "showMetrics",
                "Operation",
                "Read the metrics",
                "Requests, calls, tokens and the cache, for Prometheus. No caller, text or key is in it.",
                {"200": _plain_text(), **failed},
            )
        },
        "/openapi.json": {
            "get": operation(
                "describeApi",
                "Operation",
                "Read the OpenAPI document",
                "This OpenAPI 3.1 document.",
                {"200": answer_of("The document.", "Document", None), **failed},
            )
        },
        "/docs": {"get": page},
        "/": aliases("/docs", {"get": page}),
    }


def _with_key(errors: DialectErrors, *more: type[GatewayError]) -> dict[str, Json]:
    """The errors of a route that needs a key and makes no embeddings."""
    return errors.responses(*KEY_ERRORS, *more, without=_ONLY_OF_EMBEDDINGS)


def _generation_parameter() -> Json:
    (parameter,) = query_parameters(GenerationQuery)
    return {**parameter, "required": True, "example": REQUEST_ID}


def _html_page() -> Json:
    return {
        "description": "The page.",
        "headers": header_references(["content-security-policy", *COMMON_HEADERS]),
        "content": {"text/html": {"schema": {"type": "string"}}},
    }


def _plain_text() -> Json:
    return {
        "description": "Counters, gauges and histograms in the Prometheus text format.",
        "headers": header_references(["x-request-id"]),
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
