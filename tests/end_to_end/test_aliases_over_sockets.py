"""Aliases of models over sockets: every way in takes them, and every record has the model."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_upstream import Chat, ChatUpstream, running_chat_upstream
from crowd import LOCAL_OFF
from running import RunningGateway, clean_environment, gateway
from upstream import Answer, Upstream, running_upstream
from waiting import wait_until
from wire import Reply, call

FAKE = "fake/deterministic"
CHAT = "openai/gpt-4o-mini"
RERANK = "BAAI/bge-reranker-v2-m3"
SETTINGS = (
    LOCAL_OFF
    + """
[providers.fake]
enabled = true
[providers.openai]
base_url = "{chat}"
[providers.tei]
base_url = "{rerank}"
models = ["BAAI/bge-reranker-v2-m3"]
[catalog]
max_aliases = 4
"""
)
TEXTS = ["a cat", "a dog"]
WAYS = [
    ("/v1/embeddings", {"model": "house", "input": TEXTS}),
    ("/v1/engines/house/embeddings", {"input": TEXTS}),
    ("/openai/deployments/house/embeddings", {"input": TEXTS}),
    ("/v2/embed", {"model": "house", "texts": TEXTS, "input_type": "search_document", "embedding_types": ["float"]}),
    ("/api/embed", {"model": "house:latest", "input": TEXTS}),
    ("/tei/house/embed", {"inputs": TEXTS}),
    ("/api/embeddings", {"provider": "fake", "model": "house", "input": TEXTS}),
]


@pytest.fixture(scope="module")
def chat_host() -> Iterator[ChatUpstream]:
    with running_chat_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def rerank_host() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, chat_host: ChatUpstream, rerank_host: Upstream
) -> Iterator[RunningGateway]:
    settings = SETTINGS.format(chat=chat_host.base_url, rerank=rerank_host.base_url.removesuffix("/v1"))
    with gateway(tmp_path_factory.mktemp("aliases"), settings, {"OPENAI_API_KEY": "sk-1"}) as started:
        for name, model in (("house", FAKE), ("talker", CHAT), ("sorter", RERANK)):
            assert set_alias(started, name, model).status == 200
        yield started


def ask(running: RunningGateway, path: str, body: Any = None, method: str | None = None) -> Reply:
    headers = {"authorization": f"Bearer {running.admin_key}", "x-api-key": running.admin_key}
    return call(running.url, path, body, headers, method)


def set_alias(running: RunningGateway, name: str, model: str) -> Reply:
    return ask(running, f"/api/aliases/{name}", {"model": model}, "PUT")


@pytest.mark.parametrize(("path", "body"), WAYS, ids=[path for path, _ in WAYS])
def test_every_way_in_takes_an_alias_and_the_ledger_has_the_model(
    running: RunningGateway, path: str, body: dict[str, Any]
) -> None:
    reply = ask(running, path, body)
    assert reply.status == 200, reply.body
    entry = ask(running, f"/v1/generation?id={reply.headers['x-request-id']}").json
    assert FAKE in json.dumps(entry)
    assert "house" not in json.dumps(entry)


def test_chat_and_rerank_take_an_alias(running: RunningGateway, chat_host: ChatUpstream, rerank_host: Upstream) -> None:
    chat_host.script_chats(Chat())
    asked = {"model": "talker", "messages": [{"role": "user", "content": "How do you do ?"}]}
    reply = ask(running, "/v1/chat/completions", asked)
    assert reply.status == 200, reply.body
    assert chat_host.requests[-1].json["model"] == "gpt-4o-mini"
    scores = [{"index": 1, "score": 0.75}, {"index": 0, "score": 0.25}]
    rerank_host.script(Answer(200, json.dumps(scores).encode()))
    reply = ask(running, "/v1/rerank", {"model": "sorter", "query": "cats", "documents": TEXTS})
    assert (reply.status, reply.json["model"]) == (200, RERANK)


def test_a_fallback_may_be_an_alias(running: RunningGateway) -> None:
    asked = {"model": FAKE, "input": "a cat", "provider": {"fallback": "house"}}
    assert ask(running, "/v1/embeddings", asked).json["model"] == FAKE
    asked["provider"] = {"fallback": "nothing"}
    assert ask(running, "/v1/embeddings", asked).status == 404


def test_no_more_aliases_are_taken_than_the_setting_allows(running: RunningGateway) -> None:
    assert set_alias(running, "fourth", FAKE).status == 200
    refused = set_alias(running, "fifth", FAKE)
    assert (refused.status, "catalog.max_aliases" in refused.json["error"]) == (409, True)
    assert set_alias(running, "fourth", FAKE).status == 200
    assert ask(running, "/api/aliases/fourth", method="DELETE").status == 204


def test_an_alias_that_another_process_sets_is_served_and_is_there_after_a_restart(tmp_path: Path) -> None:
    settings = LOCAL_OFF + "[providers.fake]\nenabled = true\n"
    asked = {"model": "house", "input": "a cat"}
    with gateway(tmp_path, settings) as running:
        assert ask(running, "/v1/embeddings", asked).status == 404
        command = [sys.executable, "-m", "embedgate", "aliases", "set", "house", FAKE]
        command += ["--config", str(tmp_path / "embedgate.toml")]
        subprocess.run(command, env=clean_environment(EMBEDGATE_DATA_DIR=str(tmp_path)), check=True)
        wait_until("the alias is served", lambda: ask(running, "/v1/embeddings", asked).status == 200)
        key = running.admin_key
    with gateway(tmp_path, settings) as again:
        reply = call(again.url, "/v1/embeddings", asked, {"authorization": f"Bearer {key}"})
        assert (reply.status, reply.json["model"]) == (200, FAKE)
