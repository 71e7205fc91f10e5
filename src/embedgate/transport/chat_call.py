"""The call of a chat completion: the caller's fields as they came, and the few that are ours. Pure."""

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
"""The fields with texts that no message may show, however short. Of the others, they are those that are no names."""
_NAME = re.compile(r"[!-~]{1,64}")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_TERMS = frozenset({"role", "type", "id", "tool_call_id", "name", "detail", "format"})
"""Fields of a message that hold terms of the API, or names without which an error message helps nobody."""


def asks_usage(request: ChatRequest, chat: Chat) -> bool:
    """Whether we ask for the event that counts tokens: the host can be asked, and the caller has not."""
    options = request.fields.get("stream_options", b"null")
    # Anything else is a mistake, and the host's to refuse.
    has_room = options.startswith(b"{") or options == b"null"
    return request.is_stream and chat.asks_usage and not request.wants_usage and has_room


def build_chat(request: ChatRequest, route: Route, chat: Chat) -> HttpCall:
    """One call for one completion. A field of the caller's cannot take the place of one of ours."""
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
    path = chat.path.replace("{model}", urllib.parse.quote(model, safe=""))
    return HttpCall("POST", path, encode(body), headers, chat.key_header, chat.key_prefix)


def texts_of(request: ChatRequest) -> tuple[str, ...]:
    """What a caller has written, which no message may show. Costs a parse, so it is for failed calls only."""
    return tuple(
        text
        for name, raw in request.fields.items()
        for text in _texts(raw)
        if name in _CALLERS_WORDS or not _NAME.fullmatch(text)
    )


def _open(body: dict[str, Any], request: ChatRequest, name: str) -> None:
    """Make room for a field of ours that goes into an object of the caller's."""
    outer, dot, _ = name.partition(".")
    if dot and outer in request.fields and not isinstance(body[outer], dict):
        found = orjson.loads(request.fields[outer])
        body[outer] = found if isinstance(found, dict) else {}


def _texts(raw: bytes) -> Iterator[str]:
    try:
        pending = [orjson.loads(raw)]
    except orjson.JSONDecodeError:  # nested deeper than any message, so that its names are taken for texts, too
        pending = [orjson.loads(text) for text in _STRING.findall(raw)]
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            pending += [value for name, value in node.items() if name not in _TERMS]
