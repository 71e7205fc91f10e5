"""Start, health under load, and shutdown that drains."""

import contextlib
import http.client
import json
import statistics
import threading
import time
from pathlib import Path

import pytest

from running import RunningGateway, gateway
from wire import Reply, call

MODEL = "local/all-minilm-l6-v2"


def embed(running: RunningGateway, inputs: list[str], into: list[Reply]) -> threading.Thread:
    body = {"model": MODEL, "input": inputs}
    headers = {"x-api-key": running.key}

    def ask() -> None:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):  # of a gateway that a test kills
            into.append(call(running.url, "/v1/embeddings", body, headers))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_health_answers_at_once_while_a_large_request_runs(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        # As long as 2,048 texts may be within the tokens of one request: half a minute of work.
        thread = embed(running, ["word " * 140] * 2048, [])
        waits_ms = []
        while len(waits_ms) < 60:
            started_s = time.monotonic()
            assert call(running.url, "/healthz").json == {"status": "ok"}
            waits_ms.append((time.monotonic() - started_s) * 1000)
            time.sleep(0.03)
        assert thread.is_alive()
        assert statistics.median(waits_ms) < 50
        running.process.kill()  # nobody waits for the answer
        thread.join(30)


def test_sigterm_answers_what_is_in_flight_and_exits_with_zero(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        replies: list[Reply] = []
        thread = embed(running, ["word " * 200] * 100, replies)
        time.sleep(0.5)
        assert thread.is_alive()
        assert running.terminate() == 0
        thread.join(30)
        assert [reply.status for reply in replies] == [200]
        assert len(replies[0].json["data"]) == 100
        with pytest.raises(OSError):
            call(running.url, "/healthz")


def test_a_second_start_keeps_the_keys(tmp_path: Path) -> None:
    with gateway(tmp_path) as first:
        key = first.key
        assert first.terminate() == 0
    with gateway(tmp_path) as second:
        assert second.key == key
        assert call(second.url, "/v1/models", None, {"authorization": f"Bearer {key}"}).status == 200


def test_public_routes_need_no_key_and_all_others_do(served: RunningGateway) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs", "/"):
        assert call(served.url, path).status == 200
    paths = json.loads(call(served.url, "/openapi.json").body)["paths"]
    private = set(paths) - {"/healthz", "/readyz", "/openapi.json", "/docs", "/"}
    assert len(private) >= 8
    for path in private:
        method = "POST" if "post" in paths[path] else "GET"
        reply = call(served.url, path.replace("{id}", MODEL), b"{}" if method == "POST" else None, method=method)
        assert reply.status in (400, 401), path
        assert reply.status == 401 or reply.json["code"] == "API_KEY_REQUIRED"
