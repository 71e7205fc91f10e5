"""The OpenAPI 3.1 document: every route, what it takes and all it can answer.

Owns the operations. What embeddings answers and errors look like is asked of the dialects, limits of the settings.
"""

import numpy as np
import orjson
from msgspec.structs import replace

from embedgate.core.errors import (
    DependencyMissing,
    GatewayError,
    InternalError,
    MalformedKey,
    MethodNotAllowed,
    MissingKey,
    NotFound,
    NotImplementedYet,
    Overloaded,
    RevokedKey,
    UnknownKey,
    UnknownModel,
)
from embedgate.core.money import cost_picodollars
from embedgate.core.types import EmbedResult, Model, Timing, Usage
from embedgate.core.version import VERSION
from embedgate.server.admin.table import TABLE
from embedgate.server.answer import Answer
from embedgate.server.describe.administration import admin_paths, admin_schemas, admin_tag
from embedgate.server.describe.errors import (
    REQUEST_ID,
    DialectErrors,
    Json,
    error_samples,
    header_names,
    header_references,
)
from embedgate.server.describe.schemas import components
from embedgate.server.dialects import openai, ziri
from embedgate.settings import Settings

_KEY_ERRORS = (MissingKey, MalformedKey, UnknownKey, RevokedKey, Overloaded, InternalError)
"""What every route that asks for a key can answer."""
_NOT_OF_EMBEDDINGS = (NotFound, MethodNotAllowed, NotImplementedYet)
_ONLY_OF_EMBEDDINGS = (DependencyMissing,)
_HEADERS = [name.decode() for name, _ in openai.headers(REQUEST_ID)]
"""What answers carry that no dialect writes."""
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
        "servers": [{"url": "/", "description": "This gateway."}],
        "tags": _tags(openai_errors, ziri_errors),
        "paths": {
            **main,
            **{f"/api{path}": _aliases(path, item) for path, item in main.items()},
            **_ziri_paths(model, ziri_errors),
            **admin_paths(TABLE, ziri_errors),
            **_operation_paths(openai_errors),
        },
        "components": components(settings, model, openai_errors, ziri_errors, admin_schemas(TABLE)),
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
        admin_tag(TABLE, ziri_errors),
        {"name": "Operation", "description": "For operators and tools. None of these asks for a key."},
    ]


def _openai_paths(model: Model, errors: DialectErrors) -> dict[str, dict[str, Json]]:
    result = _sample_result(model)
    answers = {form: openai.write(result, form, REQUEST_ID) for form in ("float", "base64")}
    listed = _listed(model)
    return {
        "/v1/embeddings": {
            "post": _operation(
                "createEmbeddings",
                "OpenAI",
                "Embed texts",
                "Answers with one vector for each input, in the order of the request.",
                {
                    "200": _vectors("EmbeddingList", answers, openai.write(_with_every_header(result), "float", "")),
                    **errors.responses(GatewayError, without=_NOT_OF_EMBEDDINGS),
                },
                request="EmbeddingsRequest",
            )
        },
        "/v1/models": {
            "get": _operation(
                "listModels",
                "OpenAI",
                "List the models",
                "Those that you can use now: their provider is switched on.",
                {
                    "200": _answer("The models.", "ModelList", {"object": "list", "data": [listed]}),
                    **_with_key(errors),
                },
            )
        },
        "/v1/models/{id}": {
            "get": _operation(
                "showModel",
                "OpenAI",
                "Show one model",
                "Its sizes, its space and where it is served.",
                {"200": _answer("The model.", "Model", listed), **_with_key(errors, UnknownModel)},
                parameters=[_model_parameter(model)],
            )
        },
        "/v1/chat/completions": {"post": _no_chat("createChatCompletion", "OpenAI", errors)},
    }


def _ziri_paths(model: Model, errors: DialectErrors) -> dict[str, dict[str, Json]]:
    result = _sample_result(model)
    answers = {form: ziri.write(result, form, REQUEST_ID) for form in ("float", "base64")}
    return {
        "/api/embeddings": {
            "post": _operation(
                "createZiriEmbeddings",
                "ZIRI",
                "Embed texts at a provider",
                "Answers with one vector for each input, in the order of the request, and with what it cost.",
                {
                    "200": _vectors("ZiriEmbeddingList", answers, ziri.write(_with_every_header(result), "float", "")),
                    **errors.responses(GatewayError, without=_NOT_OF_EMBEDDINGS),
                },
                request="ZiriEmbeddingsRequest",
            )
        },
        "/api/chat/completions": {"post": _no_chat("createZiriChatCompletion", "ZIRI", errors)},
    }


