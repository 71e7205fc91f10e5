"""A request that comes twice with one idempotency key is answered alike and charged once, also across a restart."""

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from administrator import Administrator, administrator
from chat_upstream import LAST_WORD, Chat, ChatUpstream, running_chat_upstream
from chatting import MESSAGES, UPSTREAM_KEYS, listening
from chatting import MODEL as CHAT
from crowd import LOCAL_OFF, MODEL, metric
from embedgate.govern.keys import Key
from running import RunningGateway, gateway
from upstream import Answer, Upstream, error
from waiting import wait_until
from wire import Reply, call, raw_socket

RERANK = "jina/jina-reranker-v2-base-multilingual"
OF_ANSWER = ("x-request-id", "x-embedgate-cost-usd", "content-type", "x-embedgate-provider")


@pytest.fixture(scope="module")
def chats() -> Iterator[ChatUpstream]:
    with running_chat_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def settings(far_side: Upstream, chats: ChatUpstream) -> str:
    return f"""
        {LOCAL_OFF}
        [providers.openai]
        base_url = "{chats.base_url}"
        [providers.jina]
        base_url = "{far_side.base_url}"
        [providers.own]
        base_url = "{far_side.base_url}"
        [catalog]
        file = "{{catalog}}"
        [idempotency]
        max_answer_bytes = 50000
        [upstream]
        max_retries = 0
        circuit_patience_s = 3600
    """


CATALOG = """
[[model]]
id = "own/embed"
dims = { default = 256 }
max_input_tokens = 1000
[[model.route]]
provider = "own"
upstream_model = "embed"
usd_per_million_input_tokens = "1"
"""


def start(folder: Path, settings: str) -> Any:
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG, encoding="utf-8")
    keys = UPSTREAM_KEYS | {"JINA_API_KEY": "jina"}
    return gateway(folder / "data", settings.format(catalog=catalog), keys)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, settings: str) -> Iterator[RunningGateway]:
    with start(tmp_path_factory.mktemp("once"), settings) as started:
        yield started


@pytest.fixture(autouse=True)
def hosts(far_side: Upstream, chats: ChatUpstream) -> tuple[Upstream, ChatUpstream]:
    far_side.reset()
    chats.reset()
    far_side.usually(lambda seen: ranked() if seen.path.endswith("/rerank") else Answer())
    return far_side, chats


def ranked() -> Answer:
    scores = [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": 0.25}]
    return Answer(body=json.dumps({"results": scores, "usage": {"total_tokens": 9}}).encode())


def embedding(text: str = "", model: str = MODEL) -> dict[str, Any]:
    return {"model": model, "input": text or str(uuid.uuid4()), "cache": "no-store"}


CHATTING = {"model": CHAT, "messages": MESSAGES}
OF_ZIRI = {"provider": "openai"}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", embedding("a")),
    ("/api/embeddings", embedding("b") | OF_ZIRI | {"model": MODEL.partition("/")[2]}),
    ("/v1/chat/completions", CHATTING),
    ("/api/chat/completions", CHATTING | OF_ZIRI | {"model": CHAT.partition("/")[2]}),
    ("/v1/rerank", {"model": RERANK, "query": "q", "documents": ["a", "b"]}),
]


def ask(running: RunningGateway, secret: str, key: str, path: str, body: Any) -> Reply:
    return call(running.url, path, body, {"x-api-key": secret, "idempotency-key": key})


@pytest.mark.parametrize(("path", "body"), KINDS, ids=[path for path, _ in KINDS])
def test_the_same_request_is_answered_alike_and_charged_once(
    running: RunningGateway,
    admin: Administrator,
    account: tuple[Key, str],
    hosts: tuple[Upstream, ChatUpstream],
    path: str,
    body: Any,
) -> None:
    key, secret = account
    first, second = (ask(running, secret, "order-7", path, body) for _ in range(2))
    assert (first.status, second.status) == (200, 200), first.body
    assert second.body == first.body
    assert {name: second.headers[name] for name in OF_ANSWER} == {name: first.headers[name] for name in OF_ANSWER}
    assert ("idempotent-replayed" in first.headers, second.headers["idempotent-replayed"]) == (False, "true")
    assert sum(len(host.requests) for host in hosts) == 1
    assert len(admin.entries(key)) == 1
    other = ask(running, secret, "order-7", path, body | {"user": "another"})
    assert other.status == 422
    code = "INVALID_REQUEST" if path.startswith("/api/") else "idempotency_key_reused"
    assert (other.json.get("code") or other.json["error"]["code"]) == code
    assert ask(running, secret, "order-8", path, body).status == 200
    assert ask(running, admin.new_key()[1], "order-7", path, body).status == 200  # of another caller
    assert sum(len(host.requests) for host in hosts) == 3


def test_a_key_counts_for_one_action_in_one_dialect(running: RunningGateway, account: tuple[Key, str]) -> None:
    path, body = KINDS[0]
    assert ask(running, account[1], "k", path, body).status == 200
    assert ask(running, account[1], "k", "/api/v1/embeddings", body).headers["idempotent-replayed"] == "true"
    other_path, other_body = KINDS[2]
    assert ask(running, account[1], "k", other_path, other_body).status == 422


def test_one_in_progress_is_waited_for(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], chats: ChatUpstream
) -> None:
    gate = threading.Event()
    chats.script_chats(Chat(gate=gate))
    path, body = KINDS[2]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, running, account[1], "k", path, body)
        wait_until("the provider is asked", lambda: bool(chats.requests))
        second = ask(running, account[1], "k", path, body)
        assert (second.status, second.json["error"]["code"]) == (409, "idempotency_in_progress")
        assert int(second.headers["retry-after"]) >= 1
        assert ask(running, account[1], "k", path, body | {"n": 2}).status == 422
        gate.set()
        assert first.result().status == 200
    third = ask(running, account[1], "k", path, body)
    assert (third.status, third.body) == (200, first.result().body)
    assert len(admin.entries(account[0])) == 1


