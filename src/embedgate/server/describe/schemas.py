"""Components of the OpenAPI document: schemas of bodies, response headers, security schemes."""

from embedgate.core.models import Model
from embedgate.server.describe.errors import DialectErrors, Json
from embedgate.server.describe.structs import struct_schemas
from embedgate.server.fields import CACHE_USES, ENCODING_FORMATS, INPUT_TYPES, MAX_USER_BYTES, TRUNCATES
from embedgate.server.generation import Generation
from embedgate.server.models import ListedModels
from embedgate.settings import LimitSettings, Settings

EXAMPLE_INPUT = ["A cat sat on the mat.", "A dog ran through the park."]
EMERGENCY: Json = {
    "type": ["boolean", "null"],
    "description": "Whether this is an emergency: policies may read it if `access.heeds_callers_emergency` is on.",
}
_TOKEN_ID: Json = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TOKENS: Json = {"type": "integer", "minimum": 0}
_MILLISECONDS: Json = {"type": "number", "minimum": 0}
_DOLLARS: Json = {"type": "number", "minimum": 0}


def components(
    settings: Settings, model: Model, openai: DialectErrors, ziri: DialectErrors, more_schemas: Json
) -> Json:
    """The `components` of the document.

    more_schemas: of the administration API, the smaller dialects and the other kinds of requests, by name.
    """
    return {
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": f"`Authorization: Bearer {settings.keys.prefix}_…`, on the OpenAI routes and those of "
                "administration. The access token of a login, `egs_…`, works on the latter.",
            },
            "apiKey": {
                "type": "apiKey",
                "in": "header",
                "name": "X-API-Key",
                "description": f"`X-API-Key: {settings.keys.prefix}_…`, on all routes that ask for a key.",
            },
        },
        "headers": _headers(),
        "schemas": {
            "EmbeddingsRequest": openai_request(model),
            "ZiriEmbeddingsRequest": _ziri_request(model),
            "Input": _input(settings.limits),
            "EmbeddingList": _embedding_list(text_of("Id of the model that made the vectors.")),
            "ZiriEmbeddingList": _ziri_embedding_list(),
            "Embedding": _embedding(),
            "Usage": _usage(),
            **struct_schemas([ListedModels, Generation]),
            "Health": object_of(status=_constant("ok")),
            "Ready": _readiness(status=_constant("ready")),
            "NotReady": _readiness(
                status=_constant("not ready"), missing=list_of({"type": "string"}, "What is missing, in words.")
            ),
            "Document": {"type": "object", "description": "An OpenAPI 3.1 document.", "required": ["openapi", "paths"]},
            "Error": _openai_error(openai),
            "ZiriError": _ziri_error(ziri),
            **more_schemas,
        },
    }


def _readiness(**properties: object) -> Json:
    """Schema of a readiness, which also names the bounds that are reached, if any is."""
    reached = list_of({"type": "string"}, "Bounds that are reached now: `connections`, `memory`.")
    return {**object_of(**properties), "properties": {**properties, "reached": reached}}


def object_of(**properties: object) -> Json:
    """Schema of an object with all of these fields required."""
    return {"type": "object", "required": list(properties), "properties": properties}


def text_of(description: str, **more: object) -> Json:
    """Schema of a text."""
    return {"type": "string", "description": description, **more}


def _constant(value: str) -> Json:
    return {"type": "string", "const": value}


def list_of(items: Json, description: str, **more: object) -> Json:
    """Schema of a list."""
    return {"type": "array", "items": items, "description": description, **more}


def _input(limits: LimitSettings) -> Json:
    text: Json = {"type": "string", "minLength": 1}
    token_ids: Json = {"type": "array", "items": _TOKEN_ID, "minItems": 1, "maxItems": limits.max_tokens}
    return {
        "description": f"What to embed: a text, a list of texts, the `cl100k_base` token ids of one text, or a list of "
        f"such lists. At most {limits.max_inputs:,} inputs and {limits.max_tokens:,} tokens in all, none empty, none "
        "longer than the model takes.",
        "oneOf": [
            text,
            {"type": "array", "items": text, "minItems": 1, "maxItems": limits.max_inputs},
            token_ids,
            {"type": "array", "items": token_ids, "minItems": 1, "maxItems": limits.max_inputs},
        ],
    }


def _shared_options() -> Json:
    return {
        "dimensions": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "Length of the vectors, for models that can be shortened. Absent: the model's own.",
        },
        "encoding_format": {
            "type": ["string", "null"],
            "enum": [*ENCODING_FORMATS, None],
            "default": "float",
            "description": "`float` for lists of numbers, `base64` for the bytes of little-endian float32. The others "
            "are rounded here, for models compared at unit length: `int8` is each number times 127, `uint8` that plus "
            "128; `ubinary` has a bit for each sign, eight to a number from 0 to 255, the first the highest, and "
            "`binary` is that minus 128.",
        },
        "input_type": {
            "type": ["string", "null"],
            "enum": [*INPUT_TYPES, None],
            "description": "What the texts are for, where a model embeds questions and documents differently.",
        },
        "truncate": {
            "type": ["string", "null"],
            "enum": [*TRUNCATES, None],
            "default": "none",
            "description": "Where to cut an input that is too long; `none` refuses it. The header "
            "`x-embedgate-truncated` says which were cut.",
        },
        "user": {
            "type": ["string", "null"],
            "maxLength": MAX_USER_BYTES,
            "description": "Whom you serve: kept in the ledger beside your key, and passed to providers that take it. "
            f"At most {MAX_USER_BYTES} bytes.",
        },
        "cache": {
            "type": ["string", "null"],
            "enum": [*CACHE_USES, None],
            "default": "store",
            "description": "`store` reads and fills the cache; `no-store` does neither.",
        },
    }


