"""Usage and the audit trail over the administration API."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from admin_calls import Api
from embedgate.providers import fake

MODEL = fake.models()[0].id
UPSTREAM = MODEL.partition("/")[2]


@pytest.fixture
async def used(api: Api, user_api: Api) -> dict[str, Any]:
    """A request of the user, and one of the administrator."""
    await api("POST", "/api/prices", {"model": MODEL, "provider": "fake", "usd_per_million_tokens": "0.5"})
    body = {"provider": "fake", "model": UPSTREAM, "input": ["a text", "another text"], "user": "=1+1"}
    await api("POST", "/api/embeddings", {**body, "cache": "no-store"})
    answer: dict[str, Any] = await user_api("POST", "/api/embeddings", {**body, "cache": "no-store"})
    return answer


def last_days() -> set[str]:
    """Today, and yesterday: a test may run across midnight."""
    now = datetime.now(UTC)
    return {day.date().isoformat() for day in (now, now - timedelta(days=1))}


async def test_usage_is_summed_up_by_anything(api: Api, used: dict[str, Any]) -> None:
    (total,) = (await api("GET", "/api/usage"))["items"]
    tokens = 2 * used["usage"]["total_tokens"]
    assert (total["requests"], total["items"], total["tokens"], total["group"]) == (2, 4, tokens, {})
    assert float(total["cost_usd"]) == pytest.approx(tokens * 5e-7)
    rows = (await api("GET", "/api/usage?by=day,user&sort=-cost_usd"))["items"]
    assert {row["names"]["user"] for row in rows} == {"admin", "user"}
    assert {row["group"]["day"] for row in rows} <= last_days()
    (row,) = (await api("GET", "/api/usage?by=user&user=user"))["items"]
    assert row["names"] == {"user": "user"}
    assert (await api("GET", "/api/usage?by=user&search=adm"))["total"] == 1
    assert (await api("GET", "/api/usage?by=planet", status=400))["error"].startswith("Usage cannot be grouped by")
    await api("GET", "/api/usage?user=nobody", status=404)
    later = await api("GET", "/api/usage?since=2999-01-01T00:00:00Z")
    assert later["items"][0]["requests"] == 0


async def test_usage_and_entries_come_as_csv(api: Api, used: dict[str, Any]) -> None:
    reply = await api.reply("GET", "/api/usage?by=model&format=csv")
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    head, row = reply.body.decode().splitlines()
    assert (head.split(",")[0], row.split(",")[:2]) == ("model", [MODEL, "2"])
    lines = (await api.reply("GET", "/api/usage/entries?format=csv")).body.decode().splitlines()
    assert len(lines) == 3
    assert "'=1+1" in lines[1]


async def test_entries_are_listed_newest_first(api: Api, user_api: Api, used: dict[str, Any]) -> None:
    page = await api("GET", "/api/usage/entries?limit=1")
    assert (page["total"], page["items"][0]["request_id"]) == (2, used["_meta"]["requestId"])
    assert page["items"][0]["price_usd"] == "0.0000005"
    assert (await api("GET", "/api/usage/entries?sort=at"))["items"][1] == page["items"][0]
    own = await user_api("GET", "/api/me/usage/entries")
    assert own["items"] == page["items"]
    (row,) = (await user_api("GET", "/api/me/usage?by=key"))["items"]
    assert (row["requests"], list(row["names"])) == (1, ["key"])


async def test_a_bill_is_compared_with_the_ledger(api: Api, used: dict[str, Any]) -> None:
    (row,) = (await api("GET", "/api/usage?by=day"))["items"]
    day = row["group"]["day"]
    assert day in last_days()
    bill = f"date,model,tokens\n{day},{UPSTREAM},1000\n"
    found = await api("POST", "/api/usage/reconcile", {"provider": "fake", "bill": bill})
    tokens = 2 * used["usage"]["total_tokens"]
    assert found["total"]["token_difference"] == 1000 - tokens
    assert (found["rows"][0]["day"], found["total"]["billed_cost_usd"]) == (day, None)
    refused = await api("POST", "/api/usage/reconcile", {"provider": "fake", "bill": "date,model\n"}, 400)
    assert "no rows" in refused["error"]


async def test_every_change_is_in_the_trail_with_its_request(api: Api) -> None:
    reply = await api.reply("POST", "/api/users", {"name": "alice"})
    (event,) = (await api("GET", "/api/audit?action=users.create"))["items"]
    assert (event["target"], event["request_id"]) == (reply.json["id"], reply.headers["x-request-id"])
    assert event["actor"] == (await api("GET", "/api/me"))["id"]
    await api("POST", "/api/users", {"name": "alice"}, 409)
    assert (await api("GET", "/api/audit?action=users.create"))["total"] == 1
    assert (await api("GET", "/api/audit?search=users&sort=at&until=1999-01-01T00:00:00Z"))["total"] == 0


async def test_the_trail_is_verified_also_against_an_end_that_was_kept(api: Api) -> None:
    await api("POST", "/api/users", {"name": "alice"})
    first = await api("GET", "/api/audit/verify")
    assert (first["ok"], first["first_break"]) == (True, None)
    kept = f"seq={first['end']['seq']}&digest={first['end']['digest']}"
    await api("POST", "/api/users", {"name": "bob"})
    assert (await api("GET", f"/api/audit/verify?{kept}"))["ok"]
    wrong = await api("GET", f"/api/audit/verify?seq={first['end']['seq']}&digest={'0' * 64}")
    assert (wrong["ok"], wrong["first_break"]["seq"]) == (False, first["end"]["seq"])
    await api("GET", "/api/audit/verify?seq=1", status=400)
