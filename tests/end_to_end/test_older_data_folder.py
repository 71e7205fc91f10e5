"""A data folder that the program wrote before its administration was rebuilt is served by the program of today.

The database is kept as the SQL that makes it: users, a role, a project, a rotated key, limits, a budget, a price, a
policy, a sealed provider key, four requests in the ledger, and the audit trail of all that.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from program import FAKE_ONLY
from running import RunningGateway, gateway
from wire import call

ADMIN_KEY = "eg_dbfcb1b2948241a08e3d89557da6457f"
ALICE_KEY = "eg_b5cbef3f62f646dfb30676d9e86212af"
MASTER_KEY = "40f742ea3e2a9c176705857755c88ed3fa8ab96cb91beb25b26e3481c030ce00"
HEAD = {"seq": 16, "digest": "1c553842897b8c1dfa49c74467b1191eeae4d0b10351011ac4e47a106169d74a"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    data_dir = tmp_path_factory.mktemp("older")
    written = Path(__file__).parent / "older" / "embedgate-0.1.0.sql"
    with closing(sqlite3.connect(data_dir / "embedgate.db")) as database:
        database.executescript(written.read_text(encoding="utf-8"))
    (data_dir / "secrets.key").write_text(f"{MASTER_KEY}\n", encoding="ascii")
    with gateway(data_dir, FAKE_ONLY) as served:
        yield served


def ask(running: RunningGateway, path: str) -> dict[str, Any]:
    reply = call(running.url, path, None, {"x-api-key": ADMIN_KEY})
    assert reply.status == 200, reply.body
    return reply.json


def test_its_keys_are_served(running: RunningGateway) -> None:
    reply = call(running.url, "/v1/embeddings", {"model": "fake/deterministic", "input": "x"}, {"x-api-key": ALICE_KEY})
    assert (reply.status, reply.headers["x-ratelimit-limit-requests"]) == (200, "600")


def test_its_passwords_are_right(running: RunningGateway) -> None:
    assert call(running.url, "/api/login", {"name": "alice", "password": "correct horse battery"}).status == 200


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/users/alice", {"email": "alice@example.com", "tenant": "research", "roles": ["analyst"]}),
        ("/api/projects/search", {"is_disabled": False}),
        ("/api/policies/no-large", {"description": "No large ones", "is_enabled": True}),
        ("/api/providers/openai", {"key_hint": "wXyZ", "is_on": True}),
    ],
)
def test_its_records_are_read(running: RunningGateway, path: str, expected: dict[str, object]) -> None:
    found = ask(running, path)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/limits", {"kind": "user", "requests_per_minute": 600}),
        ("/api/budgets", {"kind": "project", "period": "month", "cap_usd": "5.0"}),
        ("/api/prices", {"model": "openai/text-embedding-3-small", "provider": "openai"}),
    ],
)
def test_its_rules_are_read(running: RunningGateway, path: str, expected: dict[str, object]) -> None:
    found = ask(running, path)
    (rule,) = found["items"]
    assert {name: rule[name] for name in expected} == expected


def test_its_ledger_is_summed(running: RunningGateway) -> None:
    found = ask(running, "/api/usage?by=user&until=2026-11-28T09:50:00Z")
    (alice,) = found["items"]
    assert (alice["requests"], alice["tokens"], alice["reused_tokens"]) == (4, 6, 2)


def test_its_audit_trail_goes_on(running: RunningGateway) -> None:
    found = ask(running, f"/api/audit/verify?seq={HEAD['seq']}&digest={HEAD['digest']}")
    assert found["ok"]
    assert found["events"] >= HEAD["seq"]
