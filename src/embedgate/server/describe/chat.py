"""Chat completions in the OpenAPI document: request schemas, and answers, which are the provider's own.

Headers and examples come from the dialects, so that they cannot drift from the code.
"""

from collections.abc import AsyncGenerator, Callable

import orjson

from embedgate.core.chat import EVENT_STREAM, ChatResult, ChatStream
from embedgate.core.errors import (
    GatewayError,
    InputTooLong,
    InvalidDimension,
    InvalidInput,
    MethodNotAllowed,
    NotAnEmbeddingModel,
    NotFound,
    TooManyTokens,
    UnknownEntity,
    UpstreamTooLarge,
)
from embedgate.core.types import Timing, Usage
from embedgate.server.answer import Answer
from embedgate.server.chat_body import MAX_CHOICES, MAX_OUTPUT_TOKENS
from embedgate.server.describe.errors import REQUEST_ID, DialectErrors, Json, header_names, header_references
from embedgate.server.describe.schemas import EMERGENCY, TOKENS, meta, steering
from embedgate.server.fields import CACHE_USES, MAX_USER_BYTES

CHAT_MODEL = "openai/gpt-4o-mini"
"""The one in the examples."""
_MESSAGES: list[object] = [{"role": "user", "content": "Who sat on the mat?"}]
_NOT_OF_CHATS = (
    NotFound,
    MethodNotAllowed,
    UnknownEntity,
    InvalidInput,
    InputTooLong,
    TooManyTokens,
    InvalidDimension,
    NotAnEmbeddingModel,
    UpstreamTooLarge,
)
_COMPLETION: Json = {
    "id": "chatcmpl-7Qy1",
    "object": "chat.completion",
    "created": 1_795_253_400,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "A cat."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 13, "completion_tokens": 3, "total_tokens": 16},
}
_EVENTS = (
    b'data: {"id":"chatcmpl-7Qy1","object":"chat.completion.chunk","created":1795253400,"model":"gpt-4o-mini",'
    b'"choices":[{"index":0,"delta":{"content":"A cat."},"finish_reason":null}]}\n\ndata: [DONE]\n\n'
)


def chat_responses(
    write: Callable[[ChatResult | ChatStream, str], Answer], schema: str, errors: DialectErrors
) -> dict[str, Json]:
    """The responses of a completion. write: of the dialect. schema: name of the schema of a whole answer."""
    whole, stream = write(_result(), REQUEST_ID), write(_stream(), REQUEST_ID)
    content: Json = {
        "application/json": {
            "schema": {"$ref": f"#/components/schemas/{schema}"},
            "example": orjson.loads(whole.body),
        },
        EVENT_STREAM: {"schema": {"type": "string"}, "example": _EVENTS.decode()},
    }
    answered: Json = {
        "description": "What the provider sent, byte for byte; with `stream`, as it comes. A stream that breaks off "
        "has the error as its last event, in the shape of the other errors.",
        "headers": header_references([*header_names(whole), *header_names(stream)]),
        "content": content,
    }
    return {"200": answered, **errors.responses(GatewayError, without=_NOT_OF_CHATS)}


def chat_schemas() -> Json:
    """Schemas of requests and answers by name."""
    steers = steering("A model to ask when no provider of the first one could answer: any chat model.")
    cost = meta(
        {**TOKENS, "description": "Tokens that the model wrote."},
        "Input tokens that the provider had cached and bills at a lower price.",
    )
    model: Json = {"type": "string", "minLength": 1, "description": "Id of a chat model, as in other requests."}
    named: Json = {"type": "string", "minLength": 1, "description": "What the provider calls the model."}
    provider: Json = {"type": "string", "minLength": 1, "description": "The provider to ask."}
    chat: Json = {"model": CHAT_MODEL, "messages": _MESSAGES}
    ziri_chat: Json = {"provider": "openai", "model": "gpt-4o-mini", "messages": _MESSAGES}
    return {
        "ChatRequest": _request({"model": model, "provider": steers}, ["model", "messages"], chat),
        "ZiriChatRequest": _request(
            {"provider": provider, "model": named, "isEmergency": EMERGENCY},
            ["provider", "model", "messages"],
            ziri_chat,
        ),
        "DeploymentChatRequest": _request(
            {
                "model": {"type": ["string", "null"], "description": "Of no effect: the path names the model."},
                "provider": steers,
            },
            ["messages"],
            {"messages": _MESSAGES},
        ),
        "ChatMessage": {
            "type": "object",
            "required": ["role"],
            "properties": {"role": {"type": "string"}, "content": {"description": "What is said: text, or parts."}},
            "additionalProperties": True,
            "description": "A message in the format of OpenAI's API. The provider reads it, and the gateway does not.",
        },
        "ChatCompletion": _completion({}),
        "ZiriChatCompletion": _completion({"_meta": cost}),
    }


