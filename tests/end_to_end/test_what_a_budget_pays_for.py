"""A budget pays for nothing that was not held: paid options, and routes whose price nobody knows, over real sockets."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from administrator import Administrator
from chat_upstream import ChatUpstream, running_chat_upstream
from chatting import FALLBACK, MESSAGES, MODEL, chat_gateway, cost_of, entry_of
from embedgate.core.access import Subject
from embedgate.govern.keys import Key
from running import RunningGateway
from wire import Reply, call

PLENTY = 10**12
ALLOWED = 30_000_000_000
CATALOG = """
[[model]]
id = "acme/chat"
action = "chat"
max_input_tokens = 1000
[[model.route]]
provider = "acme"
upstream_model = "chat"
usd_per_million_input_tokens = "1"
[[model.route]]
provider = "openai"
upstream_model = "chat"
usd_per_million_input_tokens = "1"
usd_per_million_output_tokens = "1"
[[model]]
id = "acme/embed"
dims = { default = 3 }
max_input_tokens = 1000
[[model.route]]
provider = "acme"
upstream_model = "embed"
accepts_unknown_options = true
usd_per_million_input_tokens = "0.5"
[[model]]
id = "acme/unknown"
dims = { default = 3 }
max_input_tokens = 1000
[[model.route]]
provider = "acme"
upstream_model = "unknown"
[[model]]
id = "acme/own"
dims = { default = 3 }
max_input_tokens = 1000
[[model.route]]
provider = "vllm"
upstream_model = "own"
"""


@pytest.fixture(scope="module")
def far_side() -> Iterator[ChatUpstream]:
    with running_chat_upstream() as upstream:
        upstream.dim = 3
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: ChatUpstream) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("pays")
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG, encoding="utf-8")
    settings = f"""
        [providers.acme]
        base_url = "{far_side.base_url}"
        [providers.vllm]
        base_url = "{far_side.base_url}"
        [catalog]
        file = "{catalog}"
        [access]
        refusal_summary_s = 0
        [limits]
        paid_options = {{ web_search_options = "0.03", "tools.web_search" = 0.01, input_kind = "0.02" }}
    """
    with chat_gateway(folder / "data", far_side, settings) as started:
        yield started


@pytest.fixture(autouse=True)
def host(far_side: ChatUpstream) -> ChatUpstream:
    far_side.reset()
    far_side.dim = 3
    return far_side


@pytest.fixture
def budgeted(running: RunningGateway, admin: Administrator, account: tuple[Key, str]) -> tuple[Key, str]:
    """A key with a large budget."""
    admin.set_budget(Subject("key", account[0].id), "total", PLENTY)
    admin.wait_until_in_force(running)
    return account


def chat(running: RunningGateway, secret: str, dialect: str = "openai", **changes: Any) -> Reply:
    body: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 10} | changes
    if dialect == "ziri":
        body |= {"provider": "openai", "model": MODEL.partition("/")[2]}
    path = "/v1/chat/completions" if dialect == "openai" else "/api/chat/completions"
    return call(running.url, path, body, {"x-api-key": secret})


def embed(running: RunningGateway, secret: str, model: str, **options: Any) -> Reply:
    return call(running.url, "/v1/embeddings", {"model": model, "input": ["a", "b"], **options}, {"x-api-key": secret})


def said(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
PAID: list[tuple[dict[str, Any], str, str]] = [
    ({"prediction": {"type": "content", "content": "x" * 1000}}, "prediction", "prediction"),
    ({"service_tier": "priority"}, "service_tier", "service_tier"),
    ({"modalities": ["text", "audio"], "audio": {"voice": "alloy"}}, "modalities", "modalities"),
    ({"audio": {"voice": "alloy"}}, "audio", "audio"),
    ({"plugins": [{"id": "web"}]}, "plugins", "plugins"),
    ({"models": ["dear/one"]}, "models", "models"),
    ({"best_of": 20}, "best_of", "best_of"),
    ({"extra_body": {"n": 50}}, "extra_body", "extra_body"),
    ({"search_parameters": {"mode": "on"}}, "search_parameters", "search_parameters"),
    ({"enable_thinking": True}, "enable_thinking", "enable_thinking"),
    ({"tools": [{"type": "code_interpreter"}]}, "tools[0].type", "tools.code_interpreter"),
    (
        {"tools": [{"type": "function", "function": FUNCTION}, {"type": "function", "function": {"name": "$search"}}]},
        "tools[1].function.name",
        "tools.$search",
    ),
    ({"tools": [{"type": "function", "function": FUNCTION, "search": {}}]}, "tools[0].search", "tools.search"),
    ({"tools": [{"google_search": {}}]}, "tools[0].type", "tools.type"),
    ({"tools": {"type": "web_search"}}, "tools", "tools"),
    ({"messages": [*MESSAGES, {"role": "assistant", "audio": {"id": "a"}}]}, "messages[1].audio", "messages.audio"),
    ({"messages": said([{"type": "input_audio"}])}, "messages[0].content[0].type", "messages.input_audio"),
    ({"messages": said([{"type": "file", "file": {}}])}, "messages[0].content[0].type", "messages.file"),
    (
        {"messages": said([{"type": "text", "text": "a", "cache_control": {}}])},
        "messages[0].content[0].cache_control",
        "messages.cache_control",
    ),
    ({"messages": said({"type": "file"})}, "messages[0].content", "messages.content"),
    ({"messages": said(["a"])}, "messages[0].content", "messages.content"),
    ({"functions": [FUNCTION, {"name": "$search"}]}, "functions[1].name", "functions.$search"),
    ({"functions": [{"type": "web_search"}]}, "functions[0].type", "functions.type"),
    ({"tools": [{"type": "custom", "custom": {"name": "$search"}}]}, "tools[0].custom.name", "tools.$search"),
    ({"tools": [{"type": "custom", "custom": {"search": {}}}]}, "tools[0].custom.search", "tools.custom.search"),
    ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type", "tool_choice.web_search_preview"),
    ({"function_call": {"name": "f", "search": True}}, "function_call.search", "function_call.search"),
    ({"response_format": {"type": "text", "search": {}}}, "response_format.search", "response_format.search"),
    ({"stream_options": {"search": True}}, "stream_options.search", "stream_options.search"),
    ({"reasoning_effort": {"max_tokens": 9999}}, "reasoning_effort", "reasoning_effort"),
    ({"messages": said([{"type": "text", "text": {"url": "x"}}])}, "messages[0].content[0].text", "messages.text"),
    ({"messages": [{"role": "assistant", "refusal": [{"type": "file"}]}]}, "messages[0].refusal", "messages.refusal"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "web_search"}]}]},
        "messages[0].tool_calls[0].type",
        "messages.tool_calls",
    ),
    (
        {"messages": [{"role": "assistant", "annotations": [{"type": "file", "file": {"hash": "h"}}]}]},
        "messages[0].annotations[0].type",
        "messages.annotations.file",
    ),
]


@pytest.mark.parametrize(("changes", "place", "name"), PAID, ids=[place for _, place, _ in PAID])
def test_an_option_that_is_not_weighed_is_refused_by_name(
    running: RunningGateway, budgeted: tuple[Key, str], host: ChatUpstream, changes: Any, place: str, name: str
) -> None:
    reply = chat(running, budgeted[1], **changes)
    fault = reply.json["error"]
    assert (reply.status, fault["code"], fault["param"]) == (400, "unsupported_option", place)
    assert f'limits.paid_options, "{name}"' in fault["message"]
    assert place in fault["message"]
    other = chat(running, budgeted[1], "ziri", stream=True, **changes)
    assert (other.status, other.json["code"]) == (400, "INVALID_REQUEST")
    assert host.requests == []


def test_without_a_budget_every_option_passes_as_it_was_written(
    running: RunningGateway, account: tuple[Key, str], host: ChatUpstream
) -> None:
    for changes, _, _ in PAID:
        assert chat(running, account[1], **changes).status == 200
        for field, value in changes.items():
            assert json.dumps(value).encode() in host.requests[-1].body, field


def test_what_costs_nothing_beyond_the_tokens_passes_with_a_budget(
    running: RunningGateway, budgeted: tuple[Key, str], host: ChatUpstream, admin: Administrator
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    changes: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": "s", "name": "n"},
            *said([{"type": "text", "text": "a b"}, image]),
            {"role": "assistant", "content": None, "audio": None, "tool_calls": [{"id": "1", "type": "function"}]},
            {"role": "tool", "tool_call_id": "1", "content": "c"},
            {"role": "assistant", "content": "c", "refusal": None, "annotations": [{"type": "url_citation"}]},
        ],
        "tools": [{"type": "function", "function": FUNCTION}, {"type": "custom", "custom": {"name": "g"}}],
        "service_tier": "default",
        "modalities": ["text"],
        "temperature": 1,
        "stop": ["x"],
        "metadata": {"a": "b"},
        "n": 2,
        "response_format": {"type": "json_object"},
        "user": "customer 7",
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "functions": [FUNCTION],
        "function_call": "auto",
        "reasoning_effort": "low",
        "logit_bias": {"5": 1},
    }
    assert chat(running, budgeted[1], **changes).status == 200
    sent = host.requests[-1].json
    assert {name: sent[name] for name in changes} == changes
    assert not entry_of(admin, budgeted[0]).tokens_estimated


def test_a_name_that_is_there_twice_reaches_the_host_as_it_was_checked(
    running: RunningGateway, budgeted: tuple[Key, str], host: ChatUpstream
) -> None:
    body = (
        b'{"model":"%s","max_tokens":9999,"max_tokens":10,"prediction":{},"prediction":null,'
        b'"messages":[{"role":"user","content":[{"type":"file","type":"text","text":"a b"}],"audio":{},"audio":null}],'
        b'"tools":[{"type":"web_search","type":"function","function":{"name":"$search","name":"f"}}],'
        b'"stream":true,"stream_options":{"include_usage":false,"include_usage":true}}'
    )
    path = "/v1/chat/completions"
    assert call(running.url, path, body % MODEL.encode(), {"x-api-key": budgeted[1]}).status == 200
    sent = host.requests[-1].body
    assert not any(word in sent for word in (b"9999", b"prediction", b"file", b'audio":{}', b"web_search", b"$search"))
    assert b'"stream_options":{"include_usage":true}' in sent


def test_an_allowed_option_is_held_and_booked_at_its_bound(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    key, secret = account
    options: dict[str, Any] = {"web_search_options": {}, "tools": [{"type": "web_search"}]}
    admin.set_budget(Subject("key", key.id), "total", 40_000_000_000)
    admin.wait_until_in_force(running)
    refused = chat(running, secret, **options)
    assert (refused.status, refused.json["error"]["code"]) == (402, "insufficient_quota")
    assert host.requests == []
    admin.set_budget(Subject("key", key.id), "total", 41_000_000_000)
    admin.wait_until_in_force(running)
    assert chat(running, secret, **options).status == 200
    entry = entry_of(admin, key)
    assert entry.cost_picodollars == cost_of(MODEL, 5, 7) + 40_000_000_000
    assert entry.tokens_estimated
    assert chat(running, secret, **options).status == 402


def test_options_of_embeddings_are_refused_or_booked_as_well(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    key, secret = account
    admin.set_budget(Subject("key", key.id), "total", PLENTY)
    admin.wait_until_in_force(running)
    refused = embed(running, secret, "acme/embed", service_tier="priority")
    assert (refused.status, refused.json["error"]["param"]) == (400, "service_tier")
    assert host.requests == []
    assert embed(running, secret, "acme/embed", input_kind="legal", late_chunking=True).status == 200
    entry = entry_of(admin, key)
    assert entry.cost_picodollars == 2 * 20_000_000_000 + 500_000 * entry.tokens


def test_a_route_of_unknown_price_is_refused_with_the_command_that_sets_it(
    running: RunningGateway, admin: Administrator, budgeted: tuple[Key, str], host: ChatUpstream
) -> None:
    fault = chat(running, budgeted[1], model="acme/chat:acme").json["error"]
    assert (fault["code"], fault["param"]) == ("price_unknown", "model")
    assert "usd_per_million_output_tokens" in fault["message"]
    refused = embed(running, budgeted[1], "acme/unknown")
    assert (refused.status, refused.json["error"]["code"]) == (400, "price_unknown")
    assert "embedgate prices set acme/unknown acme" in refused.json["error"]["message"]
    other = {"provider": "acme", "model": "unknown", "input": "a"}
    reply = call(running.url, "/api/embeddings", other, {"x-api-key": budgeted[1]})
    assert (reply.status, reply.json["code"]) == (400, "INVALID_REQUEST")
    assert host.requests == []
    served = chat(running, budgeted[1], model="acme/chat")
    assert (served.status, served.headers["x-embedgate-provider"]) == (200, "openai")
    assert [event.outcome for event in admin.decisions(budgeted[0])].count("price_unknown") == 3


def test_an_own_server_is_free_and_everybody_else_is_served_without_a_budget(
    running: RunningGateway, account: tuple[Key, str], admin: Administrator
) -> None:
    key, secret = account
    assert chat(running, secret, model="acme/chat:acme").status == 200
    admin.set_budget(Subject("key", key.id), "day", 0)
    admin.wait_until_in_force(running)
    assert embed(running, secret, "acme/own", anything="goes").status == 200
    assert chat(running, secret, model="acme/chat:acme").status == 400
    assert chat(running, secret, model=FALLBACK).status == 402
