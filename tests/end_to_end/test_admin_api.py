"""An administrator at work over a socket: what is answered holds for the very next request, without a restart."""

import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from embedgate.providers import fake
from running import RunningGateway, gateway
from waiting import PATIENCE_S
from wire import Reply, call

MODEL = fake.models()[0].id
SETTINGS = f"""
    [providers.fake]
    enabled = true
    [providers.local]
    enabled = false
    [local]
    default_model = "{MODEL}"
"""
PASSWORD = "a long and unlikely phrase"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with the provider that needs no model."""
    with gateway(tmp_path_factory.mktemp("admin"), SETTINGS) as started:
        yield started


def ask(running: RunningGateway, method: str, path: str, body: Any = None, key: str | None = None) -> Reply:
    raw = None if body is None else json.dumps(body).encode()
    return call(running.url, path, raw, {"authorization": f"Bearer {key or running.admin_key}"}, method)


def embed(running: RunningGateway, key: str) -> Reply:
    body = {"model": MODEL, "input": "a text", "cache": "no-store"}
    return call(running.url, "/v1/embeddings", body, {"authorization": f"Bearer {key}"})


def new_key(running: RunningGateway, user: str) -> tuple[str, str]:
    """The id and the secret of a new key of a new user."""
    assert ask(running, "POST", "/api/users", {"name": user}).status == 201
    made = ask(running, "POST", "/api/keys", {"user": user, "name": "k"}).json
    return made["key"]["id"], made["secret"]


def test_a_user_gets_a_key_a_policy_a_budget_and_is_stopped(running: RunningGateway) -> None:
    key_id, secret = new_key(running, "alice")
    assert embed(running, secret).status == 200
    policy = '@id("not-alice")\nforbid (principal, action, resource)\nwhen { principal.user.user_id == "%s" };'
    alice = ask(running, "GET", "/api/users/alice").json["id"]
    assert ask(running, "PUT", "/api/policies/not-alice", {"text": policy % alice}).status == 200
    assert embed(running, secret).json["error"]["code"] == "permission_denied"
    assert ask(running, "DELETE", "/api/policies/not-alice").status == 204
    price = {"model": MODEL, "provider": "fake", "usd_per_million_tokens": "1"}
    assert ask(running, "POST", "/api/prices", price).status == 201
    assert ask(running, "PUT", "/api/budgets/user/alice/month", {"cap_usd": "0"}).status == 200
    assert embed(running, secret).json["error"]["code"] == "insufficient_quota"
    assert ask(running, "PUT", "/api/budgets/user/alice/month", {"cap_usd": "1"}).status == 200
    assert embed(running, secret).status == 200
    assert ask(running, "POST", f"/api/keys/{key_id}/revoke").status == 200
    assert embed(running, secret).status == 401


def test_no_request_passes_after_the_answer_to_a_revocation(running: RunningGateway) -> None:
    key_id, secret = new_key(running, "bob")
    revoked_at_s = float("inf")
    begun = threading.Barrier(4)

    def hammer(_: int) -> list[tuple[float, int]]:
        """When each request began, and its status: some before the revocation, and twenty after it."""
        seen = [(time.monotonic(), embed(running, secret).status)]
        begun.wait(PATIENCE_S)
        while sum(began_s > revoked_at_s for began_s, _ in seen) < 20 and len(seen) < 5_000:
            seen.append((time.monotonic(), embed(running, secret).status))
        return seen

    with ThreadPoolExecutor(3) as callers:
        asked = callers.map(hammer, range(3))
        begun.wait(PATIENCE_S)
        assert ask(running, "POST", f"/api/keys/{key_id}/revoke").status == 200
        revoked_at_s = time.monotonic()
        seen = [each for caller in asked for each in caller]
    assert {status for began_s, status in seen if began_s > revoked_at_s} == {401}
    assert 200 in {status for _, status in seen}


def test_a_login_administers_until_it_is_over(running: RunningGateway) -> None:
    assert ask(running, "PUT", "/api/users/admin/password", {"password": PASSWORD}).status == 200
    login = call(running.url, "/api/login", {"name": "admin", "password": PASSWORD})
    assert (login.status, login.json["access_token"][:4]) == (200, "egs_")
    token = login.json["access_token"]
    assert ask(running, "GET", "/api/users?limit=1", key=token).status == 200
    assert call(running.url, "/v1/models", None, {"authorization": f"Bearer {token}"}).status == 401
    logout = ask(running, "POST", "/api/logout", key=token)
    assert (logout.status, logout.body) == (204, b"")
    assert ask(running, "GET", "/api/users", key=token).json["code"] == "INVALID_CREDENTIALS"


def test_a_name_with_a_slash_is_found_by_its_encoded_form(running: RunningGateway) -> None:
    assert ask(running, "POST", "/api/projects", {"name": "north/search"}).status == 201
    assert ask(running, "GET", "/api/projects/north%2Fsearch").json["name"] == "north/search"
    assert ask(running, "GET", "/api/projects/north/search").status == 404


def test_the_whole_ledger_comes_as_a_file_of_any_length(running: RunningGateway) -> None:
    for _ in range(3):
        assert embed(running, running.key).status == 200
    reply = ask(running, "GET", "/api/usage/entries?format=csv&user=user")
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(reply.body.decode(), newline="")))
    assert {row["outcome"] for row in rows} == {"ok"}
    total = ask(running, "GET", "/api/usage?user=user").json["items"][0]
    assert total["requests"] == len(rows) == 3


def test_nothing_secret_is_in_the_trail_the_log_or_an_answer(running: RunningGateway) -> None:
    _, secret = new_key(running, "carol")
    provider_key = "sk-provider-0123456789abcdef"
    assert ask(running, "PUT", "/api/providers/openai", {"key": provider_key}).status == 200
    assert ask(running, "PUT", "/api/users/carol/password", {"password": PASSWORD}).status == 200
    found = b"".join(
        ask(running, "GET", path).body for path in ("/api/audit?limit=500", "/api/providers", "/api/keys", "/api/users")
    )
    for hidden in (secret, provider_key, PASSWORD):
        assert hidden not in found.decode() + running.log.read_text()
    assert ask(running, "GET", "/api/audit/verify").json["ok"]
