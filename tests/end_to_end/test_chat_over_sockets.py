"""Chat through the gateway is what the provider answers, for SDKs as they are; it is limited, held and charged."""

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from administrator import Administrator
from chat_upstream import LAST_WORD, Chat, ChatUpstream, running_chat_upstream
from chatting import FALLBACK, MESSAGES, MODEL, STREAM, UPSTREAM_KEYS, chat_gateway, cost_of, entry_of
from embedgate.core.access import Subject
from embedgate.govern.keys import Key
from running import RunningGateway
from sdk_programs import NODE_FOLDER, RUN_TIMEOUT_S, node_with
from upstream import Answer, error
from wire import Reply, call

REPLY = "Hello there , how are you ?"
TOOLS = b'[ {"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{}}}} ]'


@pytest.fixture(scope="module")
def far_side() -> Iterator[ChatUpstream]:
    with running_chat_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: ChatUpstream) -> Iterator[RunningGateway]:
    settings = "[upstream]\nmax_retries = 1\nretry_wait_s = 0.01\n[log]\nlevel = 'debug'\n"
    settings += "[access]\nrefusal_summary_s = 0\n"
    with chat_gateway(tmp_path_factory.mktemp("chat"), far_side, settings) as started:
        yield started


@pytest.fixture(autouse=True)
def host(far_side: ChatUpstream) -> ChatUpstream:
    far_side.reset()
    return far_side


@pytest.fixture
def sdk(running: RunningGateway, account: tuple[Key, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=account[1], base_url=f"{running.url}/v1", max_retries=0) as client:
        yield client


def ask(running: RunningGateway, body: Any, key: str, dialect: str = "openai") -> Reply:
    path = "/v1/chat/completions" if dialect == "openai" else "/api/chat/completions"
    return call(running.url, path, body, {"x-api-key": key})


def test_the_sdk_gets_a_whole_answer(
    sdk: openai.OpenAI, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    host.script_chats(Chat(cached_tokens=3))
    raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, user="customer 7")
    answer = raw.parse()
    assert answer.choices[0].message.content == REPLY
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 7)
    assert raw.headers["x-embedgate-model"] == MODEL
    assert raw.headers["x-embedgate-provider"] == "openai"
    assert raw.headers["x-embedgate-cached-tokens"] == "3"
    entry = entry_of(admin, account[0])
    assert (entry.tokens, entry.output_tokens, entry.tokens_estimated) == (5, 7, False)
    assert entry.cost_picodollars == 2 * 150_000 + 3 * 75_000 + 7 * 600_000
    assert (entry.action, entry.model, entry.provider, entry.end_user) == ("completion", MODEL, "openai", "customer 7")
    assert entry.request_id == raw.headers["x-request-id"]
    assert float(raw.headers["x-embedgate-cost-usd"]) == pytest.approx(entry.cost_picodollars / 1e12)


@pytest.mark.parametrize("include_usage", [True, False])
def test_the_sdk_streams_and_gets_the_count_only_if_it_asks(
    sdk: openai.OpenAI, admin: Administrator, account: tuple[Key, str], include_usage: bool
) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    with sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, **options) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == REPLY
    counts = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(counts) == (1 if include_usage else 0)
    assert all(chunk.choices for chunk in chunks) != include_usage
    entry = entry_of(admin, account[0])
    assert (entry.tokens, entry.output_tokens, entry.tokens_estimated, entry.outcome) == (5, 7, False, "ok")
    assert entry.cost_picodollars == cost_of(MODEL, 5, 7)


def test_the_asynchronous_sdk_streams(running: RunningGateway, account: tuple[Key, str]) -> None:
    async def converse() -> str:
        async with openai.AsyncOpenAI(api_key=account[1], base_url=f"{running.url}/api/v1", max_retries=0) as client:
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(converse()) == REPLY