def openai_request(model: Model) -> Json:
    """Schema of an embeddings request of the OpenAI API."""
    return {
        "type": "object",
        "required": ["model", "input"],
        "properties": openai_properties(model),
        "additionalProperties": True,
        "description": "An optional field that is null counts as absent. Fields that are not listed go to providers "
        "that take them, and are refused by name otherwise.",
        "examples": [{"model": model.id, "input": EXAMPLE_INPUT}],
    }


def openai_properties(model: Model) -> Json:
    """The fields of an embeddings request of the OpenAI API."""
    return {
        "model": text_of(
            "Id of the model, `author/name`. A bare name is enough where only one model has it; "
            "`author/name:provider` asks that provider only.",
            minLength=1,
            examples=[model.id],
        ),
        "input": {"$ref": "#/components/schemas/Input"},
        **_shared_options(),
        "provider": steering(
            "A model to ask when no provider of the first one could answer. It must make vectors of the same "
            "space, unless `allow_space_change` is true."
        ),
        "allow_space_change": {
            "type": ["boolean", "null"],
            "default": False,
            "description": "Permits a fallback whose vectors cannot be compared with those of `model`.",
        },
    }


def steering(fallback: str) -> Json:
    """Schema of the field `provider`, which steers a request. fallback: description of that field."""
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "description": "Steers this one request.",
        "properties": {"routing": _routing(), "fallback": {"type": ["string", "null"], "description": fallback}},
    }


def _routing() -> Json:
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "required": ["type"],
        "description": "Which providers to try, and in which order.",
        "properties": {
            "type": {
                "type": "string",
                "enum": ["order", "priority"],
                "description": "`order` follows `providers`; `priority` the best by `primary_factor`.",
            },
            "providers": list_of({"type": "string"}, "Names of providers, best first; for `order`."),
            "primary_factor": {
                "type": ["string", "null"],
                "enum": ["latency", "price", "throughput", "weight", None],
                "description": "For `priority`: what counts. `price` if absent; `latency` and `throughput` are those "
                "of the last calls; `weight` draws by the weights of the settings.",
            },
        },
        "if": {"properties": {"type": {"const": "order"}}},
        "then": {"required": ["providers"], "properties": {"providers": {"minItems": 1}}},
    }


def _ziri_request(model: Model) -> Json:
    route = model.routes[0]
    return {
        "type": "object",
        "required": ["provider", "model", "input"],
        "properties": {
            "provider": text_of(
                "The provider to ask; `local` is this gateway itself.", minLength=1, examples=[route.provider]
            ),
            "model": text_of("What the provider calls the model.", minLength=1, examples=[route.upstream_model]),
            "input": {"$ref": "#/components/schemas/Input"},
            **_shared_options(),
            "isEmergency": EMERGENCY,
        },
        "additionalProperties": True,
        "description": "An optional field that is null counts as absent. Fields that are not listed go to the provider "
        "if it takes them, and are refused by name otherwise.",
        "examples": [{"provider": route.provider, "model": route.upstream_model, "input": EXAMPLE_INPUT}],
    }


def _embedding_list(model: Json, **more: object) -> Json:
    return object_of(
        object=_constant("list"),
        data=list_of({"$ref": "#/components/schemas/Embedding"}, "One for each input, in the order of the request."),
        model=model,
        usage={"$ref": "#/components/schemas/Usage"},
        **more,
    )


def _ziri_embedding_list() -> Json:
    cost = meta(
        {**TOKENS, "const": 0, "description": "Embeddings have none."},
        "Of the input, tokens that cost nothing: see `x-embedgate-cached-tokens`.",
    )
    return _embedding_list(text_of("Bare name of the model that made the vectors."), _meta=cost)


def meta(output_tokens: Json, cached_tokens: str) -> Json:
    """Schema of `_meta` in answers of the ZIRI API. cached_tokens: their description."""
    cost = object_of(
        actual={**_DOLLARS, "description": "Cost in dollars."},
        inputTokens={**TOKENS, "description": "Tokens of the input."},
        outputTokens=output_tokens,
        cachedTokens={**TOKENS, "description": cached_tokens},
        totalCost={**_DOLLARS, "description": "The same as `actual`."},
    )
    timing = object_of(
        totalMs={**_MILLISECONDS, "description": "In all."},
        authMs={**_MILLISECONDS, "description": "Until the key was known."},
        llmMs={**_MILLISECONDS, "description": "At the provider, all its calls together."},
    )
    found = object_of(requestId=text_of("The id in `x-request-id`."), cost=cost, timing=timing)
    return {**found, "description": "What the request cost and how long it took."}


