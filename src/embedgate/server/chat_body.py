"""Reader of chat completion bodies, for both dialects. Most fields are passed through unchanged.

Owns the checks before a provider is called, and the count of bytes that a model will read. Knows no dialect.
"""

import msgspec

from embedgate.core.errors import MalformedRequest
from embedgate.core.types import ChatRequest, Routing
from embedgate.engine.chat.weigh import READ_FIELDS
from embedgate.server.fields import CACHE_USES, Fields
from embedgate.server.large_json import check_utf8

MAX_OUTPUT_TOKENS = 10_000_000
MAX_CHOICES = 128
_TEXT_PARTS = frozenset({"text", "refusal"})


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Part(msgspec.Struct):
    type: str


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_messages = msgspec.json.Decoder(list[_Message])
_parts = msgspec.json.Decoder(list[_Part])
_raw_parts = msgspec.json.Decoder(list[msgspec.Raw])


def open_chat(body: bytes) -> Fields:
    """The fields of a body. Raises MalformedRequest if it is not one JSON object, entirely in UTF-8."""
    try:
        check_utf8(body)  # also in the fields that are passed through
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"The body is not valid UTF-8 at byte {error.start}.") from error
    return Fields(body)


def chat_request(
    fields: Fields,
    model: str,
    provider: str | None,
    routing: Routing | None = None,
    fallback_model: str | None = None,
    *,
    is_emergency: bool = False,
) -> ChatRequest:
    """The request of a body from which the dialect has taken its own fields.

    Raises a RequestError that names the field, the value seen and the value allowed.
    """
    # Chats are not cached and have no vector space: these fields are dropped.
    fields.choice("cache", CACHE_USES)
    fields.flag("allow_space_change")
    options = fields.peek("stream_options", _StreamOptions, "an object")
    most = [_number(fields, name, MAX_OUTPUT_TOKENS) for name in ("max_tokens", "max_completion_tokens")]
    written = fields.rest()
    n_messages, n_media, media_bytes = _read_messages(written["messages"])
    return ChatRequest(
        model=model,
        fields=written,
        n_items=n_messages,
        text_bytes=sum(len(written.get(name, b"")) for name in READ_FIELDS) - media_bytes,
        is_stream=fields.peek("stream", bool, "true or false") or False,
        wants_usage=bool(options and options.include_usage),
        max_output_tokens=max((tokens for tokens in most if tokens is not None), default=None),
        n_choices=_number(fields, "n", MAX_CHOICES) or 1,
        user=fields.user(stays=True),
        provider=provider,
        routing=routing,
        fallback_model=fallback_model,
        n_media=n_media,
        is_emergency=is_emergency,
    )


def _number(fields: Fields, name: str, most: int) -> int | None:
    value = fields.whole(name, stays=True)
    if value is not None and not 1 <= value <= most:
        raise MalformedRequest(f"{name} is {str(value)[:50]}; it can be 1 to {most}.", param=name)
    return value


def _read_messages(raw: bytes) -> tuple[int, int, int]:
    """Number of messages, number of media parts in them, and the bytes of the media parts.

    Raises MalformedRequest unless it is a non-empty list of objects with a role.
    """
    try:
        messages = _messages.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(
            f"messages must be a list of objects, each with a role and a content; {error}.", param="messages"
        ) from error
    if not messages:
        raise MalformedRequest("messages is empty; send at least one message.", param="messages")
    n_media = media_bytes = 0
    for message in messages:
        if memoryview(message.content)[0] == ord("["):
            sizes = _media_bytes(bytes(message.content))
            n_media += len(sizes)
            media_bytes += sum(sizes)
    return len(messages), n_media, media_bytes


def _media_bytes(content: bytes) -> list[int]:
    """Bytes of each non-text part of a message. Any other shape counts as text."""
    try:
        kinds = [part.type for part in _parts.decode(content)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    if _TEXT_PARTS.issuperset(kinds):
        return []
    raw = _raw_parts.decode(content)
    return [len(bytes(part)) for part, kind in zip(raw, kinds, strict=True) if kind not in _TEXT_PARTS]
