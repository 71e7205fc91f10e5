"""Policies, limits, budgets and prices over the administration API: what is answered is in force."""

from typing import Any

from admin_calls import Api
from embedgate.providers import fake

MODEL = fake.models()[0].id
PERMIT = '@id("all")\npermit (principal, action, resource);'
FORBID = '@id("none")\nforbid (principal, action, resource);'


async def embed(api: Api, status: int = 200) -> Any:
    body = {"provider": "fake", "model": MODEL.partition("/")[2], "input": "a text of some words", "cache": "no-store"}
    return await api("POST", "/api/embeddings", body, status)


async def test_a_policy_holds_from_its_answer_on(api: Api, user_api: Api) -> None:
    await embed(user_api)
    saved = await api("POST", "/api/policies", {"text": FORBID, "description": "Nobody."}, 201)
    assert (saved["id"], saved["is_enabled"]) == ("none", True)
    assert (await embed(user_api, 403))["code"] == "AUTHORIZATION_DENIED"
    await api("PATCH", "/api/policies/none", {"is_enabled": False})
    await embed(user_api)
    await api("DELETE", "/api/policies/none", status=204)


async def test_a_policy_with_mistakes_is_refused_with_their_places(api: Api) -> None:
    text = '@id("p")\npermit (principal, action, resource)\nwhen { principal.colour == "red" };'
    mistakes = None
    for method, target in (("POST", "/api/policies"), ("PUT", "/api/policies/p")):
        reply = await api(method, target, {"text": text}, 400)
        assert reply["code"] == "INVALID_POLICY"
        assert [(each["line"], each["column"] > 0) for each in reply["mistakes"]] == [(3, True)]
        mistakes = reply["mistakes"]
        assert "colour" in mistakes[0]["message"]
    checked = await api("POST", "/api/policies/check", {"text": text})
    assert (checked["ok"], checked["mistakes"]) == (False, mistakes)
    assert (await api("POST", "/api/policies/check", {"text": PERMIT})) == {"ok": True, "mistakes": []}
    assert "make them the same" in (await api("PUT", "/api/policies/other", {"text": PERMIT}, 400))["error"]
    assert [each["id"] for each in (await api("GET", "/api/policies"))["items"]] == ["permit-everything"]


async def test_policies_are_put_made_of_templates_and_tried(api: Api, user_api: Api) -> None:
    await api("DELETE", "/api/policies/permit-everything")
    for _ in range(2):
        assert (await api("PUT", "/api/policies/all", {"text": PERMIT}))["id"] == "all"
    templates = (await api("GET", "/api/policies/templates?search=business"))["items"]
    assert "business-hours-only" in {template["id"] for template in templates}
    made = await api("POST", "/api/policies/templates", {"template": "business-hours-only", "is_enabled": False}, 201)
    assert made["id"] == "business-hours-only"
    await api("POST", "/api/policies/templates", {"template": "nothing"}, 404)
    (key,) = (await user_api("GET", "/api/me/keys"))["items"]
    judged = await api("POST", "/api/policies/dry-run", {"key": key["id"], "model": MODEL, "tokens": 9})
    assert (judged["is_permitted"], judged["providers"][0]["policies"]) == (True, ["all"])
    await api("POST", "/api/policies/dry-run", {"key": "nobody", "model": MODEL}, 404)
    await api("POST", "/api/policies/dry-run", {"key": key["id"], "model": "nothing"}, 400)


async def test_a_limit_holds_from_its_answer_on(api: Api, user_api: Api) -> None:
    user = (await user_api("GET", "/api/me"))["id"]
    limit = await api("PUT", "/api/limits/user/user", {"requests_per_minute": 1})
    assert (limit["kind"], limit["subject"], limit["requests_per_minute"]) == ("user", user, 1)
    await embed(user_api)
    assert (await embed(user_api, 429))["code"] == "RATE_LIMIT_EXCEEDED"
    assert (await api("GET", "/api/limits"))["items"] == [limit]
    await api("DELETE", "/api/limits/user/user", status=204)
    await embed(user_api)
    await api("DELETE", "/api/limits/user/user", status=404)


async def test_a_price_makes_requests_cost_and_a_budget_stops_them(api: Api, user_api: Api) -> None:
    price = {"model": MODEL, "provider": "fake", "usd_per_million_tokens": "1000000"}
    stored = await api("POST", "/api/prices", price, 201)
    assert stored["usd_per_million_tokens"] == "1000000.0"
    await api("PUT", "/api/budgets/user/user/total", {"cap_usd": "25"})
    await api("PUT", "/api/budgets/key/*/day", {"cap_usd": "1000"})
    cost = (await embed(user_api))["_meta"]["cost"]["totalCost"]
    assert cost > 4
    assert "budget" in (await embed(user_api, 403))["reason"]
    standing = (await api("GET", "/api/budgets?sort=kind"))["items"]
    assert [(each["kind"], each["is_own"]) for each in standing] == [("key", True), ("key", False), ("user", True)]
    every, single, total = standing
    assert (every["subject"], every["spent_usd"]) == ("*", None)
    assert {single["spent_usd"], total["spent_usd"]} == {f"{cost:.1f}"}
    assert (total["cap_usd"], total["held_usd"]) == ("25.0", "0.0")
    await api("DELETE", "/api/budgets/user/user/total", status=204)
    since = stored["since"].replace("+", "%2B")
    assert (await api("GET", "/api/prices"))["items"] == [stored]
    await api("DELETE", f"/api/prices?model={MODEL}&provider=fake&since={since}", status=204)
    assert (await embed(user_api))["_meta"]["cost"]["totalCost"] == 0


async def test_money_is_exact_or_refused(api: Api) -> None:
    for cap in ("0.0000000000001", "a lot", "-1", "1e30", "NaN", ""):
        assert "cap" in (await api("PUT", "/api/budgets/user/user/day", {"cap_usd": cap}, 400))["error"]
    await api("PUT", "/api/budgets/user/user/day", {"cap_usd": 5}, 400)
    exact = await api("PUT", "/api/budgets/user/user/day", {"cap_usd": "0.000000000001"})
    assert exact["cap_usd"] == "0.000000000001"
    await api("PUT", "/api/budgets/user/user/week", {"cap_usd": "1"}, 400)