def _embedding() -> Json:
    vector: Json = {
        "description": "The vector, in the `encoding_format` asked for.",
        "oneOf": [
            {"type": "array", "items": {"type": "number"}, "minItems": 1, "description": "Whole numbers, if rounded."},
            {"type": "string", "contentEncoding": "base64", "minLength": 1},
        ],
    }
    index = {"type": "integer", "minimum": 0, "description": "Position of its input in the request."}
    return object_of(object=_constant("embedding"), index=index, embedding=vector)


def _usage() -> Json:
    return object_of(
        prompt_tokens={**TOKENS, "description": "Tokens of all inputs, kept or embedded now."},
        total_tokens={**TOKENS, "description": "The same: embeddings have no output tokens."},
    )


def _openai_error(errors: DialectErrors) -> Json:
    fault = object_of(
        message=text_of("What is wrong: the value seen, the value allowed, the next step."),
        type=text_of("The family of the error.", enum=errors.types()),
        param={"type": ["string", "null"], "description": "The field at fault, if it is one."},
        code=text_of("Which error it is; stable.", enum=errors.codes()),
    )
    return object_of(error=fault)


def _ziri_error(errors: DialectErrors) -> Json:
    always: Json = {
        "error": text_of("What is wrong: the value seen, the value allowed, the next step."),
        "code": text_of("Which error it is; stable.", enum=errors.codes()),
        "requestId": text_of("The id in `x-request-id`."),
    }
    at_times: Json = {
        "reason": text_of("With `AUTHORIZATION_DENIED`: what forbids it."),
        "retryAfter": {"type": "integer", "minimum": 1, "description": "Seconds to wait, where waiting helps."},
        "resetAt": {"type": "string", "format": "date-time", "description": "When to try again."},
        "mistakes": list_of({"$ref": "#/components/schemas/Mistake"}, "With `INVALID_POLICY`: all that is wrong."),
    }
    return {"type": "object", "required": list(always), "properties": {**always, **at_times}}


def _headers() -> Json:
    count, number, seconds = r"^(Infinity|\d+)$", r"^\d+$", r"^\d+(\.\d+)?s$"
    return {
        "x-request-id": _header("Id of this request, in the log and the ledger too.", r"^req_[0-9a-f]{32}$"),
        "x-ratelimit-limit-requests": _header("Requests allowed per minute, where there is a limit.", number, False),
        "x-ratelimit-remaining-requests": _header("Requests left in this minute.", number, False),
        "x-ratelimit-reset-requests": _header("Time until the number of requests is full again.", seconds, False),
        "x-ratelimit-limit-tokens": _header("Tokens allowed per minute, where there is a limit.", number, False),
        "x-ratelimit-remaining-tokens": _header("Tokens left in this minute.", number, False),
        "x-ratelimit-reset-tokens": _header("Time until the number of tokens is full again.", seconds, False),
        "x-ratelimit-limit": _header("Requests allowed per minute; `Infinity` without a limit.", count),
        "x-ratelimit-remaining": _header("Requests left in this minute.", count),
        "x-ratelimit-reset": _header("When the number is full again, in unix seconds.", r"^\d+$"),
        "x-embedgate-cost-usd": _header(
            "What the request cost, in dollars, exactly. A stream has none: it begins before that is known.",
            r"^\d+\.\d+$",
            False,
        ),
        "x-embedgate-cached-tokens": _header(
            "Tokens that are in the usage and not in the cost: of texts from the cache or from another request's call. "
            "Of a chat: those that the provider had cached, and bills at a lower price.",
            r"^\d+$",
            False,
        ),
        "x-embedgate-model": _header("Id of the model that answered a chat.", r"^[^/:\s]+/[^:\s]+$"),
        "x-accel-buffering": _header("With a stream: proxies must not buffer it.", r"^no$", False),
        "x-embedgate-provider": _header("The provider that served the request.", r"^[a-z0-9][a-z0-9._-]*$"),
        "x-embedgate-usage": _header("Present when the tokens are an estimate.", r"^estimated$", False),
        "x-embedgate-truncated": _header(
            "Positions of the inputs that were cut, when some were; of many, ranges, and at last how many more.",
            r"^\d+(-\d+)?(,\d+(-\d+)?)*( and \d+ more)?$",
            False,
        ),
        "retry-after": _header("Seconds to wait before the next try, where waiting helps.", r"^[1-9]\d*$", False),
        "x-should-retry": _header("`false` where the same request would fail again.", r"^false$", False),
        "cache-control": _header("No proxy may store the answer: it may hold a secret.", r"^no-store$"),
        "allow": _header("The methods that the path takes.", r"^[A-Z]+(, [A-Z]+)*$", False),
        "content-security-policy": _header("The page may use its own style sheet and nothing else.", r"^default-src "),
    }


def _header(description: str, pattern: str, is_always_there: bool = True) -> Json:
    return {
        "description": description,
        "required": is_always_there,
        "schema": {"type": "string", "pattern": pattern},
    }
