"""The list of models holds what the key may use and nothing else, with its prices to the last digit."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from admin_calls import Api
from embedgate.config import Loaded, Secrets
from embedgate.server.app import Application
from embedgate.settings import CatalogSettings, ProviderSettings, Settings, StorageSettings, UpstreamSettings
from embedgate.wiring import Gateway, open_gateway
from empty_database import write_empty_database

CATALOGUE = """
    [[model]]
    id = "acme/encoder"
    dims = { default = 1024, min = 8, max = 1024 }
    matryoshka = true
    normalised = true
    max_input_tokens = 512
    [[model.route]]
    provider = "dear"
    upstream_model = "enc"
    max_inputs = 96
    query_prefix = "query: "
    accepts_truncate = true
    usd_per_million_input_tokens = "0.3"
    price_as_of = "2026-11-01"
    [[model.route]]
    provider = "cheap"
    upstream_model = "encoder-v1"
    max_input_tokens = 256
    usd_per_million_input_tokens = "0.000001"

    [[model]]
    id = "acme/lengths-count"
    dims = { default = 12 }
    max_input_tokens = 512
    [[model.route]]
    provider = "dear"
    upstream_model = "lengths"

    [[model]]
    id = "acme/talker"
    action = "chat"
    max_input_tokens = 8192
    max_output_tokens = 1024
    [[model.route]]
    provider = "dear"
    upstream_model = "talker"
    usd_per_million_input_tokens = "2.5"
    usd_per_million_cached_input_tokens = "0.25"
    usd_per_million_output_tokens = "10"

    [[model]]
    id = "acme/ranker"
    action = "rerank"
    max_input_tokens = 4096
    [[model.route]]
    provider = "dear"
    upstream_model = "ranker"
    usd_per_million_input_tokens = "0"
    usd_per_thousand_searches = "2"

    [[model]]
    id = "acme/elsewhere"
    dims = { default = 8 }
    max_input_tokens = 512
    [[model.route]]
    provider = "nobody"
    upstream_model = "e"
"""
IDS = ["acme/encoder", "acme/lengths-count", "acme/ranker", "acme/talker"]
HERE = ProviderSettings(base_url="http://127.0.0.1:9/v1")


@pytest_asyncio.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway in front of providers that nobody calls."""
    file = tmp_path / "models.toml"
    file.write_text(CATALOGUE, encoding="utf-8")
    settings = Settings(
        storage=StorageSettings(data_dir=tmp_path / "data"),
        catalog=CatalogSettings(file=file),
        upstream=UpstreamSettings(max_retries=0),
        providers={"dear": HERE, "cheap": HERE, "local": ProviderSettings(enabled=False)},
    )
    write_empty_database(settings.storage.data_dir)
    opened = await open_gateway(Loaded(settings, None, Secrets({})), is_server=True)
    yield opened
    await opened.aclose()


@pytest.fixture
def admin(shop: Gateway) -> Api:
    assert shop.first_keys
    return Api(Application(shop), shop.first_keys.admin_key)


@pytest.fixture
def user(shop: Gateway, admin: Api) -> Api:
    assert shop.first_keys
    return admin.with_key(shop.first_keys.user_key)


async def listed(api: Api, query: str = "") -> dict[str, Any]:
    """The models by id."""
    reply = await api.reply("GET", f"/v1/models{query}")
    assert reply.status == 200, reply.body
    body = json.loads(reply.body, parse_float=Decimal)
    assert body["object"] == "list"
    return {model["id"]: model for model in body["data"]}


def price(text: str, unit: str = "perMTokens") -> list[dict[str, Any]]:
    return [{"value": Decimal(text), "unit": unit, "currency": "USD"}]


async def test_an_embedding_model_says_what_it_can_and_costs_and_where(user: Api) -> None:
    model = (await listed(user))["acme/encoder"]
    routes = model.pop("routes")
    assert model == {
        "id": "acme/encoder",
        "object": "model",
        "created": 1_767_225_600,
        "owned_by": "acme",
        "action": "embedding",
        "input_modalities": ["text"],
        "output_modalities": ["embedding"],
        "context_length": 512,
        "max_output_tokens": None,
        "dimensions": 1024,
        "space": "acme/encoder",
        "status": "active",
        "capabilities": {
            "dimensions": {"default": 1024, "minimum": 8, "maximum": 1024, "allowed": []},
            "matryoshka": True,
            "encoding_formats": ["float", "base64", "int8", "uint8", "binary", "ubinary"],
            "input_types": ["query", "document"],
            "truncate": ["none", "start", "end"],
        },
        "pricings": {"prompt": price("0.000001")},
    }
    dear, cheap = routes
    assert dear == {
        "provider": "dear",
        "upstream_model": "enc",
        "pricings": {"prompt": price("0.3")},
        "price_as_of": "2026-11-01",
        "context_length": 512,
        "dimensions": 1024,
        "precision": "f32",
        "limits": {"max_inputs": 96, "max_tokens": None, "max_bytes": None},
        "weight": 1,
        "health": {
            "state": "unknown",
            "p50_ms": None,
            "p95_ms": None,
            "failure_share": None,
            "last_failure_code": None,
            "last_failure_at": None,
        },
    }
    assert (cheap["provider"], cheap["context_length"]) == ("cheap", 256)


