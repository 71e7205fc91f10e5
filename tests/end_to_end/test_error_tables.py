"""Every row of both error tables that can happen yet, over a real socket."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crowd import LOCAL_OFF
from running import RunningGateway, gateway
from upstream import Answer, Upstream, error
from waiting import wait_until
from wire import Reply, call

LOCAL = "local/all-minilm-l6-v2"
REMOTE = "openai/text-embedding-3-small"
RATE_HEADERS = {
    f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
}


@pytest.fixture(autouse=True)
def fresh_upstream(openai_host: Upstream) -> Iterator[None]:
    """Each test scripts the far side anew."""
    openai_host.reset()
    openai_host.dim = 1536
    yield
    openai_host.reset()


def ask_openai(served: RunningGateway, body: Any, key: str | None = None, path: str = "/v1/embeddings") -> Reply:
    headers = {"authorization": f"Bearer {key or served.key}"}
    reply = call(served.url, path, body, headers)
    assert reply.headers["x-request-id"].startswith("req_")
    assert not reply.headers.keys() & RATE_HEADERS  # the key has no limits
    return reply


def ask_ziri(served: RunningGateway, body: Any, key: str | None = None) -> Reply:
    headers = {"x-api-key": served.key if key is None else key} if key != "" else {}
    reply = call(served.url, "/api/embeddings", body, headers)
    assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= reply.headers.keys()
    if reply.status != 200:
        assert {"error", "code", "requestId"} <= reply.json.keys()
        assert reply.json["requestId"] == reply.headers["x-request-id"]
    return reply


OPENAI_ROWS = [
    ({}, 400, "missing_fields", "model"),
    ({"model": LOCAL}, 400, "missing_fields", "input"),
    ({"model": LOCAL, "input": None}, 400, "missing_fields", "input"),
    ({"model": LOCAL, "input": 5}, 400, "invalid_input", "input"),
    ({"model": LOCAL, "input": ["a", 5]}, 400, "invalid_input", "input"),
    ({"model": LOCAL, "input": {"text": "a"}}, 400, "invalid_input", "input"),
    ({"model": LOCAL, "input": [[1], "a"]}, 400, "invalid_input", "input"),
    ({"model": LOCAL, "input": [True]}, 400, "invalid_input", "input"),
    ({"model": LOCAL, "input": [1.5]}, 400, "invalid_input", "input"),
    ({"model": 5, "input": "a"}, 400, "invalid_request", "model"),
    ({"model": LOCAL, "input": "a", "dimensions": "256"}, 400, "invalid_request", "dimensions"),
    ({"model": LOCAL, "input": "a", "dimensions": True}, 400, "invalid_request", "dimensions"),
    ({"model": LOCAL, "input": "a", "dimensions": 9}, 400, "invalid_dimensions", "dimensions"),
    ({"model": LOCAL, "input": "a", "encoding_format": "hex"}, 400, "unsupported_option", "encoding_format"),
    ({"model": LOCAL, "input": "a", "input_type": "title"}, 400, "unsupported_option", "input_type"),
    ({"model": LOCAL, "input": "a", "late_chunking": True}, 400, "unsupported_option", "late_chunking"),
    ({"model": LOCAL, "input": "a", "provider": "x"}, 400, "invalid_request", "provider"),
    ({"model": LOCAL, "input": "word " * 300}, 400, "context_length_exceeded", "input"),
    ({"model": LOCAL, "input": ["word " * 200] * 1600}, 400, "max_tokens_per_request", "input"),
    ({"model": "openai/gpt-4o", "input": "a"}, 400, "model_not_embedding", "model"),
    ({"model": "nobody/nothing", "input": "a"}, 404, "model_not_found", "model"),
    ({"model": "cohere/embed-v4.0", "input": "a"}, 404, "model_not_found", "model"),
    ({"model": f"{LOCAL}:openai", "input": "a"}, 404, "model_not_supported", "model"),
    (
        {"model": LOCAL, "input": "a", "provider": {"fallback": REMOTE}},
        400,
        "unsupported_option",
        "provider.fallback",
    ),
]


@pytest.mark.parametrize(("body", "status", "code", "param"), OPENAI_ROWS)
def test_openai_refusals(served: RunningGateway, body: dict[str, Any], status: int, code: str, param: str) -> None:
    reply = ask_openai(served, body)
    fault = reply.json["error"]
    assert (reply.status, fault["code"], fault["param"]) == (status, code, param)
    assert fault["type"] == "invalid_request_error"
    assert fault["message"]


def test_null_means_absent(served: RunningGateway) -> None:
    body = {"model": LOCAL, "input": "a", "dimensions": None, "encoding_format": None, "user": None, "other": None}
    assert ask_openai(served, body).status == 200


def test_openai_credentials(served: RunningGateway) -> None:
    body = {"model": LOCAL, "input": "a"}
    for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Bearer eg_" + "a" * 32}):
        reply = call(served.url, "/v1/embeddings", body, headers)
        assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
    assert call(served.url, "/v1/embeddings", body, {"x-api-key": served.key}).status == 200
    assert ask_openai(served, body, path="/api/v1/embeddings").status == 200


def test_openai_routes_that_are_not_there(served: RunningGateway) -> None:
    key = {"authorization": f"Bearer {served.key}"}
    reply = call(served.url, "/v1/nothing", None, key)
    assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")
    reply = call(served.url, "/v1/embeddings", None, key)
    assert (reply.status, reply.json["error"]["code"], reply.headers["allow"]) == (405, "method_not_allowed", "POST")


UPSTREAM_ROWS = [
    (error(500, "boom"), 3, 502, "upstream_error"),
    (error(400, "this text is wrong"), 1, 400, "upstream_rejected"),
    (error(422, "this text is wrong"), 1, 400, "upstream_rejected"),
    (error(413, "this text is too large"), 1, 400, "upstream_rejected"),
    (error(400, "The model `m` does not exist"), 1, 502, "upstream_error"),
    (error(404, "no such page"), 1, 502, "upstream_error"),
    (error(401, "bad key"), 1, 502, "upstream_error"),
    (Answer(twist="one_missing"), 1, 502, "upstream_error"),
    (Answer(twist="zeros"), 3, 502, "upstream_error"),
    (Answer(twist="truncated_json"), 3, 502, "upstream_error"),
    (Answer(status=502, body=b"<html>bad gateway</html>"), 3, 502, "upstream_error"),
]


@pytest.mark.parametrize(("answer", "calls", "status", "code"), UPSTREAM_ROWS)
def test_upstream_trouble(
    served: RunningGateway, openai_host: Upstream, answer: Answer, calls: int, status: int, code: str
) -> None:
    openai_host.usually(answer)
    reply = ask_openai(served, {"model": REMOTE, "input": "hello"})
    assert (reply.status, reply.json["error"]["code"]) == (status, code)
    assert len(openai_host.requests) == calls


def test_an_upstream_that_does_not_answer_in_time(tmp_path: Path, openai_host: Upstream) -> None:
    openai_host.usually(Answer(delay_s=5))
    config = f"""{LOCAL_OFF}
        [providers.openai]
        base_url = "{openai_host.base_url}"
        [server]
        request_timeout_s = 0.5
    """
    with gateway(tmp_path, config, {"OPENAI_API_KEY": "sk-x"}) as slow:
        reply = ask_openai(slow, {"model": REMOTE, "input": "hello"})
        assert (reply.status, reply.json["error"]["code"]) == (504, "upstream_timeout")
        ziri = ask_ziri(slow, {"provider": "openai", "model": "text-embedding-3-small", "input": "hello"})
        assert (ziri.status, ziri.json["code"]) == (502, "LLM_PROVIDER_ERROR")


def ziri_body(**changes: Any) -> dict[str, Any]:
    return {"provider": "local", "model": "all-minilm-l6-v2", "input": "a"} | changes


ZIRI_ROWS = [
    ({"provider": None}, 400, "MISSING_FIELDS", "provider, model, and input are required"),
    ({"model": ""}, 400, "MISSING_FIELDS", "provider, model, and input are required"),
    ({"input": None}, 400, "MISSING_FIELDS", "provider, model, and input are required"),
    ({"input": ""}, 400, "INVALID_REQUEST", None),
    ({"dimensions": 9}, 400, "INVALID_REQUEST", None),
    ({"encoding_format": "hex"}, 400, "INVALID_REQUEST", None),
    ({"late_chunking": True}, 400, "INVALID_REQUEST", None),
    (
        {"provider": "openai", "model": "gpt-4o"},
        400,
        "ACTION_NOT_SUPPORTED",
        "Model gpt-4o does not support embedding action. Use text-embedding-3-small instead.",
    ),
    ({"model": "nothing"}, 400, "MODEL_NOT_SUPPORTED", None),
    ({"provider": "openai", "model": "all-minilm-l6-v2"}, 400, "MODEL_NOT_SUPPORTED", None),
    ({"provider": "nobody"}, 404, "PROVIDER_NOT_FOUND", None),
    ({"provider": "cohere", "model": "embed-v4.0"}, 500, "PROVIDER_KEY_MISSING", None),
]


@pytest.mark.parametrize(("changes", "status", "code", "message"), ZIRI_ROWS)
def test_ziri_refusals(
    served: RunningGateway, changes: dict[str, Any], status: int, code: str, message: str | None
) -> None:
    reply = ask_ziri(served, ziri_body(**changes))
    assert (reply.status, reply.json["code"]) == (status, code)
    assert message is None or reply.json["error"] == message


def test_ziri_credentials(served: RunningGateway, openai_host: Upstream) -> None:
    reply = ask_ziri(served, ziri_body(), key="")
    assert (reply.status, reply.json["code"]) == (400, "API_KEY_REQUIRED")
    assert reply.json["error"] == "API key required. Include X-API-Key header."
    reply = ask_ziri(served, ziri_body(), key="nonsense")
    assert (reply.status, reply.json["code"]) == (401, "INVALID_API_KEY_FORMAT")
    reply = ask_ziri(served, ziri_body(), key="eg_" + "a" * 12 + "4" + "a" * 3 + "8" + "a" * 15)
    assert (reply.status, reply.json["code"]) == (403, "API_KEY_INVALID")


def test_ziri_upstream_trouble_and_paths_that_are_not_there(served: RunningGateway, openai_host: Upstream) -> None:
    openai_host.usually(error(400, "the model is on holiday"))
    body = ziri_body(provider="openai", model="text-embedding-3-small")
    reply = ask_ziri(served, body)
    assert (reply.status, reply.json["code"]) == (400, "INVALID_REQUEST")
    assert "on holiday" in reply.json["error"]
    openai_host.usually(error(500, "the model is on holiday"))
    reply = ask_ziri(served, body)
    assert (reply.status, reply.json["code"]) == (502, "LLM_PROVIDER_ERROR")
    missing = call(served.url, "/api/nothing", None, {"x-api-key": served.key})
    assert (missing.status, missing.json["code"]) == (404, "NOT_FOUND")


def test_a_revoked_key_stops_working(tmp_path: Path) -> None:
    import subprocess
    import sys

    with gateway(tmp_path) as running:
        secret = running.key
        assert ask_ziri(running, ziri_body(), key=secret).status == 200
        command = [sys.executable, "-m", "embedgate", "keys", "revoke", secret, "--yes"]
        config = ["--config", str(tmp_path / "embedgate.toml")]
        environment = {"EMBEDGATE_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
        subprocess.run([*command[:3], *config, *command[3:]], check=True, env=environment, capture_output=True)
        wait_until("it is in force", lambda: ask_ziri(running, ziri_body(), key=secret).status != 200)
        reply = ask_ziri(running, ziri_body(), key=secret)
        assert (reply.status, reply.json["code"]) == (403, "API_KEY_REVOKED_OR_DISABLED")
        assert call(running.url, "/v1/models", None, {"authorization": f"Bearer {secret}"}).status == 401


def test_a_served_ziri_request_has_its_meta(served: RunningGateway, openai_host: Upstream) -> None:
    reply = ask_ziri(served, ziri_body(provider="openai", model="text-embedding-3-small", input="hello there"))
    assert reply.status == 200
    body = reply.json
    assert (body["object"], body["model"], body["data"][0]["index"]) == ("list", "text-embedding-3-small", 0)
    tokens = body["usage"]["prompt_tokens"]
    assert tokens > 0
    assert body["_meta"]["requestId"] == reply.headers["x-request-id"]
    assert body["_meta"]["cost"]["totalCost"] == pytest.approx(tokens * 2e-8, rel=1e-12)
    assert b"e-" not in reply.body.rpartition(b'"_meta"')[2]
    assert set(body["_meta"]["timing"]) == {"totalMs", "authMs", "llmMs"}
