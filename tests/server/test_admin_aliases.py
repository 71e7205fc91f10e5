"""Aliases of models over the administration API: in force at once, for the right callers, and never across spaces."""

from typing import Any

from admin_calls import Api

FAKE = "fake/deterministic"
ANOTHER = "acme/encoder"


async def add_another(api: Api) -> None:
    """A model of a space of its own, which is on and is never called."""
    body = {"base_url": "http://127.0.0.1:9/v1", "allow_private": True}
    await api("PUT", "/api/providers/acme", body)
    await api("POST", "/api/models", {"model": ANOTHER, "provider": "acme", "dim": 256}, 201)


async def set_alias(api: Api, name: str, model: str, status: int = 200, **more: Any) -> Any:
    return await api("PUT", f"/api/aliases/{name}", {"model": model, **more}, status)


async def embed(api: Api, model: str, status: int = 200, **more: Any) -> Any:
    return await api("POST", "/v1/embeddings", {"model": model, "input": "a text", **more}, status)


async def listed(api: Api) -> dict[str, str]:
    return {each["id"]: each.get("alias_of", "") for each in (await api("GET", "/v1/models"))["data"]}


async def key_of_project(api: Api, project: str) -> Api:
    await api("POST", "/api/projects", {"name": project}, 201)
    made = await api("POST", "/api/keys", {"user": "admin", "name": project, "project": project}, 201)
    return api.with_key(made["secret"])


async def test_an_alias_is_served_from_the_answer_on_and_no_longer_when_it_is_removed(api: Api) -> None:
    assert "does not exist" in (await embed(api, "fast-embed", 404))["error"]["message"]
    made = await set_alias(api, "fast-embed", FAKE)
    assert made["alias"]["model"] == FAKE
    assert (made["alias"]["project"], made["alias"]["is_on"], made["notes"]) == (None, True, [])
    plain = await embed(api, FAKE)
    for name in ("fast-embed", "Fast-Embed", "fast-embed:latest", "fast-embed:fake"):
        answer = await embed(api, name)
        assert (answer["model"], answer["data"]) == (FAKE, plain["data"])
    assert (await listed(api))["fast-embed"] == FAKE
    for path in ("/v1/models/fast-embed", "/api/models/fast-embed"):
        assert (await api("GET", path))["id"] == FAKE
    assert "fast-embed" in [each["name"] for each in (await api("GET", "/api/tags"))["models"]]
    (used,) = (await api("GET", "/api/usage?by=model"))["items"]
    assert (used["group"], used["requests"]) == ({"model": FAKE}, 5)
    await api("DELETE", "/api/aliases/Fast-Embed", status=204)
    assert "does not exist" in (await embed(api, "fast-embed", 404))["error"]["message"]
    assert (await api("GET", "/api/aliases"))["items"] == []
    events = [(each["action"], each["target"]) for each in (await api("GET", "/api/audit?limit=50"))["items"]]
    assert ("aliases.set", "fast-embed") in events
    assert ("aliases.remove", "fast-embed") in events


async def test_an_alias_of_a_project_counts_for_its_callers_alone(api: Api) -> None:
    await add_another(api)
    search = await key_of_project(api, "search")
    await set_alias(api, "house", FAKE, project="search")
    assert (await embed(search, "house"))["model"] == FAKE
    assert (await embed(api, "house", 404))["error"]["code"] == "model_not_found"
    assert ("house" in await listed(search), "house" in await listed(api)) == (True, False)
    judged = await api("POST", "/api/policies/dry-run", {"key": "search", "model": "house"})
    assert (judged["model"], judged["is_permitted"]) == (FAKE, True)
    only = {"user": "admin", "name": "only", "project": "search", "models": ["house"]}
    made = await api("POST", "/api/keys", only, 201)
    assert made["key"]["models"] == [FAKE]
    await api("DELETE", f"/api/keys/{made['key']['id']}", status=204)
    await set_alias(api, "house", ANOTHER)
    assert (await embed(search, "house"))["model"] == FAKE
    assert (await listed(search))["house"] == FAKE
    assert (await listed(api))["house"] == ANOTHER
    both = (await api("GET", "/api/aliases"))["items"]
    assert [each["model"] for each in both] == [ANOTHER, FAKE]
    of_search = (await api("GET", "/api/aliases?project=search"))["items"]
    assert [each["model"] for each in of_search] == [FAKE]
    refused = await api("DELETE", "/api/aliases/house?project=search", status=409)
    assert ANOTHER in refused["error"]  # what its callers would get then, which is of another space
    (key,) = [each for each in (await api("GET", "/api/keys"))["items"] if each["name"] == "search"]
    await api("DELETE", f"/api/keys/{key['id']}", status=204)
    await api("DELETE", "/api/projects/search", status=204)
    assert [each["model"] for each in (await api("GET", "/api/aliases"))["items"]] == [ANOTHER]


