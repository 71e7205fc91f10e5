"""What a chat body must have is read and checked; everything else travels on as it was written."""

import json
from typing import Any

import pytest

from embedgate.catalog import Catalog
from embedgate.core.errors import GatewayError, MalformedRequest, MissingFields, UnsupportedOption
from embedgate.core.types import ChatRequest, Routing
from embedgate.server.dialects import openai, ziri

MODEL = "openai/gpt-4o-mini"
HELLO = {"role": "user", "content": "Hello"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000}}
SPLIT = Catalog.builtin().parse_model_name


def read(**changes: Any) -> ChatRequest:
    return openai.read_chat(json.dumps({"model": MODEL, "messages": [HELLO]} | changes).encode(), SPLIT)


def test_what_the_caller_wrote_travels_on_byte_for_byte() -> None:
    tools = b'[ {"type":"function", "function":{"name":"f","parameters":{"b":1.0,  "a":1e2}}} ]'
    messages = '[{"role":"user","content":"caf\\u00e9 \u65e5"},\n {"role":"tool","x":null,"content":null}]'.encode()
    body = b'{"model":"%s","messages":%s,"tools":%s,"seed":12345678901234567890,"stop":null,"\\u006eew":{"a":[]}}'
    asked = openai.read_chat(body % (MODEL.encode(), messages, tools), SPLIT)
    assert asked.fields == {
        "messages": messages,
        "tools": tools,
        "seed": b"12345678901234567890",
        "new": b'{"a":[]}',
    }
    assert (asked.model, asked.n_items, asked.text_bytes) == (MODEL, 2, len(messages) + len(tools))


def test_what_is_needed_of_it_is_read_and_left_in_place() -> None:
    asked = read(stream=True, stream_options={"include_usage": True}, max_tokens=7, max_completion_tokens=9, n=3)
    assert (asked.is_stream, asked.wants_usage, asked.max_output_tokens, asked.n_choices) == (True, True, 9, 3)
    assert {"stream", "stream_options", "max_tokens", "max_completion_tokens", "n"} <= asked.fields.keys()
    asked = read(stream=None, n=None, user="customer 7", stream_options={"include_obfuscation": False})
    assert (asked.is_stream, asked.wants_usage, asked.max_output_tokens, asked.n_choices) == (False, False, None, 1)
    assert (asked.user, asked.fields["user"]) == ("customer 7", b'"customer 7"')


def test_what_steers_the_gateway_is_taken_out() -> None:
    asked = read(
        model="openai/gpt-4o:openai",
        provider={"routing": {"type": "order", "providers": ["openai"]}, "fallback": "openai/gpt-5"},
        cache="no-store",
        allow_space_change=True,
    )
    assert (asked.model, asked.provider) == ("openai/gpt-4o", "openai")
    assert (asked.routing, asked.fallback_model) == (Routing(order=("openai",)), "openai/gpt-5")
    assert asked.fields.keys() == {"messages"}


def test_the_ziri_body_names_its_provider() -> None:
    body = {"provider": "openai", "model": "gpt-4o", "messages": [HELLO], "temperature": 0.5}
    asked = ziri.read_chat(json.dumps(body).encode(), SPLIT)
    assert (asked.provider, asked.model) == ("openai", "gpt-4o")
    assert asked.fields.keys() == {"messages", "temperature"}
    for name in ("provider", "model", "messages"):
        with pytest.raises(MissingFields, match="provider, model, and messages are required"):
            ziri.read_chat(json.dumps(body | {name: None}).encode(), SPLIT)


def test_pictures_are_counted_and_are_no_text() -> None:
    text = {"type": "text", "text": "What is this?"}
    asked = read(messages=[HELLO, {"role": "user", "content": [text, PICTURE, PICTURE]}])
    assert asked.n_media == 2
    assert asked.text_bytes == len(asked.fields["messages"]) - 2 * len(json.dumps(PICTURE))
    for content in ([text], ["odd"], [], 5, {"odd": 1}, None):
        asked = read(messages=[{"role": "user", "content": content}])
        assert (asked.n_media, asked.text_bytes) == (0, len(asked.fields["messages"]))


REFUSED: list[tuple[dict[str, Any], type[GatewayError], str]] = [
    ({"model": None}, MissingFields, "model is required"),
    ({"model": 5}, MalformedRequest, "model must be a text"),
    ({"messages": None}, MissingFields, "messages is required"),
    ({"messages": []}, MalformedRequest, "messages is empty"),
    ({"messages": "Hello"}, MalformedRequest, "messages must be a list of objects, each with a role"),
    ({"messages": ["Hello"]}, MalformedRequest, r"got `str` - at `\$\[0\]`"),
    ({"messages": [HELLO, {"content": "x"}]}, MalformedRequest, r"missing required field `role` - at `\$\[1\]`"),
    ({"messages": [{"role": 5}]}, MalformedRequest, "got `int`"),
    ({"stream": "yes"}, MalformedRequest, "stream must be true or false"),
    ({"stream_options": True}, MalformedRequest, "stream_options must be an object"),
    ({"stream_options": {"include_usage": 1}}, MalformedRequest, "stream_options must be an object"),
    ({"max_tokens": 0}, MalformedRequest, "max_tokens is 0; it can be 1 to 10000000"),
    ({"max_tokens": "9"}, MalformedRequest, "max_tokens must be a whole number"),
    ({"max_completion_tokens": 10**20}, MalformedRequest, "max_completion_tokens is 100000000000000000000; it can be"),
    ({"n": 129}, MalformedRequest, "n is 129; it can be 1 to 128"),
    ({"user": 5}, MalformedRequest, "user must be a text"),
    ({"provider": "openai"}, MalformedRequest, "provider must be an object"),
    ({"cache": "no-cache"}, UnsupportedOption, "cache is 'no-cache'; it can be store or no-store"),
    ({"allow_space_change": "yes"}, MalformedRequest, "allow_space_change must be true or false"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), REFUSED)
def test_mistakes_are_named(changes: dict[str, Any], kind: type[GatewayError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        read(**changes)
    assert caught.value.param == next(iter(changes))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"model":', b'{"a":"\xff"}', b'{"a":{"b":["\xc3"]}}', b"[" * 100_000, b'{"a":nul}']
)
def test_what_is_no_json_object_in_utf8_is_refused(body: bytes) -> None:
    for dialect in (openai, ziri):
        with pytest.raises(MalformedRequest):
            dialect.read_chat(body, SPLIT)