def _operation_paths(errors: DialectErrors) -> dict[str, dict[str, Json]]:
    failed = errors.responses(InternalError, without=_ONLY_OF_EMBEDDINGS)
    page = _operation(
        "showPage",
        "Operation",
        "Read about the API",
        "This description as a page for people.",
        {"200": _html_page(), **failed},
    )
    return {
        "/healthz": {
            "get": _operation(
                "checkHealth",
                "Operation",
                "Is it alive",
                "Answers as long as the process can answer anything.",
                {"200": _answer("It is.", "Health", {"status": "ok"}), **failed},
            )
        },
        "/readyz": {
            "get": _operation(
                "checkReadiness",
                "Operation",
                "Can it serve requests",
                "Send it no traffic while it answers 503.",
                {
                    "200": _answer("It can.", "Ready", {"status": "ready"}),
                    "503": _answer(
                        "Not yet, or not any more.", "NotReady", {"status": "not ready", "missing": ["database"]}
                    ),
                    **failed,
                },
            )
        },
        "/metrics": {
            "get": _operation(
                "showMetrics",
                "Operation",
                "Read what is counted",
                "Requests, calls, tokens and the cache, for Prometheus. No caller, text or key is in it.",
                {"200": _plain_text(), **failed},
            )
        },
        "/openapi.json": {
            "get": _operation(
                "describeApi",
                "Operation",
                "Read this description",
                "The OpenAPI 3.1 document that this is.",
                {"200": _answer("The document.", "Document", None), **failed},
            )
        },
        "/docs": {"get": page},
        "/": _aliases("/docs", {"get": page}),
    }


def _with_key(errors: DialectErrors, *more: type[GatewayError]) -> dict[str, Json]:
    """The errors of a route that asks for a key and makes no embeddings."""
    return errors.responses(*_KEY_ERRORS, *more, without=_ONLY_OF_EMBEDDINGS)


def _no_chat(operation_id: str, tag: str, errors: DialectErrors) -> Json:
    return _operation(
        operation_id,
        tag,
        "Chat",
        "Not served by this version: a known key is answered with 501.",
        {**errors.responses(NotImplementedYet), **_with_key(errors)},
    )


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
        schema = {"$ref": f"#/components/schemas/{request}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {**operation, "responses": responses}


def _aliases(path: str, item: dict[str, Json]) -> dict[str, Json]:
    """The same operations at another path."""
    return {
        method: {**operation, "operationId": f"{operation['operationId']}Alias", "x-embedgate-alias-of": path}
        for method, operation in item.items()
    }


def _model_parameter(model: Model) -> Json:
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "Id of the model. Its slash may be sent as it is, or as `%2F`.",
        "schema": {"type": "string", "minLength": 1},
        "example": model.id,
    }


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


def _sample_result(model: Model) -> EmbedResult:
    """What the model might answer to EXAMPLE_INPUT."""
    route, tokens = model.routes[0], 18
    price = route.price.picodollars_per_token if route.price else 0
    return EmbedResult(
        model=model.id,
        provider=route.provider,
        vectors=np.array([[-0.0421, 0.0837, 0.0155, -0.0612], [0.0274, -0.0193, 0.0568, 0.0406]], dtype=np.float32),
        usage=Usage(tokens),
        cost_picodollars=cost_picodollars(tokens, price),
        truncated=(),
        timing=Timing(total_ms=6.214, authenticate_ms=0.031, upstream_ms=5.402),
    )


def _with_every_header(result: EmbedResult) -> EmbedResult:
    """The result with everything that makes a dialect add a header."""
    return replace(result, usage=replace(result.usage, is_estimated=True), truncated=(0,))


def _listed(model: Model) -> Json:
    """The model as the list of models has it."""
    return {
        "id": model.id,
        "object": "model",
        "created": 1_767_225_600,
        "owned_by": model.author,
        "context_length": model.max_input_tokens,
        "dimensions": model.dims.default if model.dims else None,
        "matryoshka": model.is_matryoshka,
        "space": model.space,
        "providers": [route.provider for route in model.routes],
    }
