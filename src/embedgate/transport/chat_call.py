"""HTTP call of a chat completion: the caller's fields unchanged, and the few of the gateway. Pure."""

import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import orjson

from embedgate.core.models import Route
from embedgate.core.types import ChatRequest
from embedgate.transport.bodies import encode, put
from embedgate.transport.records import Chat, HttpCall

_CALLERS_WORDS = ("messages", "prediction", "metadata", "user", "safety_identifier")
"""Fields whose texts no message may show, however short. Of other fields, texts that look like names may be shown."""
_NAME = re.compile(r"[!-~]{1,64}")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_TERMS = frozenset({"role", "type", "id", "tool_call_id", "name", "detail", "format"})
"""Fields of a message that hold terms of the API, or names that an error message needs."""


def asks_usage(request: ChatRequest, chat: Chat) -> bool:
    """Whether the gateway asks for the usage event: the host supports it, and the caller has not asked."""
    options = request.fields.get("stream_options", b"null")
    # The host refuses anything else.
    has_room = options.startswith(b"{") or options == b"null"
    return request.is_stream and chat.asks_usage and not request.wants_usage and has_room


def build_chat(request: ChatRequest, route: Route, chat: Chat) -> HttpCall:
    """One call for one completion. Fields of the gateway override those of the caller."""
    model = route.upstream_model if "/" in route.upstream_model else chat.model_prefix + route.upstream_model
    body: dict[str, Any] = {name: orjson.Fragment(raw) for name, raw in request.fields.items()}
    ours = dict(route.required_params)
    if asks_usage(request, chat):
        ours["stream_options.include_usage"] = True
    for name, value in ours.items():
        _open(body, request, name)
        put(body, name, value)
    body["model"] = model
    # Compressed, pieces would wait for each other.
    headers = {"accept-encoding": "identity"} if request.is_stream else {}
    path = chat.path
    if "{model}" in path:
        path = path.replace("{model}", urllib.parse.quote(model, safe=""))
    return HttpCall("POST", path, encode(body), headers, chat.key_header, chat.key_prefix)


def texts_of(request: ChatRequest) -> tuple[str, ...]:
    """The texts of the caller, which no message may show. Parses them, so it is for failed calls only."""
    return tuple(
        text
        for name, raw in request.fields.items()
        for text in _texts(raw)
        if name in _CALLERS_WORDS or not _NAME.fullmatch(text)
    )


def _open(body: dict[str, Any], request: ChatRequest, name: str) -> None:
    """Decode an object of the caller into which a field of the gateway goes."""
    outer, dot, _ = name.partition(".")
    if dot and outer in request.fields and not isinstance(body[outer], dict):
        found = orjson.loads(request.fields[outer])
        body[outer] = found if isinstance(found, dict) else {}


def _texts(raw: bytes) -> Iterator[str]:
    try:
        pending = [orjson.loads(raw)]
    except orjson.JSONDecodeError:  # nested too deeply to parse: names count as texts, too
        pending = [orjson.loads(text) for text in _STRING.findall(raw)]
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            pending += [value for name, value in node.items() if name not in _TERMS]
