"""Providers, models and the cache over the administration API."""

from pathlib import Path

from admin_calls import Api
from embedgate.providers import fake
from upstream import running_upstream

MODEL = fake.models()[0].id
SECRET = "sk-a-secret-of-a-provider-0123456789"


async def test_every_provider_is_listed_on_or_off_and_no_key_is_shown(api: Api) -> None:
    listed = {each["name"]: each for each in (await api("GET", "/api/providers?limit=500"))["items"]}
    assert listed["fake"]["is_on"]
    assert (listed["openai"]["is_on"], listed["openai"]["how_to_switch_on"]) == (False, "set OPENAI_API_KEY for openai")
    assert listed["openai"]["models"] > 0
    await api("PUT", "/api/providers/openai", {"key": SECRET})
    reply = await api.reply("GET", "/api/providers?is_on=true&sort=name")
    assert [each["name"] for each in reply.json["items"]] == ["fake", "openai"]
    assert reply.json["items"][1]["key_hint"] == SECRET[-4:]
    assert SECRET not in reply.body.decode()
    assert SECRET not in (await api.reply("GET", "/api/audit")).body.decode()


async def test_a_provider_is_added_tried_and_taken_away(api: Api) -> None:
    with running_upstream() as far_side:
        far_side.dim = 1536
        settings = {"base_url": far_side.base_url, "key": SECRET}
        assert "private" in (await api("PUT", "/api/providers/openai", settings, 400))["error"]
        put = await api("PUT", "/api/providers/openai", {**settings, "allow_private": True})
        assert (put["is_on"], put["is_stored"], put["base_url"]) == (True, True, far_side.base_url)
        tried = await api("POST", "/api/providers/openai/test", {"model": "openai/text-embedding-3-small"})
        assert (tried["ok"], tried["dim"], tried["error"]) == (True, 1536, None)
        assert tried["ms"] > 0
    tried = await api("POST", "/api/providers/openai/test", {"model": "openai/text-embedding-3-small"})
    assert (tried["ok"], tried["code"]) == (False, "upstream_error")
    assert (await api("DELETE", "/api/providers/openai", status=204)) is None
    assert (await api("GET", "/api/providers/openai"))["is_on"] is False


async def test_a_short_key_of_a_provider_counts_too(api: Api) -> None:
    put = await api("PUT", "/api/providers/openai", {"key": "k"})
    assert (put["is_on"], put["key_hint"]) == (True, "")
    assert (await api("DELETE", "/api/providers/openai/key"))["is_on"] is False


async def test_what_would_stop_the_gateway_is_refused(api: Api) -> None:
    for name, body in (("fake", {"is_enabled": False}), ("openai", {"is_enabled": True}), ("x", {"host": "nowhere"})):
        reply = await api("PUT", f"/api/providers/{name}", body, 400)
        assert "could not go on" in reply["error"]
    assert (await api("GET", "/api/providers?search=nowhere"))["total"] == 0


async def test_a_provider_that_is_off_or_unknown_cannot_be_tried(api: Api) -> None:
    tried = await api("POST", "/api/providers/openai/test")
    assert (tried["ok"], tried["code"]) == (False, "model_not_found")
    assert "OPENAI_API_KEY" in tried["error"]
    assert (await api("POST", "/api/providers/nowhere/test", {}, 404))["code"] == "PROVIDER_NOT_FOUND"


async def test_a_provider_is_tried_also_where_policies_read_what_was_spent(api: Api) -> None:
    await api("POST", "/api/policies/templates", {"template": "daily-spend-limit-100"})
    assert (await api("POST", "/api/providers/fake/test"))["ok"]


async def test_a_lost_master_key_is_a_conflict(api: Api, tmp_path: Path) -> None:
    await api("PUT", "/api/providers/openai", {"key": SECRET})
    (tmp_path / "secrets.key").unlink()
    reply = await api("PUT", "/api/providers/mistral", {"key": SECRET}, 409)
    assert "key" in reply["error"]
    # What has nothing to do with it goes on.
    await api("POST", "/api/users", {"name": "alice"}, 201)


async def test_models_are_listed_with_routes_and_the_prices_in_force(api: Api) -> None:
    on = (await api("GET", "/api/models?is_on=true"))["items"]
    assert [model["id"] for model in on] == [MODEL]
    assert on[0]["routes"][0]["usd_per_million_tokens"] is None
    await api("POST", "/api/prices", {"model": MODEL, "provider": "fake", "usd_per_million_tokens": "0.02"})
    (model,) = (await api("GET", "/api/models?provider=fake"))["items"]
    assert model["routes"][0]["usd_per_million_tokens"] == "0.02"
    assert {model["action"] for model in (await api("GET", "/api/models?action=chat"))["items"]} == {"chat"}
    (cohere,) = (await api("GET", "/api/models?action=rerank&provider=cohere&limit=1&sort=id"))["items"]
    assert (cohere["id"], cohere["routes"][0]["usd_per_thousand_searches"]) == (
        "cohere/rerank-multilingual-v3.0",
        "2.0",
    )


async def test_the_cache_is_shown_and_cleared(api: Api, user_api: Api) -> None:
    body = {"provider": "fake", "model": MODEL.partition("/")[2], "input": "a text"}
    await user_api("POST", "/api/embeddings", body)
    shown = await api("GET", "/api/cache")
    assert (shown["is_on"], shown["misses"], shown["memory"]["entries"]) == (True, 1, 1)
    assert await api("DELETE", "/api/cache", status=204) is None
    assert (await api("GET", "/api/cache"))["memory"]["entries"] == 0