def test_the_node_sdk_chats_and_streams(running: RunningGateway, account: tuple[Key, str]) -> None:
    command = [node_with("openai"), "chat.mjs", f"{running.url}/v1", account[1], MODEL]
    done = subprocess.run(command, cwd=NODE_FOLDER, capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "whole": REPLY,
        "streamed": REPLY,
        "usage": {"read": 5, "written": 7},
        "failures": {"key": "AuthenticationError invalid_api_key", "model": "BadRequestError model_wrong_action"},
    }


def test_tools_and_answers_pass_byte_for_byte(
    running: RunningGateway, account: tuple[Key, str], host: ChatUpstream
) -> None:
    messages = (
        '[{"role":"user","content":"caf\\u00e9 \u00fc"}, {"role":"tool","tool_call_id":"1","content":[]}]'.encode()
    )
    events = (b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\\"a\\": 1.0}"}}]}}]}', b'{ "odd" :1}')
    host.script_chats(Chat(events=[*events, b"[DONE]"]))
    body = b'{"model":"%s","stream":true,"stream_options":{"include_usage":true},"messages":%s,"tools":%s,"seed":1e2}'
    reply = ask(running, body % (MODEL.encode(), messages, TOOLS), account[1])
    assert reply.body == b"".join(b"data: %s\n\n" % event for event in events) + LAST_WORD
    sent = host.requests[-1].body
    for part in (b'"messages":' + messages, b'"tools":' + TOOLS, b'"seed":1e2', b'"model":"gpt-4o-mini"'):
        assert part in sent
    assert host.requests[-1].headers["authorization"] == f"Bearer {UPSTREAM_KEYS['OPENAI_API_KEY']}"
    assert account[1] not in str(host.requests[-1])


def test_the_ziri_answer_has_meta_and_the_rest_as_it_was(running: RunningGateway, account: tuple[Key, str]) -> None:
    body = {"provider": "openai", "model": "gpt-4o-mini", "messages": MESSAGES}
    direct = ask(running, {"model": MODEL, "messages": MESSAGES}, account[1])
    reply = ask(running, body, account[1], "ziri")
    meta = reply.json["_meta"]
    assert meta["requestId"] == reply.headers["x-request-id"]
    assert meta["cost"] == {
        "actual": cost_of(MODEL, 5, 7) / 1e12,
        "inputTokens": 5,
        "outputTokens": 7,
        "cachedTokens": 0,
        "totalCost": cost_of(MODEL, 5, 7) / 1e12,
    }
    assert 0 < meta["timing"]["llmMs"] <= meta["timing"]["totalMs"]
    assert reply.body.startswith(direct.body.rstrip().removesuffix(b"}").rstrip())
    assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= reply.headers.keys()
    streamed = ask(running, body | {"stream": True}, account[1], "ziri")
    assert streamed.body.endswith(LAST_WORD)
    assert streamed.headers["content-type"] == "text/event-stream"


OPENAI_ROWS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": None}, 400, "missing_fields", "model"),
    ({"messages": None}, 400, "missing_fields", "messages"),
    ({"messages": []}, 400, "invalid_request", "messages"),
    ({"messages": [{"content": "x"}]}, 400, "invalid_request", "messages"),
    ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
    ({"stream": "yes"}, 400, "invalid_request", "stream"),
    ({"provider": {"routing": {"type": "order"}}}, 400, "missing_fields", "provider.routing.providers"),
    ({"model": "openai/text-embedding-3-small"}, 400, "model_wrong_action", "model"),
    ({"model": "nobody/nothing"}, 404, "model_not_found", "model"),
    ({"model": f"{MODEL}:anthropic"}, 404, "model_not_supported", "model"),
    ({"model": "deepseek/deepseek-chat"}, 404, "model_not_found", "model"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("changes", "status", "code", "param"), OPENAI_ROWS)
def test_openai_refusals(
    running: RunningGateway,
    account: tuple[Key, str],
    changes: dict[str, Any],
    status: int,
    code: str,
    param: str,
    stream: bool,
) -> None:
    reply = ask(running, {**STREAM, "stream": stream, **changes}, account[1])
    fault = reply.json["error"]
    assert (reply.status, fault["code"], fault["param"]) == (status, code, param)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")


