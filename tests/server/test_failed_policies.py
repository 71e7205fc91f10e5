"""A policy that cannot be evaluated for a request: a forbid refuses, and log, metrics and audit trail say so."""

import asyncio
import logging
from typing import Any

import pytest

from admin_calls import Api
from embedgate.providers import fake
from waiting import PATIENCE_S

MODEL = fake.models()[0].id
FORBID = """@id("daily")
forbid (principal, action, resource) when { principal.user.limit_requests_per_minute * %d > 1000000 };"""


async def test_a_forbid_that_overflows_refuses_and_is_told_of(
    api: Api, user_api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    checked = await api("POST", "/api/policies/check", {"text": FORBID % 10_000_000})
    assert checked["ok"]
    assert [(each["line"], "overflow" in each["message"]) for each in checked["warnings"]] == [(2, True)]
    await api("POST", "/api/policies", {"text": FORBID % 10_000_000})
    caplog.set_level(logging.INFO, "embedgate")
    body = {"model": MODEL, "input": "a text"}
    for _ in range(2):
        refused = await user_api("POST", "/v1/embeddings", body, status=403)
        assert "daily" in refused["error"]["message"]
        assert "could not be evaluated" in refused["error"]["message"]
    assert [record.message for record in caplog.records].count("policy_failed") == 1
    metrics = (await user_api.reply("GET", "/metrics")).body.decode()
    assert 'embedgate_policy_failures_total{effect="forbid"}' in metrics
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_S):  # the trail is written aside
        while not events:
            events = (await api("GET", "/api/audit?kind=decision&sort=-seq"))["items"]
            await asyncio.sleep(0.01)
    event = events[0]
    assert (event["outcome"], event["policies"]) == ("forbid", ["daily"])
    assert "overflow" in event["detail"]["errors"]


async def test_a_user_without_a_limit_has_one_that_can_be_calculated_with(api: Api, user_api: Api) -> None:
    await api("POST", "/api/policies", {"text": FORBID % 1_440})
    body = {"model": MODEL, "input": "a text"}
    refused = await user_api("POST", "/v1/embeddings", body, status=403)
    assert "is forbidden by policy daily" in refused["error"]["message"]
    await api("PUT", "/api/limits/user/*", {"requests_per_minute": 100})
    await user_api("POST", "/v1/embeddings", body)