async def test_a_name_crosses_spaces_only_if_that_is_meant(api: Api) -> None:
    await add_another(api)
    await set_alias(api, "house", FAKE)
    refused = await set_alias(api, "house", ANOTHER, 409)
    assert refused["code"] == "SPACE_CHANGE"
    assert f"of the space {FAKE}" in refused["error"]
    assert f"of the space {ANOTHER}" in refused["error"]
    assert (await embed(api, "house"))["model"] == FAKE
    changed = await set_alias(api, "house", ANOTHER, allow_space_change=True)
    assert changed["alias"]["space"] == ANOTHER
    await set_alias(api, "HOUSE", ANOTHER)  # the same space: nothing to agree to, and still one alias
    assert [each["name"] for each in (await api("GET", "/api/aliases"))["items"]] == ["HOUSE"]
    # A name that finds a model without any alias stands for its space, too.
    assert (await embed(api, "sentence-transformers/deterministic"))["model"] == FAKE
    await set_alias(api, "sentence-transformers/deterministic".replace("/", "%2F"), ANOTHER, 409)
    await set_alias(api, "deterministic", ANOTHER, 409)
    await set_alias(api, "deterministic", ANOTHER, allow_space_change=True)
    await api("DELETE", "/api/aliases/deterministic", status=409)
    await api("DELETE", "/api/aliases/deterministic?allow_space_change=true", status=204)
    assert (await embed(api, "deterministic"))["model"] == FAKE


async def test_names_and_targets_that_cannot_be_are_refused_with_what_to_do(api: Api) -> None:
    await set_alias(api, "house", FAKE)
    for name in ("a%20b", "%2Fa", "a:fake", "x" * 129, "%C3%A4"):
        assert "1 to 128 letters" in (await set_alias(api, name, FAKE, 400))["error"]
    for name in ("fake%2Fdeterministic", "FAKE%2FDeterministic", "openai%2Ftext-embedding-3-small"):
        assert "is the id of a model" in (await set_alias(api, name, FAKE, 409))["error"]
    assert f"Give the id of the model: {FAKE}" in (await set_alias(api, "home", "house", 400))["error"]
    assert "There is no model" in (await set_alias(api, "home", "nothing/such", 400))["error"]
    assert "names a provider" in (await set_alias(api, "home", f"{FAKE}:fake", 400))["error"]
    assert "There is no project" in (await set_alias(api, "home", FAKE, 404, project="none"))["error"]
    assert "There is no project" in (await api("GET", "/api/aliases?project=none", status=404))["error"]
    described = await api("GET", "/openapi.json")
    assert "404" in described["paths"]["/api/aliases"]["get"]["responses"]
    assert "There are house" in (await api("DELETE", "/api/aliases/home", status=404))["error"]
    off = await set_alias(api, "later", "openai/text-embedding-3-small")
    assert off["alias"]["is_on"] is False
    assert "cannot be asked yet: " in off["notes"][0]
    assert "OPENAI_API_KEY" in off["notes"][0]
    assert "OPENAI_API_KEY" in (await embed(api, "later", 404))["error"]["message"]


async def test_a_model_with_aliases_is_not_removed_and_none_is_added_under_one(api: Api) -> None:
    await add_another(api)
    await set_alias(api, "acme%2Fhouse", ANOTHER)
    assert "has aliases: acme/house" in (await api("DELETE", "/api/models/acme%2Fencoder", status=409))["error"]
    refused = await api("POST", "/api/models", {"model": "acme/house", "provider": "acme", "dim": 8}, 409)
    assert f"is an alias of {ANOTHER}" in refused["error"]
    await api("DELETE", "/api/aliases/acme%2Fhouse", status=204)
    await api("DELETE", "/api/models/acme%2Fencoder", status=204)
