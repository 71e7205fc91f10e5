"""Models that are added to providers over the administration API: in force at once, and checked as the catalogue is."""

from collections.abc import Iterator
from typing import Any

import pytest

from admin_calls import Api
from upstream import Upstream, running_upstream

ENCODER = {"model": "acme/encoder", "provider": "acme", "upstream_model": "enc-v2", "dim": 256, "max_tokens": 512}


@pytest.fixture
def far_side() -> Iterator[Upstream]:
    """A server of the OpenAI format that no catalogue knows."""
    with running_upstream() as upstream:
        yield upstream


async def set_up(api: Api, far_side: Upstream, **settings: Any) -> Any:
    body = {"base_url": far_side.base_url, "allow_private": True, **settings}
    return await api("PUT", "/api/providers/acme", body)


async def embed(api: Api, status: int = 200, **body: Any) -> Any:
    return await api("POST", "/v1/embeddings", {"model": "acme/encoder", "input": "a text", **body}, status)


async def test_a_provider_is_on_only_when_something_can_be_asked_of_it(api: Api, far_side: Upstream) -> None:
    made = await set_up(api, far_side)
    assert made["is_on"] is False
    assert "embedgate models add ID --provider acme" in made["how_to_switch_on"]
    tried = await api("POST", "/api/providers/acme/test")
    assert (tried["ok"], "has no model yet" in tried["error"]) == (False, True)
    refused = await api("POST", "/api/embeddings", {"provider": "acme", "model": "anything", "input": "a text"}, 400)
    assert "acme has no model yet" in refused["error"]
    added = await api("POST", "/api/models", ENCODER, 201)
    assert (added["is_on"], added["provider"], added["model"]["id"]) == (True, "acme", "acme/encoder")
    shown = await api("GET", "/api/providers/acme")
    assert (shown["is_on"], shown["how_to_switch_on"]) == (True, None)


async def test_a_model_is_served_from_the_answer_on_and_no_longer_when_it_is_removed(
    api: Api, far_side: Upstream
) -> None:
    await set_up(api, far_side)
    await api("POST", "/api/models", ENCODER, 201)
    answer = await embed(api)
    assert (answer["model"], len(answer["data"][0]["embedding"])) == ("acme/encoder", 256)
    assert far_side.requests[-1].json["model"] == "enc-v2"
    assert "acme/encoder" in [each["id"] for each in (await api("GET", "/v1/models"))["data"]]
    events = (await api("GET", "/api/audit?limit=50"))["items"]
    assert ("models.add", "acme/encoder") in [(event["action"], event["target"]) for event in events]
    await api("DELETE", "/api/models/acme%2Fencoder?provider=acme", status=204)
    assert "does not exist" in (await embed(api, 404))["error"]["message"]
    assert (await api("GET", "/api/providers/acme"))["is_on"] is False
    assert "No model was added" in (await api("DELETE", "/api/models/acme%2Fencoder", status=404))["error"]


async def test_added_again_it_is_as_it_was_said_last(api: Api, far_side: Upstream) -> None:
    await set_up(api, far_side)
    await api("POST", "/api/models", ENCODER, 201)
    await api("POST", "/api/models", {**ENCODER, "upstream_model": "enc-v3", "usd_per_million_tokens": "0.05"}, 201)
    await embed(api)
    assert far_side.requests[-1].json["model"] == "enc-v3"
    (route,) = (await api("GET", "/api/models/acme%2Fencoder"))["routes"]
    assert (route["usd_per_million_tokens"], route["is_free"]) == ("0.05", False)


async def test_a_known_model_gets_one_more_route_with_what_the_catalogue_knows_of_it(
    api: Api, far_side: Upstream
) -> None:
    far_side.dim = 1024
    await set_up(api, far_side)
    added = await api("POST", "/api/models", {"model": "intfloat/multilingual-e5-large", "provider": "acme"}, 201)
    assert (added["model"]["routes"][0]["provider"], added["model"]["sizes"]["default"]) == ("acme", 1024)
    await embed(api, model="intfloat/multilingual-e5-large", input_type="query")
    assert far_side.requests[-1].json["input"] == ["query: a text"]
    for wrong in ({"dim": 768}, {"space": "another"}, {"is_normalised": False}, {"action": "chat"}):
        body = {"model": "intfloat/multilingual-e5-large", "provider": "acme", **wrong}
        assert "The catalogue knows" in (await api("POST", "/api/models", body, 400))["error"]


