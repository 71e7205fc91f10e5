"""Start, health under load, and shutdown that drains."""

import contextlib
import http.client
import json
import signal
import threading
from pathlib import Path

import pytest

from crowd import LOCAL_OFF, metric
from program import FAKE_ONLY
from running import RunningGateway, gateway
from upstream import Answer, Upstream
from waiting import PATIENCE_S, wait_until
from wire import Reply, call

MODEL = "local/all-minilm-l6-v2"


def embed(running: RunningGateway, inputs: list[str], into: list[Reply], model: str = MODEL) -> threading.Thread:
    body = {"model": model, "input": inputs}
    headers = {"x-api-key": running.key}

    def ask() -> None:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):  # of a gateway that a test kills
            into.append(call(running.url, "/v1/embeddings", body, headers))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_health_answers_at_once_while_a_large_request_runs(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        # About as long as 2,048 texts may be within the tokens of one request: half a minute of work, in
        # fewer runs of the model than there are answers here: if each had to wait for one, the last would be too late.
        thread = embed(running, [f"{i} " + "word " * 135 for i in range(2048)], [])
        wait_until("it runs", lambda: metric(running, "embedgate_requests_running") == 1)
        for _ in range(150):
            assert call(running.url, "/healthz").json == {"status": "ok"}
        assert thread.is_alive()
        running.process.kill()  # nobody waits for the answer
        thread.join(PATIENCE_S)


def test_sigterm_answers_what_is_in_flight_and_exits_with_zero(tmp_path: Path) -> None:
    with gateway(tmp_path, "[server]\ndrain_timeout_s = 300\nrequest_timeout_s = 300\n") as running:
        replies: list[Reply] = []
        thread = embed(running, [f"{i} " + "word " * 200 for i in range(50)], replies)
        wait_until("it runs", lambda: metric(running, "embedgate_requests_running") == 1)
        assert running.terminate(310) == 0
        thread.join()
        assert [reply.status for reply in replies] == [200]
        assert len(replies[0].json["data"]) == 50
        with pytest.raises(OSError):
            call(running.url, "/healthz")


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stuck_provider_does_not_hold_up_the_end(tmp_path: Path, openai_host: Upstream, signals: int) -> None:
    openai_host.reset()
    openai_host.usually(Answer(gate=threading.Event()))
    drain_timeout_s = 1 if signals == 1 else 300
    config = f"""{LOCAL_OFF}
        [providers.openai]
        base_url = "{openai_host.base_url}"
        [server]
        drain_timeout_s = {drain_timeout_s}
    """
    with gateway(tmp_path, config, {"OPENAI_API_KEY": "sk-x"}) as running:
        replies: list[Reply] = []
        thread = embed(running, ["hello"], replies, model="openai/text-embedding-3-small")
        wait_until("the provider is asked", lambda: bool(openai_host.requests))
        if signals == 2:
            running.process.send_signal(signal.SIGTERM)
            wait_until("it drains", lambda: "draining" in running.log.read_text())
        assert running.terminate(PATIENCE_S) == 0
        thread.join(PATIENCE_S)
    openai_host.reset()
    if signals == 1:
        assert [(reply.status, reply.json["error"]["code"]) for reply in replies] == [(503, "overloaded")]


def test_a_second_start_keeps_the_keys(tmp_path: Path) -> None:
    with gateway(tmp_path, FAKE_ONLY) as first:
        key = first.key
        assert first.terminate() == 0
    with gateway(tmp_path, FAKE_ONLY) as second:
        assert second.key == key
        assert call(second.url, "/v1/models", None, {"authorization": f"Bearer {key}"}).status == 200


def test_public_routes_need_no_key_and_all_others_do(served: RunningGateway) -> None:
    public = {"/healthz", "/health", "/api/health", "/readyz", "/metrics", "/openapi.json", "/docs", "/"}
    for path in public:
        assert call(served.url, path).status == 200
    paths = json.loads(call(served.url, "/openapi.json").body)["paths"]
    private = set(paths) - public
    assert len(private) >= 8
    for path in private:
        for method in (name.upper() for name in paths[path] if name in ("get", "post", "put", "patch", "delete")):
            if path in ("/api/login", "/api/refresh"):
                continue  # these are how one comes by a credential
            reply = call(served.url, path.replace("{id}", MODEL), None if method == "GET" else b"{}", method=method)
            assert reply.status in (400, 401), (method, path)
            assert reply.status == 401 or reply.json["code"] == "API_KEY_REQUIRED"