async def test_models_of_other_sorts_have_their_own_prices_and_no_capabilities(user: Api) -> None:
    models = await listed(user)
    assert sorted(models) == IDS
    talker, ranker = models["acme/talker"], models["acme/ranker"]
    assert talker["pricings"] == {
        "prompt": price("2.5"),
        "completion": price("10.0"),
        "input_cache_read": price("0.25"),
    }
    assert (talker["output_modalities"], talker["max_output_tokens"], talker["dimensions"]) == (["text"], 1024, None)
    assert ranker["pricings"] == {"prompt": price("0.0"), "request": price("0.002", "perCount")}
    assert ranker["output_modalities"] == ["score"]
    for model in (talker, ranker):
        assert model["capabilities"] == {
            "dimensions": None,
            "matryoshka": False,
            "encoding_formats": [],
            "input_types": [],
            "truncate": [],
        }
    odd = models["acme/lengths-count"]
    assert odd["pricings"] == {"prompt": []}
    assert (odd["capabilities"]["encoding_formats"], odd["capabilities"]["input_types"]) == (["float", "base64"], [])


async def test_the_list_can_be_narrowed(user: Api) -> None:
    assert list(await listed(user, "?action=chat")) == ["acme/talker"]
    assert list(await listed(user, "?action=embedding&provider=cheap")) == ["acme/encoder"]
    assert await listed(user, "?provider=nobody") == {}
    # Clients send what other gateways know.
    assert sorted(await listed(user, "?client_version=1.2&limit=1000")) == IDS
    refused = await user("GET", "/v1/models?action=painting", status=400)
    assert refused["error"]["param"] == "query"


async def test_only_what_the_policies_permit_is_there(admin: Api, user: Api) -> None:
    await admin("PATCH", "/api/policies/permit-everything", {"is_enabled": False})
    assert await listed(user) == {}
    await user("GET", "/v1/models/acme/encoder", status=404)
    text = (
        '@id("cheap-embeddings") permit (principal, action == Action::"embedding", resource) when '
        '{ context.model_provider == "cheap" && context.ip_address.isInRange(ip("192.0.2.0/24")) };'
    )
    await admin("POST", "/api/policies", {"text": text})
    models = await listed(user)
    assert list(models) == ["acme/encoder"]
    assert [route["provider"] for route in models["acme/encoder"]["routes"]] == ["cheap"]
    # What the routes that are left can do: the dear one alone takes prefixes.
    assert models["acme/encoder"]["capabilities"]["input_types"] == []
    assert (await user("GET", "/v1/models/acme/encoder"))["pricings"]["prompt"][0]["value"] == 0.000001
    missing = await user("GET", "/v1/models/acme/talker", status=404)
    unknown = await user("GET", "/v1/models/acme/nothing", status=404)
    assert missing["error"]["code"] == unknown["error"]["code"] == "model_not_found"
    assert missing["error"]["message"].replace("talker", "nothing") == unknown["error"]["message"]


async def test_looking_is_no_decision_on_record_and_counts_in_no_limit(admin: Api, user: Api) -> None:
    await admin("PUT", "/api/limits/user/*", {"requests_per_minute": 1, "max_parallel": 1})
    for _ in range(3):
        assert sorted(await listed(user)) == IDS
        assert (await user("GET", "/v1/models/acme/ranker"))["id"] == "acme/ranker"
    assert (await admin("GET", "/api/audit?kind=decision"))["total"] == 0
    assert (await admin("GET", "/api/usage/entries"))["total"] == 0


async def test_prices_of_administrators_count_at_once(admin: Api, user: Api) -> None:
    await admin("POST", "/api/prices", {"model": "encoder", "provider": "dear", "usd_per_million_tokens": "0.0000000"})
    model = (await listed(user))["acme/encoder"]
    assert model["pricings"]["prompt"] == model["routes"][0]["pricings"]["prompt"] == price("0.0")


async def test_how_a_route_is_doing_is_told(user: Api) -> None:
    for _ in range(3):  # nobody listens there
        await user("POST", "/v1/embeddings", {"model": "acme/encoder:cheap", "input": "x"}, 502)
    dear, cheap = (await listed(user))["acme/encoder"]["routes"]
    assert dear["health"]["state"] == "unknown"
    assert (cheap["health"]["state"], cheap["health"]["last_failure_code"]) == ("failing", "upstream_error")
    assert cheap["health"]["last_failure_at"].endswith("Z")


async def test_a_model_is_shown_by_every_name_that_requests_may_give_it(user: Api) -> None:
    for name in ("acme/encoder", "encoder", "ACME/Encoder", "acme%2Fencoder"):
        assert (await user("GET", f"/v1/models/{name}"))["id"] == "acme/encoder"
    for name in ("", "acme", "acme/encoder/", "elsewhere", "%00", "%FF"):
        assert (await user("GET", f"/v1/models/{name}", status=404))["error"]["code"] == "model_not_found"


async def test_strangers_see_no_model(user: Api) -> None:
    for target in ("/v1/models", "/v1/models/acme/encoder", "/v1/models?action=painting"):
        assert (await user.with_key("").reply("GET", target)).status == 401