async def test_what_cannot_be_is_refused_with_what_to_do(api: Api, far_side: Upstream) -> None:
    absent = await api("POST", "/api/models", ENCODER, 404)
    assert "embedgate providers set acme --base-url URL" in absent["error"]
    await set_up(api, far_side)
    for wrong, word in (
        ({"dim": None}, "--dim"),
        ({"dim": 0}, "dim"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": "encoder"}, "id"),
        ({"model": "acme/with space"}, "id"),
        ({"provider": "fake"}, "part of this program"),
        ({"usd_per_million_tokens": "-1"}, "price"),
        ({"space": "BAAI/bge-m3"}, "cannot be compared"),
        ({"action": "rerank"}, "makes no vectors"),
    ):
        assert word in (await api("POST", "/api/models", {**ENCODER, **wrong}, 400))["error"], wrong
    await api("POST", "/api/models", ENCODER, 201)
    assert "capitals" in (await api("POST", "/api/models", {**ENCODER, "model": "Acme/Encoder"}, 409))["error"]


async def test_a_second_provider_of_an_added_model_shares_what_is_known_of_it(api: Api, far_side: Upstream) -> None:
    await set_up(api, far_side)
    await api("POST", "/api/models", ENCODER, 201)
    await api("PUT", "/api/providers/acme2", {"base_url": far_side.base_url, "allow_private": True})
    there = {"model": "acme/encoder", "provider": "acme2"}
    assert "cannot have 128" in (await api("POST", "/api/models", {**there, "dim": 128}, 400))["error"]
    added = await api("POST", "/api/models", there, 201)
    assert {route["provider"] for route in added["model"]["routes"]} == {"acme", "acme2"}
    await api("DELETE", "/api/models/acme%2Fencoder?provider=acme", status=204)
    shown = await api("GET", "/api/models/acme%2Fencoder")
    assert (shown["sizes"]["default"], [route["provider"] for route in shown["routes"]]) == (256, ["acme2"])


async def test_a_server_with_one_model_serves_what_was_added_and_no_second(api: Api, far_side: Upstream) -> None:
    made = await set_up(api, far_side, host="llamacpp")
    assert "has no model yet" in made["how_to_switch_on"]
    added = await api("POST", "/api/models", {**ENCODER, "upstream_model": None}, 201)
    assert (added["is_on"], added["model"]["routes"][0]["is_free"]) == (True, True)
    await embed(api)
    refused = await api("POST", "/api/models", {**ENCODER, "model": "acme/other"}, 409)
    assert "embedgate models remove acme/encoder --provider acme" in refused["error"]


async def test_an_unpriced_model_is_refused_under_a_budget_with_the_command_that_helps(
    api: Api, user_api: Api, far_side: Upstream
) -> None:
    await set_up(api, far_side)
    added = await api("POST", "/api/models", ENCODER, 201)
    assert any("embedgate prices set acme/encoder acme" in note for note in added["notes"])
    await embed(user_api)
    me = await user_api("GET", "/api/me")
    await api("PUT", f"/api/budgets/user/{me['id']}/day", {"cap_usd": "1"})
    refused = await embed(user_api, 400, input="another text")
    assert "embedgate prices set acme/encoder acme" in refused["error"]["message"]
    await set_up(api, far_side, free=True)
    await embed(user_api, input="a third text")


async def test_providers_take_at_run_time_what_the_settings_file_takes(api: Api, far_side: Upstream) -> None:
    more = {
        "weight": 3, "precision": "int8", "requests_per_minute": 600, "tokens_per_minute": 9_000, "free": True,
        "names_freely": True,
    }  # fmt: skip
    made = await set_up(api, far_side, host="vllm", models=["BAAI/bge-m3"], **more)
    assert {name: made[name] for name in more} == more
    assert (made["models_served"], made["models"]) == (["BAAI/bge-m3"], 1)
    assert (made["in_use"]["requests_per_minute"], made["in_use"]["tokens_per_minute"]) == (600, 9_000)
    (model,) = [each for each in (await api("GET", "/v1/models"))["data"] if each["id"] == "BAAI/bge-m3"]
    assert [(route["weight"], route["precision"]) for route in model["routes"]] == [(3, "int8")]
    for name, wrong in (("weight", -1), ("precision", "Int 8"), ("requests_per_minute", 0), ("models", ["no/model"])):
        body = {"base_url": far_side.base_url, "allow_private": True, "host": "vllm", name: wrong}
        assert (await api("PUT", "/api/providers/acme", body, 400))["error"]
    assert (await api("GET", "/api/providers/acme"))["weight"] == 3
