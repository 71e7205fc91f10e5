"""What a host rejects of a caller's request is the caller's to correct, for every kind of request and dialect."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from administrator import Administrator
from crowd import LOCAL_OFF, metric
from embedgate.govern.keys import Key
from running import RunningGateway, gateway
from upstream import Answer, Upstream, error, running_upstream
from wire import Reply, call

KEYS = {"OPENAI_API_KEY": "sk-first-host-0123456789", "VOYAGE_API_KEY": "pa-third-host-0123456789"}
MESSAGES = [{"role": "user", "content": "How do you do?"}]
COMPLETION = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Well."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
RANKED = {"data": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 9}}


@dataclass(frozen=True)
class Asked:
    """A request of a caller, the provider that alone is asked for it, and a good answer; None is the usual one."""

    path: str
    body: dict[str, Any]
    provider: str
    answer: Any = None

    def good(self) -> Answer:
        """A good answer of the host."""
        return Answer() if self.answer is None else Answer(body=json.dumps(self.answer).encode())


EMBEDDING = Asked(
    "/v1/embeddings",
    {"model": "openai/text-embedding-3-small:openai", "input": "a text", "cache": "no-store"},
    "openai",
)
CHAT = Asked("/v1/chat/completions", {"model": "openai/gpt-4o-mini:openai", "messages": MESSAGES}, "openai", COMPLETION)
STREAM = Asked(CHAT.path, CHAT.body | {"stream": True}, "openai", COMPLETION)
RERANK = Asked(
    "/v1/rerank", {"model": "voyage/rerank-2.5", "query": "a question", "documents": ["a document"]}, "voyage", RANKED
)
ZIRI_EMBEDDING = Asked(
    "/api/embeddings",
    {"provider": "openai", "model": "text-embedding-3-small", "input": "a text", "cache": "no-store"},
    "openai",
)
ZIRI_CHAT = Asked(
    "/api/chat/completions", {"provider": "openai", "model": "gpt-4o-mini", "messages": MESSAGES}, "openai", COMPLETION
)
KINDS = {"embedding": EMBEDDING, "chat": CHAT, "stream": STREAM, "rerank": RERANK}
ZIRI_KINDS = {"embedding": ZIRI_EMBEDDING, "chat": ZIRI_CHAT}


@pytest.fixture(scope="module")
def second_host() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        upstream.dim = 1536
        yield upstream


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, far_side: Upstream, second_host: Upstream
) -> Iterator[RunningGateway]:
    settings = f"""{LOCAL_OFF}
        [providers.openai]
        base_url = "{far_side.base_url}"
        [providers.second]
        host = "openai"
        base_url = "{second_host.base_url}"
        api_key_env = "OPENAI_API_KEY"
        [providers.voyage]
        base_url = "{far_side.base_url}"
        [upstream]
        circuit_failures = 1
    """
    # A single failure that counts opens a circuit here.
    no_patience = {"EMBEDGATE_UPSTREAM__CIRCUIT_PATIENCE_S": "0"}
    with gateway(tmp_path_factory.mktemp("rejected"), settings, KEYS | no_patience) as started:
        yield started


@pytest.fixture(autouse=True)
def host(far_side: Upstream, second_host: Upstream) -> Upstream:
    for upstream in (far_side, second_host):
        upstream.reset()
        upstream.dim = 1536
    return far_side


def ask(running: RunningGateway, asked: Asked, key: str, **changes: Any) -> Reply:
    return call(running.url, asked.path, asked.body | changes, {"x-api-key": key})


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_told_once_and_no_fault_of_the_host(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: Upstream, kind: str, status: int
) -> None:
    asked = KINDS[kind]
    host.usually(error(status, f"the temperature is wrong, says the holder of {KEYS['OPENAI_API_KEY']}"))
    before = metric(running, "embedgate_provider_calls_total", provider=asked.provider, outcome="upstream_rejected")
    for _ in range(5):
        reply = ask(running, asked, account[1])
        fault = reply.json["error"]
        assert (reply.status, fault["code"], fault["type"]) == (400, "upstream_rejected", "invalid_request_error")
        assert "the temperature is wrong" in fault["message"]
        assert "retry-after" not in reply.headers
        assert not any(secret in reply.body.decode() for secret in KEYS.values())
    assert len(host.requests) == 5
    after = metric(running, "embedgate_provider_calls_total", provider=asked.provider, outcome="upstream_rejected")
    assert after - before == 5
    host.usually(asked.good())
    assert ask(running, asked, account[1]).status == 200
    assert [entry.outcome for entry in admin.entries(account[0])] == ["ok"]


@pytest.mark.parametrize("kind", ZIRI_KINDS)
def test_it_is_a_bad_request_in_the_other_dialect_too(
    running: RunningGateway, account: tuple[Key, str], host: Upstream, kind: str
) -> None:
    asked = ZIRI_KINDS[kind]
    host.usually(error(422, "the temperature is wrong"))
    reply = ask(running, asked, account[1])
    assert (reply.status, reply.json["code"], len(host.requests)) == (400, "INVALID_REQUEST", 1)
    assert "the temperature is wrong" in reply.json["error"]
    host.usually(error(401, "wrong key"))
    reply = ask(running, asked, account[1])
    assert (reply.status, reply.json["code"]) == (502, "LLM_PROVIDER_ERROR")
    end_the_pause(running, host)


@pytest.mark.parametrize("kind", ["embedding", "chat", "stream"])
@pytest.mark.parametrize(
    ("second", "status"), [(None, 200), (error(422, "also wrong"), 400), (error(401, "wrong key"), 400)]
)
def test_another_route_may_take_it_and_no_fault_of_ours_hides_it(
    running: RunningGateway,
    account: tuple[Key, str],
    host: Upstream,
    second_host: Upstream,
    kind: str,
    second: Answer | None,
    status: int,
) -> None:
    asked = KINDS[kind]
    host.usually(error(400, "the temperature is wrong"))
    second_host.usually(second or asked.good())
    reply = ask(running, asked, account[1], model=asked.body["model"].removesuffix(":openai"))
    assert (len(host.requests), len(second_host.requests)) == (1, 1), reply.body
    assert reply.status == status
    if status == 400:
        assert reply.json["error"]["code"] == "upstream_rejected"
        assert (
            "openai: openai refused the call (status 400): the temperature is wrong" in reply.json["error"]["message"]
        )
    end_the_pause(running, host, second_host)


def end_the_pause(running: RunningGateway, *hosts: Upstream) -> None:
    """Trying a provider closes its circuit, which a refused key, or a call that another route took, has opened."""
    for upstream in hosts:
        upstream.reset()
        upstream.dim = 1536
    for name in ("openai", "second"):
        path, body = f"/api/providers/{name}/test", {"model": "openai/text-embedding-3-small"}
        call(running.url, path, body, {"x-api-key": running.admin_key})