ZIRI_ROWS: list[tuple[dict[str, Any], int, str]] = [
    ({"provider": None}, 400, "MISSING_FIELDS"),
    ({"messages": None}, 400, "MISSING_FIELDS"),
    ({"messages": "Hello"}, 400, "INVALID_REQUEST"),
    ({"provider": "nowhere"}, 404, "PROVIDER_NOT_FOUND"),
    ({"model": "nothing"}, 400, "MODEL_NOT_SUPPORTED"),
    ({"model": "text-embedding-3-small"}, 400, "ACTION_NOT_SUPPORTED"),
    ({"provider": "deepseek", "model": "deepseek-chat"}, 500, "PROVIDER_KEY_MISSING"),
]


@pytest.mark.parametrize(("changes", "status", "code"), ZIRI_ROWS)
def test_ziri_refusals(
    running: RunningGateway, account: tuple[Key, str], changes: dict[str, Any], status: int, code: str
) -> None:
    body = {"provider": "openai", "model": "gpt-4o-mini", "messages": MESSAGES, "stream": True, **changes}
    reply = ask(running, body, account[1], "ziri")
    assert (reply.status, reply.json["code"]) == (status, code)


def test_a_model_that_does_not_chat_is_refused_with_one_that_does(
    running: RunningGateway, account: tuple[Key, str]
) -> None:
    body = {**STREAM, "provider": "openai", "model": "text-embedding-3-small"}
    message = ask(running, body, account[1], "ziri").json["error"]
    assert message.startswith("Model text-embedding-3-small does not support completion action. Use gpt-")


def test_strangers_are_refused_before_anything_is_read(running: RunningGateway, host: ChatUpstream) -> None:
    reply = call(running.url, "/v1/chat/completions", b"no JSON", {"authorization": "Bearer nonsense"})
    assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
    reply = call(running.url, "/api/chat/completions", b"no JSON", {})
    assert (reply.status, reply.json["code"]) == (400, "API_KEY_REQUIRED")
    assert host.requests == []


@pytest.mark.parametrize(("status", "seen", "code"), [(400, 400, "upstream_rejected"), (401, 502, "upstream_error")])
def test_the_providers_refusals_are_told_without_its_key_or_our_texts(
    running: RunningGateway, account: tuple[Key, str], host: ChatUpstream, status: int, seen: int, code: str
) -> None:
    said = f"bad key {UPSTREAM_KEYS['OPENAI_API_KEY']} for 'How do you do ?'"
    host.script_chats(Chat(failure=error(status, said)), Chat(failure=error(status, said)))
    reply = ask(running, STREAM, account[1])
    assert (reply.status, reply.json["error"]["code"]) == (seen, code)
    for secret in (UPSTREAM_KEYS["OPENAI_API_KEY"], "How do you do"):
        assert secret not in reply.body.decode()
        assert secret not in running.log.read_text()


