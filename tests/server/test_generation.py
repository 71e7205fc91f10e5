"""What a request cost is told at once, to whoever made it and to administrators, exactly."""

import json
from decimal import Decimal
from typing import Any

import pytest

from admin_calls import Api
from embedgate.core.types import LedgerEntry
from embedgate.providers import fake
from embedgate.server.generation import generation_of
from embedgate.wiring import Gateway

ROUTES = ("/v1/generation", "/api/v1/generation")


async def asked(api: Api, *texts: str) -> str:
    """The id of an embeddings request."""
    reply = await api.reply("POST", "/v1/embeddings", {"model": fake.MODEL_ID, "input": texts})
    assert reply.status == 200
    return reply.headers["x-request-id"]


async def shown(api: Api, request_id: str, route: str = ROUTES[0]) -> dict[str, Any]:
    reply = await api.reply("GET", f"{route}?id={request_id}")
    assert reply.status == 200, reply.body
    found: dict[str, Any] = json.loads(reply.body, parse_float=Decimal)
    return found


async def test_a_request_is_told_with_its_exact_cost_and_what_was_reused(api: Api, user_api: Api) -> None:
    await api("POST", "/api/prices", {"model": fake.MODEL_ID, "provider": "fake", "usd_per_million_tokens": "0.02"})
    first = await asked(user_api, "one text of it")
    second = await asked(user_api, "one text of it", "another")
    for route in ROUTES:
        found = await shown(user_api, second, route)
        assert found.pop("createAt").endswith("Z")
        assert {found.pop("generationTime"), found.pop("latency")} <= set(range(10_000))
        assert found == {
            "api": "embeddings",
            "generationId": second,
            "model": fake.MODEL_ID,
            "nativeTokens": {
                "prompt_tokens": 6,
                "completion_tokens": 0,
                "total_tokens": 6,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            "usage": Decimal("0.00000004"),
            "provider": "fake",
            "upstreamModel": "deterministic",
            "action": "embedding",
            "dialect": "openai",
            "outcome": "ok",
        }
    assert (await shown(user_api, first))["usage"] == Decimal("0.00000008")


async def test_the_cost_has_all_its_digits_on_the_wire(api: Api, user_api: Api) -> None:
    await api("POST", "/api/prices", {"model": fake.MODEL_ID, "provider": "fake", "usd_per_million_tokens": "0.02"})
    reply = await user_api.reply("GET", f"/v1/generation?id={await asked(user_api, 'x')}")
    assert b'"usage":0.00000002,' in reply.body


async def test_requests_of_others_are_as_unknown_as_those_that_never_were(
    api: Api, user_api: Api, served: Gateway
) -> None:
    of_admin, of_user = await asked(api, "of the admin"), await asked(user_api, "of the user")
    hidden = await user_api("GET", f"/v1/generation?id={of_admin}", status=404)
    absent = await user_api("GET", f"/v1/generation?id={of_admin[:-4]}0000", status=404)
    assert hidden["error"]["code"] == absent["error"]["code"] == "unknown_entity"
    assert hidden["error"]["message"].replace(of_admin, "") == absent["error"]["message"].replace(
        f"{of_admin[:-4]}0000", ""
    )
    assert (await shown(api, of_user))["generationId"] == of_user
    # Another key of the same user sees it, too.
    assert served.first_keys
    made = await api("POST", "/api/keys", {"user": "user", "name": "second"})
    assert (await shown(api.with_key(made["secret"]), of_user))["generationId"] == of_user


@pytest.mark.parametrize("query", ["", "?id=", "?id=%FF", "?id=a&id=b"])
async def test_a_query_that_names_no_request_is_refused(user_api: Api, query: str) -> None:
    assert (await user_api.reply("GET", f"/v1/generation{query}")).status == 400
    assert (await user_api.with_key("").reply("GET", f"/v1/generation{query}")).status == 401


async def test_what_was_refused_left_nothing(user_api: Api) -> None:
    refused = await user_api.reply("POST", "/v1/embeddings", {"model": "nobody/nothing", "input": "x"})
    await user_api("GET", f"/v1/generation?id={refused.headers['x-request-id']}", status=404)


def test_a_completion_has_its_own_name_and_its_output() -> None:
    entry = LedgerEntry(
        request_id="req_1",
        at_ms=1_000_250,
        dialect="ziri",
        user_id="u",
        key_id="k",
        end_user=None,
        model="acme/talker",
        space="acme/talker",
        provider="acme",
        upstream_model="talker",
        items=1,
        tokens=10,
        reused_tokens=0,
        tokens_estimated=False,
        price_picodollars=1,
        price_as_of=None,
        cost_picodollars=1,
        outcome="cancelled",
        total_ms=250.4,
        upstream_ms=200.6,
        action="completion",
        output_tokens=5,
    )
    found = generation_of(entry)
    assert (found.api, found.native_tokens.completion_tokens, found.native_tokens.total_tokens) == (
        "chat.completions",
        5,
        15,
    )
    assert (found.create_at.timestamp(), found.latency, found.generation_time) == (1000.0, 250, 201)
    assert (bytes(found.usage), found.outcome) == (b"0.000000000001", "cancelled")