def _request(first: Json, required: list[str], example: Json) -> Json:
    return {
        "type": "object",
        "required": required,
        "properties": {
            **first,
            "messages": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/ChatMessage"},
                "minItems": 1,
                "description": "The conversation so far.",
            },
            "stream": {
                "type": ["boolean", "null"],
                "default": False,
                "description": "Whether to answer with server-sent events, as the model writes.",
            },
            "stream_options": {
                "type": ["object", "null"],
                "properties": {
                    "include_usage": {
                        "type": ["boolean", "null"],
                        "description": "Whether a last event gives the count of tokens.",
                    }
                },
                "additionalProperties": True,
                "description": "How to stream.",
            },
            **{name: _most(MAX_OUTPUT_TOKENS, text) for name, text in _MOST_TOKENS.items()},
            "n": _most(MAX_CHOICES, "How many answers to write."),
            "user": {
                "type": ["string", "null"],
                "maxLength": MAX_USER_BYTES,
                "description": f"Whom you serve: kept in the ledger, and passed on. At most {MAX_USER_BYTES} bytes.",
            },
            "cache": {
                "type": ["string", "null"],
                "enum": [*CACHE_USES, None],
                "description": "Taken as in other requests; no answer is ever kept.",
            },
            "allow_space_change": {
                "type": ["boolean", "null"],
                "description": "Taken as in other requests; a chat model has no vector space.",
            },
        },
        "additionalProperties": True,
        "description": "An optional field that is null counts as absent. Fields that are not listed, such as `tools` "
        "or `temperature`, go to the provider as they are.",
        "examples": [example],
    }


_MOST_TOKENS = {
    "max_tokens": "The older name of `max_completion_tokens`.",
    "max_completion_tokens": "How many tokens the model may write for each answer. Without it, the price of all that "
    "the model can write is held from your budget until the answer is complete.",
}


def _most(maximum: int, description: str) -> Json:
    return {"type": ["integer", "null"], "minimum": 1, "maximum": maximum, "description": description}


def _completion(more: Json) -> Json:
    return {
        "type": "object",
        "required": ["choices", *more],
        "properties": {
            "choices": {"type": "array", "items": {"type": "object"}, "description": "The answers."},
            "usage": {"type": "object", "description": "The tokens, as the provider counts them."},
            **more,
        },
        "additionalProperties": True,
        "description": "A completion in the format of OpenAI's API, with every field that the provider gives it.",
    }


def _result() -> ChatResult:
    """A whole answer for which a dialect sends every header."""
    return ChatResult(
        model=CHAT_MODEL,
        provider="openai",
        content_type="application/json",
        body=orjson.dumps(_COMPLETION),
        usage=Usage(13, is_estimated=True, output_tokens=3),
        cached_tokens=0,
        cost_picodollars=3_750_000,
        timing=Timing(total_ms=412.6, authenticate_ms=0.031, upstream_ms=411.9),
    )


def _stream() -> ChatStream:
    async def events() -> AsyncGenerator[bytes, None]:
        yield _EVENTS

    result = _result()
    return ChatStream(result.model, result.provider, EVENT_STREAM, events())
