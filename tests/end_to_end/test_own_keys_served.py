"""Keys that a user makes on a running gateway: they work at once, within the bounds, and for nobody else."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from running import RunningGateway, gateway

SETTINGS = """
[providers.fake]
enabled = true
[keys.own]
max_active = 2
models = ["fake/deterministic"]
requests_per_minute = 3
"""
PASSWORD = "seventeen quiet lighthouses"


def ask(running: RunningGateway, method: str, path: str, secret: str, body: object = None) -> tuple[int, Any]:
    request = urllib.request.Request(f"{running.url}{path}", method=method)
    request.add_header("content-type", "application/json")
    if secret:
        request.add_header("authorization", f"Bearer {secret}")
    try:
        with urllib.request.urlopen(request, json.dumps(body).encode() if body is not None else None) as reply:
            return reply.status, json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def test_a_user_makes_a_key_within_the_bounds(tmp_path: Path) -> None:
    with gateway(tmp_path, SETTINGS, {"EMBEDGATE_KEYS__OWN__MAX_DAYS": "7"}) as running:
        admin = running.admin_key
        for name in ("ann", "bob"):
            assert ask(running, "POST", "/api/users", admin, {"name": name})[0] == 201
            assert ask(running, "PUT", f"/api/users/{name}/password", admin, {"password": PASSWORD})[0] == 200
        ann, bob = (
            ask(running, "POST", "/api/login", "", {"name": name, "password": PASSWORD})[1]["access_token"]
            for name in ("ann", "bob")
        )
        assert ask(running, "GET", "/api/me/key-bounds", ann)[1]["max_days"] == 7
        status, made = ask(running, "POST", "/api/me/keys", ann, {"name": "laptop"})
        assert status == 201
        secret = made["secret"]
        body = {"model": "fake/deterministic", "input": "x"}
        assert ask(running, "POST", "/v1/embeddings", secret, body)[0] == 200
        status, refused = ask(running, "POST", "/v1/embeddings", secret, body | {"model": "local/all-minilm-l6-v2"})
        assert status == 403
        assert "fake/deterministic" in refused["error"]["message"]
        assert [model["id"] for model in ask(running, "GET", "/v1/models", secret)[1]["data"]] == ["fake/deterministic"]
        judged = ask(
            running, "POST", "/api/policies/dry-run", admin, {"key": "laptop", "model": "local/all-minilm-l6-v2"}
        )[1]
        assert not judged["is_permitted"]
        assert not any(verdict["is_permitted"] for verdict in judged["providers"])
        assert ask(running, "POST", "/v1/embeddings", secret, body)[0] == 200
        (limit,) = ask(running, "GET", "/api/limits", admin)[1]["items"]
        assert (limit["subject"], limit["requests_per_minute"]) == (made["key"]["id"], 3)
        assert ask(running, "POST", "/api/me/keys", secret, {"name": "more"})[0] == 403  # a key makes no keys
        other = ask(running, "POST", "/api/me/keys", ann, {"name": "desktop"})[1]
        status, refused = ask(running, "POST", "/api/me/keys/desktop/rotate", secret)
        assert (status, "Log in" in refused["error"]) == (403, True)  # and gets no other secret
        assert ask(running, "POST", "/api/me/keys/desktop/rotate", other["secret"], {"overlap_s": 60})[0] == 200
        assert ask(running, "POST", "/api/me/keys/desktop/rotate", other["secret"])[0] == 403  # an old secret
        assert ask(running, "POST", "/api/me/keys/desktop/rotate", ann)[0] == 200
        for verb in ("rotate", "revoke"):
            for named in ("laptop", made["key"]["id"]):
                assert ask(running, "POST", f"/api/me/keys/{named}/{verb}", bob)[0] == 404
        assert ask(running, "POST", "/api/me/keys/laptop/revoke", ann)[1]["state"] == "revoked"
        assert ask(running, "POST", "/v1/embeddings", secret, body)[0] == 401
