"""Reads the JSON of a chat completion: usage, length of the output, errors. Pure.

One reader for all hosts: they differ only in where they put usage. What is read here is never passed on.
"""

import msgspec

from embedgate.core.types import ChatUsage
from embedgate.transport.replies import read_count, read_object

_NULL = msgspec.Raw(b"null")


class _Function(msgspec.Struct, gc=False):
    name: msgspec.Raw = _NULL
    arguments: msgspec.Raw = _NULL


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Message(msgspec.Struct):
    """Output of a model. Thoughts are `reasoning_content` (DeepSeek, xAI, DashScope) or `reasoning` (OpenRouter)."""

    content: msgspec.Raw = _NULL
    reasoning_content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL
    refusal: msgspec.Raw = _NULL
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    """`delta` in a stream, `message` in a whole answer. Moonshot reports usage here."""

    delta: _Message | None = None
    message: _Message | None = None
    usage: msgspec.Raw = _NULL
    finish_reason: msgspec.Raw = _NULL


class _Groq(msgspec.Struct):
    usage: msgspec.Raw = _NULL


class _Completion(msgspec.Struct):
    """The fields that are read of a whole answer, or of one event of a stream; everything else is skipped."""

    object: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _NULL
    x_groq: _Groq | None = None


class _OddCompletion(msgspec.Struct):
    """The same fields without the choices, for answers whose choices have another shape."""

    object: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    usage: msgspec.Raw = _NULL


class Said(msgspec.Struct, frozen=True, gc=False):
    """Content of one JSON object. `written_bytes` are of text, thoughts and arguments, in UTF-8.

    `is_usage_only`: it reports usage and holds no output. `is_error`: it reports a failure. `has_choices`: it is of a
    completion, and not something in its place. `is_finished`: it says why the model stopped.
    """

    usage: ChatUsage | None = None
    written_bytes: int = 0
    is_usage_only: bool = False
    is_error: bool = False
    has_choices: bool = True
    is_finished: bool = False


_COMPLETION = msgspec.json.Decoder(_Completion)
_ODD_COMPLETION = msgspec.json.Decoder(_OddCompletion)
_TEXT = msgspec.json.Decoder(str)
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_completion(data: bytes) -> Said | None:
    """Read one JSON object; None if it is none. Of an unknown shape, all of it counts as written. Never raises."""
    try:
        completion = _COMPLETION.decode(data)
    except msgspec.ValidationError:
        return _read_odd(data)
    except _NOT_JSON:
        return None
    choices = completion.choices or ()
    counts = [completion.usage, *(choice.usage for choice in choices)]
    if completion.x_groq is not None:
        counts.append(completion.x_groq.usage)
    usage = next((found for raw in counts if (found := _usage(raw)) is not None), None)
    return Said(
        usage=usage,
        written_bytes=sum(map(_written_bytes, choices)),
        is_usage_only=not choices and bytes(completion.usage).startswith(b"{"),
        is_error=_is_error(completion),
        has_choices=completion.choices is not None,
        is_finished=any(bytes(choice.finish_reason) != b"null" for choice in choices),
    )


def _read_odd(data: bytes) -> Said | None:
    try:
        completion = _ODD_COMPLETION.decode(data)
    except _NOT_JSON:
        return None
    return Said(_usage(completion.usage), len(data), is_error=_is_error(completion))


def _is_error(completion: _Completion | _OddCompletion) -> bool:
    error = bytes(completion.error)
    return (error.startswith((b"{", b'"')) and len(error) > len(b"{}")) or bytes(completion.object) == b'"error"'


def _usage(raw: msgspec.Raw) -> ChatUsage | None:
    """Usage, if complete. Some hosts send a part of it first, or zeros where they have not counted.

    Cached tokens are in the details, or beside the others at DeepSeek and Moonshot.
    """
    if not bytes(raw).startswith(b"{"):
        return None
    told = read_object(raw)
    read, written, total = (
        read_count(told.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    if read is None or (written is None and total is None):
        return None
    # xAI and Gemini count thoughts in the total only, and bill them like the rest of the answer.
    output_tokens = max(written or 0, (total or 0) - read)
    if read == 0 and output_tokens == 0:
        return None
    details = told.get("prompt_tokens_details")
    cached = [details.get("cached_tokens")] if isinstance(details, dict) else []
    cached += [told.get("prompt_cache_hit_tokens"), told.get("cached_tokens")]
    cached_tokens = next((count for count in map(read_count, cached) if count is not None), 0)
    return ChatUsage(read, output_tokens, min(cached_tokens, read))


def _written_bytes(choice: _Choice) -> int:
    written = 0
    for message in (choice.delta, choice.message):
        if message is None:
            continue
        texts = [message.content, message.reasoning_content, message.reasoning, message.refusal]
        functions = [call.function for call in message.tool_calls or ()] + [message.function_call]
        for function in functions:
            if function is not None:
                texts += (function.name, function.arguments)
        written += sum(map(_text_bytes, texts))
    return written


def _text_bytes(raw: msgspec.Raw) -> int:
    """Length of a text in UTF-8; of a list of parts, that of its JSON; 0 for null."""
    text = bytes(raw)
    if not text.startswith(b'"'):
        return 0 if text == b"null" else len(text)
    if b"\\" not in text:
        return len(text) - 2
    return len(_TEXT.decode(text).encode())