def test_what_failed_before_the_first_byte_is_tried_again(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    host.script_chats(Chat(failure=error(503, "busy", headers={"retry-after": "0"})))
    reply = ask(running, STREAM, account[1])
    assert reply.status == 200
    assert reply.body.endswith(LAST_WORD)
    assert len(host.requests) == 2
    assert entry_of(admin, account[0]).cost_picodollars == cost_of(MODEL, 5, 7)


def test_a_fallback_model_answers_when_the_first_cannot(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    host.script_chats(Chat(failure=error(400, "no")))
    reply = ask(running, STREAM | {"provider": {"fallback": FALLBACK}}, account[1])
    assert reply.body.endswith(LAST_WORD)
    assert reply.headers["x-embedgate-model"] == FALLBACK
    assert reply.headers["x-embedgate-provider"] == "anthropic"
    assert [request.json["model"] for request in host.requests] == ["gpt-4o-mini", "claude-haiku-4-5"]
    entry = entry_of(admin, account[0])
    assert (entry.model, entry.cost_picodollars) == (FALLBACK, cost_of(FALLBACK, 5, 7))


def test_a_provider_that_does_not_count_is_charged_by_estimate(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    host.script_chats(Chat(counts=False))
    ask(running, STREAM, account[1])
    entry = entry_of(admin, account[0])
    assert (entry.tokens_estimated, entry.outcome) == (True, "ok")
    assert (entry.tokens, entry.output_tokens) == (-(-len(json.dumps(MESSAGES)) // 4), -(-len(REPLY) // 4))


def test_a_policy_on_completions_forbids_chat_and_nothing_else(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    key, secret = account
    text = (
        f'@id("no-chat") forbid (principal == UserKey::"{key.id}", action == Action::"completion", resource) '
        'when { context.input_tokens < 1000000 && context.model_provider == "openai" };'
    )
    admin.add_policy(text)
    admin.wait_until_in_force(running)
    try:
        reply = ask(running, STREAM, secret)
        assert (reply.status, reply.json["error"]["code"]) == (403, "permission_denied")
        assert "no-chat" in reply.json["error"]["message"]
        reply = ask(running, {**STREAM, "provider": "openai", "model": "gpt-4o-mini"}, secret, "ziri")
        assert (reply.status, reply.json["code"]) == (403, "AUTHORIZATION_DENIED")
        body = {"model": "openai/text-embedding-3-small", "input": "x"}
        assert call(running.url, "/v1/embeddings", body, {"x-api-key": secret}).status == 200
    finally:
        admin.delete_policy("no-chat")
    decisions = [(event.action, event.outcome) for event in admin.decisions(key)]
    assert sorted(decisions) == [("completion", "forbid"), ("completion", "forbid"), ("embedding", "permit")]
    assert [request.path for request in host.requests] == ["/v1/embeddings"]


def test_limits_of_requests_and_tokens_hold_for_chat(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str]
) -> None:
    key, secret = account
    admin.set_limit(Subject("key", key.id), requests_per_minute=3, tokens_per_minute=1_000)
    admin.wait_until_in_force(running)
    too_much = ask(running, STREAM | {"max_tokens": 990}, secret)
    assert (too_much.status, too_much.json["error"]["code"]) == (429, "rate_limit_exceeded")
    replies = [ask(running, STREAM | {"max_tokens": 50}, secret) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert replies[0].headers["x-ratelimit-remaining-requests"] == "2"
    assert int(replies[-1].headers["retry-after"]) > 0
    assert replies[-1].headers["x-ratelimit-remaining-tokens"] == str(1_000 - 3 * (5 + 7))  # what was used


def test_of_fifty_at_once_a_budget_pays_for_twenty(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    key, secret = account
    written = json.dumps(MESSAGES, separators=(",", ":"))
    held = cost_of(MODEL, len(written), 7)
    admin.set_budget(Subject("key", key.id), "total", 20 * held)
    admin.wait_until_in_force(running)
    host.reply_to = lambda _messages: "one two three four five six seven"

    async def converse(client: openai.AsyncOpenAI) -> str:
        try:
            stream = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=True, max_completion_tokens=7
            )
            async for _ in stream:
                pass
        except openai.APIStatusError as refusal:
            return f"{refusal.status_code} {refusal.code}"
        return "served"

    async def everybody() -> list[str]:
        async with openai.AsyncOpenAI(api_key=secret, base_url=f"{running.url}/v1", max_retries=0) as client:
            return await asyncio.gather(*(converse(client) for _ in range(50)))

    outcomes = Counter(asyncio.run(everybody()))
    assert outcomes.keys() <= {"served", "402 insufficient_quota"}
    assert outcomes["served"] >= 20
    assert admin.spent(key) == outcomes["served"] * cost_of(MODEL, 5, 7)
    assert admin.spent(key) <= 20 * held
    assert len(host.chats_billed) == outcomes["served"]


def test_an_answer_of_another_kind_is_no_completion(
    running: RunningGateway, account: tuple[Key, str], host: ChatUpstream
) -> None:
    page = Answer(body=b"<html>", headers={"content-type": "text/html"})
    host.script_chats(Chat(failure=page), Chat(failure=page))
    reply = ask(running, STREAM, account[1])
    assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_error")
