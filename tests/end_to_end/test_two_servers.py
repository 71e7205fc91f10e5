"""Two servers on one data folder: only the first counts budgets and knows idempotency keys; the other takes over."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from administrator import administrator
from billing_provider import BillingProvider
from crowd import LOCAL_OFF, MODEL, weight
from embedgate.core.access import Subject
from forked import forks
from waiting import wait_until
from wire import Reply, call

TEXT = "caller {:08}"
UNIT = weight(TEXT.format(0)) * 20_000
NUMBERS = itertools.count()


def embed(url: str, secret: str, **headers: str) -> Reply:
    body = {"model": MODEL, "input": TEXT.format(next(NUMBERS))}
    return call(url, "/v1/embeddings", body, {"x-api-key": secret, **headers})


def test_what_one_process_counts_is_left_to_the_first_server_until_it_has_ended(
    tmp_path: Path, host: BillingProvider
) -> None:
    config = tmp_path / "embedgate.toml"
    config.write_text(f'{LOCAL_OFF}\n[providers.openai]\nbase_url = "{host.base_url}"\n', encoding="utf-8")
    environment = {"OPENAI_API_KEY": "sk-upstream"}
    with (
        forks(tmp_path / "first.log", **environment) as one,
        forks(tmp_path / "second.log", **environment) as other,
        administrator(tmp_path) as admin,
        ThreadPoolExecutor(1) as callers,
    ):
        first = one.start(tmp_path, config)
        for lock in tmp_path.glob("*.lock"):
            lock.unlink()  # as somebody may who takes it for a stale one
        second = other.start(tmp_path, config)
        key, secret = admin.new_key()
        assert [embed(server.url, secret).status for server in (first, second)] == [200, 200]
        refused = embed(second.url, secret, **{"idempotency-key": "k"})
        assert (refused.status, refused.json["error"]["code"]) == (503, "overloaded")
        assert "Another server runs on the same data folder" in refused.json["error"]["message"]
        assert embed(first.url, secret, **{"idempotency-key": "k"}).status == 200
        assert "other_server" in call(second.url, "/readyz").json["reached"]

        admin.set_budget(Subject("key", key.id), "total", 6 * UNIT)  # three of which are spent
        poor, of_poor = admin.new_key()
        admin.set_budget(Subject("key", poor.id), "total", 0)  # after the other: who heeds it heeds both
        wait_until("the budgets are in force", lambda: embed(first.url, of_poor).status == 402)
        wait_until("they are at the other, too", lambda: embed(second.url, of_poor).status == 503)
        n_billed = host.calls_billed
        assert [embed(second.url, secret).status for _ in range(2)] == [503, 503]
        assert host.calls_billed == n_billed
        assert embed(first.url, secret).status == 200
        host.every_call("hang")

        def leave_open() -> None:
            with suppress(OSError, HTTPException):
                embed(first.url, secret)

        callers.submit(leave_open)
        wait_until("a call is at the provider", lambda: host.calls_by_mode()["hang"] == 1)
        first.kill()
        host.every_call("normal")
        n_before = host.calls_billed
        wait_until("the other has taken over", lambda: call(second.url, "/readyz").json.get("reached", []) == [])
        assert [embed(second.url, secret).status for _ in range(2)] == [200, 402]
        assert [entry.outcome for entry in admin.entries(key)].count("interrupted") == 1
        assert embed(second.url, secret, **{"idempotency-key": "k"}).status == 422
        assert host.calls_billed == n_before + 1