def test_an_error_that_cost_nothing_leaves_the_key_free(
    running: RunningGateway, account: tuple[Key, str], far_side: Upstream
) -> None:
    body = embedding(model="own/embed")
    assert ask(running, account[1], "k", "/v1/embeddings", body | {"dimensions": 5000}).status == 400
    far_side.script(error(429, "slow down"))
    assert ask(running, account[1], "k", "/v1/embeddings", body).status == 502
    assert ask(running, account[1], "k", "/v1/embeddings", body).status == 200
    assert len(far_side.requests) == 2


def test_an_error_that_was_paid_for_is_not_paid_for_again(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], far_side: Upstream
) -> None:
    body = embedding(model="own/embed")
    far_side.script(Answer(twist="zeros"))
    first, second = (ask(running, account[1], "k", "/v1/embeddings", body) for _ in range(2))
    assert (first.status, second.status) == (502, 502)
    assert second.body == first.body
    assert second.headers["idempotent-replayed"] == "true"
    assert len(admin.entries(account[0])) == len(far_side.requests) == 1


def test_what_is_not_kept_is_not_served_twice(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], chats: ChatUpstream
) -> None:
    large = embedding() | {"input": [str(number) for number in range(20)]}
    for number, (path, body) in enumerate(
        [("/v1/embeddings", large), ("/v1/chat/completions", CHATTING | {"stream": True})]
    ):
        first, second = (ask(running, account[1], f"k{number}", path, body) for _ in range(2))
        assert first.status == 200
        assert (second.status, second.json["error"]["code"]) == (409, "idempotency_answer_not_kept")
        assert second.headers["x-should-retry"] == "false"
    assert len(json.loads(ask(running, account[1], "k2", "/v1/embeddings", large).body)["data"]) == 20
    wait_until("all is in the ledger", lambda: len(admin.entries(account[0])) == 3)
    assert len(chats.requests) == 3


def test_a_stream_that_its_caller_left_is_charged_once_and_no_error_of_another(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], chats: ChatUpstream
) -> None:
    gate = threading.Event()
    chats.script_chats(Chat(gate=gate))
    raw = json.dumps(CHATTING | {"stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-api-key: {account[1]}\r\nidempotency-key: k\r\n"
    with raw_socket(running.url) as connection:
        connection.sendall(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
        wait_until("the provider is asked", lambda: len(chats.requests) == 1)
    wait_until("it is charged", lambda: len(admin.entries(account[0])) == 1)
    gate.set()

    def again() -> Reply:
        return call(running.url, "/v1/chat/completions", raw, {"x-api-key": account[1], "idempotency-key": "k"})

    wait_until("the request has ended", lambda: again().json["error"]["code"] == "idempotency_answer_not_kept")
    assert again().status == 409
    assert len(chats.requests) == len(admin.entries(account[0])) == 1


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a b", "\u00fc"])
def test_a_key_that_is_none_is_refused(running: RunningGateway, account: tuple[Key, str], key: str) -> None:
    path, body = KINDS[0]
    reply = ask(running, account[1], key.encode().decode("latin-1"), path, body)
    assert (reply.status, reply.json["error"]["param"]) == (400, "Idempotency-Key")
    assert ask(running, "nonsense", key.encode().decode("latin-1"), path, body).status == 401


def test_answers_are_counted(running: RunningGateway, account: tuple[Key, str]) -> None:
    before = metric(running, "embedgate_idempotent_requests_total", result="replayed")
    for _ in range(3):
        assert ask(running, account[1], "k", *KINDS[0]).status == 200
    assert metric(running, "embedgate_idempotent_requests_total", result="replayed") == before + 2


def test_an_answer_outlives_the_process(tmp_path: Path, settings: str, chats: ChatUpstream) -> None:
    path, body = KINDS[2]
    with start(tmp_path, settings) as running, administrator(tmp_path / "data") as admin:
        key, secret = admin.new_key()
        first = ask(running, secret, "k", path, body)
        running.process.kill()
    with start(tmp_path, settings) as running, administrator(tmp_path / "data") as admin:
        second = ask(running, secret, "k", path, body)
        assert (second.status, second.body) == (200, first.body)
        assert len(admin.entries(key)) == len(chats.requests) == 1


def test_a_stream_that_opened_and_failed_for_nothing_leaves_the_key_free(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], chats: ChatUpstream
) -> None:
    silence, comment = threading.Event(), b": at work\n\n"
    refusal = b'{"error":{"message":"no such parameter","type":"invalid_request_error"}}'
    chats.script_chats(Chat(comments=comment, silence=silence, events=[refusal]))
    streaming = CHATTING | {"stream": True}
    with listening(running, account[1], streaming, headers="idempotency-key: k\r\n") as listener:
        listener.read_until(comment)
        silence.set()
        assert b"upstream_rejected" in listener.read_to_the_end()
    again = ask(running, account[1], "k", "/v1/chat/completions", streaming)
    assert (again.status, again.body.endswith(LAST_WORD)) == (200, True)
    third = ask(running, account[1], "k", "/v1/chat/completions", streaming)
    assert third.json["error"]["code"] == "idempotency_answer_not_kept"
    assert [entry.outcome for entry in admin.entries(account[0])] == ["ok"]  # what costs nothing has no entry
