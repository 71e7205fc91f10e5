"""What clients of the ZIRI API do works here with default settings, an imported key and their code unchanged."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from administrator import Administrator, administrator
from chat_upstream import ChatUpstream, running_chat_upstream
from chatting import MESSAGES
from embedgate import AsyncUserSDK, GatewayRefused, MalformedRequest, UserSDK
from embedgate.core.keys import new_secret
from program import FAKE_ONLY
from running import UPSTREAM_KEY, RunningGateway, gateway
from sdk_programs import NODE_FOLDER, RUN_TIMEOUT_S, node_with
from wire import Reply, call

ZIRI_KEY = new_secret("ziri")
OLDER_KEY = "ziri-user-123-0123456789abcdef"


@pytest.fixture(scope="module")
def host() -> Iterator[ChatUpstream]:
    with running_chat_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, host: ChatUpstream) -> Iterator[RunningGateway]:
    """Default settings, but for where OpenAI is."""
    config = f'[providers.openai]\nbase_url = "{host.base_url}"\n'
    with gateway(tmp_path_factory.mktemp("ziri"), config, {"OPENAI_API_KEY": UPSTREAM_KEY}) as found:
        for key in (ZIRI_KEY, OLDER_KEY):
            made = administer(found, "/api/keys/import", {"user": "user", "name": key[:6], "key": key})
            assert made.status == 201, made.body
        yield found


@pytest.fixture(scope="module")
def admin(running: RunningGateway) -> Iterator[Administrator]:
    with administrator(running.data_dir) as found:
        yield found


def administer(running: RunningGateway, path: str, body: dict[str, Any]) -> Reply:
    return call(running.url, path, body, {"x-api-key": running.admin_key})


def ask(running: RunningGateway, body: dict[str, Any], key: str = ZIRI_KEY, what: str = "embeddings") -> Reply:
    return call(running.url, f"/api/{what}", body, {"x-api-key": key})


def local(**more: Any) -> dict[str, Any]:
    return {"provider": "local", "model": "all-minilm-l6-v2", "input": "Hello, ZIRI!", **more}


@pytest.mark.parametrize("key", [ZIRI_KEY, OLDER_KEY], ids=["newer", "older"])
@pytest.mark.parametrize("provider", ["local", "Local", "LOCAL"])
@pytest.mark.parametrize("more", [{}, {"isEmergency": False}, {"isEmergency": True}])
def test_imported_keys_and_provider_names_in_any_case_work(
    running: RunningGateway, key: str, provider: str, more: dict[str, Any]
) -> None:
    assert ask(running, local(provider=provider, **more), key).json["_meta"]["cost"]["inputTokens"] > 0
    chat = {"provider": "OpenAI", "model": "gpt-4o-mini", "messages": MESSAGES}
    assert ask(running, {**chat, **more}, key, "chat/completions").status == 200


def test_no_provider_sees_what_is_said_to_the_gateway(running: RunningGateway, host: ChatUpstream) -> None:
    host.reset()
    body = {"provider": "openai", "model": "gpt-4o-mini", "messages": MESSAGES, "isEmergency": True}
    assert ask(running, body, what="chat/completions").status == 200
    assert "isEmergency" not in host.requests[-1].json


@pytest.mark.parametrize("messages", [[], None, "absent"])
def test_empty_messages_are_missing_fields(running: RunningGateway, messages: object) -> None:
    body = {"provider": "openai", "model": "gpt-4o-mini"} | ({} if messages == "absent" else {"messages": messages})
    reply = ask(running, body, what="chat/completions")
    assert (reply.status, reply.json["code"]) == (400, "MISSING_FIELDS")
    assert reply.json["error"] == "provider, model, and messages are required"


def test_messages_begin_with_the_words_that_clients_test_for(running: RunningGateway, admin: Administrator) -> None:
    reply = ask(running, local(), "nonsense")
    assert (reply.status, reply.json["code"]) == (401, "INVALID_API_KEY_FORMAT")
    assert reply.json["error"].startswith("Invalid API key format")
    key, secret = admin.new_key()
    admin.add_policy(f'@id("not-this-key") forbid (principal == UserKey::"{key.id}", action, resource);')
    admin.wait_until_in_force(running)
    try:
        reply = ask(running, local(), secret)
    finally:
        admin.delete_policy("not-this-key")
    assert (reply.status, reply.json["code"]) == (403, "AUTHORIZATION_DENIED")
    assert reply.json["error"].startswith("Authorization denied")
    assert "not-this-key" in reply.json["error"]
    assert not reply.json["reason"].startswith("Authorization denied")


def test_an_emergency_of_the_body_reaches_the_policies_where_the_setting_says_so(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for heeds, status in ((True, 200), (False, 403)):
        config = f"{FAKE_ONLY}\n[access]\nheeds_callers_emergency = {json.dumps(heeds)}\n"
        with gateway(tmp_path_factory.mktemp("emergency"), config) as found, administrator(found.data_dir) as admin:
            admin.add_policy('@id("calm") forbid (principal, action, resource) unless { context.is_emergency };')
            admin.wait_until_in_force(found)
            body = {"provider": "fake", "model": "deterministic", "input": "a"}
            assert ask(found, body, found.key).status == 403
            assert ask(found, {**body, "isEmergency": False}, found.key).status == 403
            assert ask(found, {**body, "isEmergency": "yes"}, found.key).json["code"] == "INVALID_REQUEST"
            assert ask(found, {**body, "isEmergency": True}, found.key).status == status


def test_the_sdk_in_python_has_that_apis_names(running: RunningGateway) -> None:
    with UserSDK(apiKey=ZIRI_KEY, proxyUrl=running.url, timeoutMs=60_000) as sdk:
        made = sdk.embeddings(provider="local", model="all-minilm-l6-v2", input=["a", "b"])
        assert [len(item["embedding"]) for item in made["data"]] == [384, 384]
        said = sdk.chatCompletions(
            provider="openai", model="gpt-4o-mini", messages=MESSAGES, max_tokens=100, ipAddress="10.0.0.1", context={}
        )
        assert said["choices"][0]["message"]["content"]
        with pytest.raises(MalformedRequest, match="no images"):
            sdk.images(provider="openai", model="dall-e-3", prompt="A white cat")
    with UserSDK("nonsense", running.url) as stranger, pytest.raises(GatewayRefused, match="Invalid API key format"):
        stranger.embeddings(provider="local", model="all-minilm-l6-v2", input="a")


async def test_the_sdk_waits_on_an_event_loop(running: RunningGateway) -> None:
    async with AsyncUserSDK(apiKey=OLDER_KEY, proxyUrl=running.url, timeoutMs=60_000) as sdk:
        made = await sdk.embeddings(provider="local", model="all-minilm-l6-v2", input="a")
        said = await sdk.chatCompletions(provider="openai", model="gpt-4o-mini", messages=MESSAGES)
        assert len(made["data"][0]["embedding"]) == 384
        assert said["choices"][0]["message"]["content"]
        with pytest.raises(MalformedRequest):
            await sdk.images()


def test_the_usage_page_of_that_api_runs_whole(running: RunningGateway) -> None:
    """As a program for Node, which makes the calls of the page as its SDK does."""
    command = [node_with("openai"), "ziri_usage.mjs", running.url, ZIRI_KEY]
    done = subprocess.run(command, cwd=NODE_FOLDER, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["chat"]
    assert found["dimensions"] == 384
    assert found["meta"] > 0
    assert found["format"] == "Request failed: 401 Invalid API key format"
    assert found["fields"] == "Request failed: 400 provider, model, and input are required"
