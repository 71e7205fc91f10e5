"""The description of the administration API is what the table serves: examples are bodies, answers are as described."""

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from admin_calls import Api, Reply
from embedgate.govern.operation import Declaration
from embedgate.govern.operations import OPERATIONS
from embedgate.providers import fake
from embedgate.server.administration import Routes
from upstream import Answer, running_upstream

MODEL = fake.models()[0].id
POLICY = '@id("p")\npermit (principal, action, resource);'
SILENT = {"pruneTrail"}
"""What leaves no event of a change: there is none so old that it is deleted."""
BODIES = [pytest.param(route, id=route.facts.id) for route in OPERATIONS if route.body is not None]


@pytest.mark.parametrize("route", BODIES)
def test_every_example_is_a_body_that_its_route_takes(route: Declaration) -> None:
    assert route.body is not None
    msgspec.json.decode(json.dumps(dict(route.facts.example)), type=route.body)
    with pytest.raises(msgspec.ValidationError, match="unknown field `no_such_field`"):
        msgspec.json.decode(json.dumps({**route.facts.example, "no_such_field": 1}), type=route.body)


async def test_every_route_has_a_name_of_its_own_and_fixed_paths_go_first() -> None:
    names = [route.facts.id for route in OPERATIONS]
    assert len(names) == len(set(names))
    for path, name in (("/api/policies/check", "checkPolicy"), ("/api/policies/x", "showPolicy")):
        found = Routes(OPERATIONS).find(path)
        assert found is not None
        assert name in {route.facts.id for route in found[0].values()}


async def test_a_session_of_an_administrator_is_answered_as_described(api: Api) -> None:
    described: dict[str, Any] = await api("GET", "/openapi.json")
    schemas = strict_schemas(described)
    seen: set[str] = set()

    async def do(method: str, target: str, body: object = None) -> Any:
        reply = await api.reply(method, target, body)
        assert reply.status < 300, reply.body
        seen.add(check(described, schemas, method, target.partition("?")[0], reply))
        return reply.json if reply.headers.get("content-type") == "application/json" else None

    await administer(do)
    assert {route.facts.id for route in OPERATIONS} - seen == {
        "refreshLogin",
        "logOut",
        "changeMyPassword",
        "createMyKey",
    }


async def test_every_change_leaves_an_event_and_nothing_else_does(api: Api) -> None:
    silent: set[str] = set()

    async def changes() -> int:
        return int((await api("GET", "/api/audit?limit=1&kind=change"))["total"])

    async def do(method: str, target: str, body: object = None) -> Any:
        found = Routes(OPERATIONS).find(target.partition("?")[0])
        assert found is not None
        route, before = found[0][method], await changes()
        reply = await api.reply(method, target, body)
        is_in_trail = await changes() > before
        assert route.is_change or not is_in_trail
        if route.is_change and not is_in_trail:
            silent.add(route.facts.id)
        return reply.json if reply.headers.get("content-type") == "application/json" else None

    await administer(do)
    assert silent == SILENT


def check(described: dict[str, Any], strict: dict[str, Any], method: str, path: str, reply: Reply) -> str:
    """All of the answer is described, and all that is said to be there is there. Returns the route's name.

    strict: the schemas, as `strict_schemas` gives them.
    """
    found = Routes(OPERATIONS).find(path)
    assert found is not None
    route = found[0][method]
    response = described["paths"][route.path][method.lower()]["responses"][str(reply.status)]
    headers = {name: described["components"]["headers"][name] for name in response["headers"]}
    assert set(reply.headers) - {"content-type", "content-length"} <= set(headers)
    assert {name for name, header in headers.items() if header["required"]} <= set(reply.headers)
    if reply.body:
        schema = response["content"][reply.headers["content-type"].partition(";")[0]]["schema"]
        if "$ref" in schema:
            jsonschema = pytest.importorskip("jsonschema")
            jsonschema.Draft202012Validator({**schema, "components": {"schemas": strict}}).validate(reply.json)
    else:
        assert "content" not in response
    return route.facts.id


def strict_schemas(described: dict[str, Any]) -> dict[str, Any]:
    """The schemas of the document, under which a field that they do not name is a mistake."""
    schemas: dict[str, Any] = json.loads(json.dumps(described["components"]["schemas"]))
    for schema in schemas.values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return schemas


async def administer(do: Callable[..., Awaitable[Any]]) -> None:
    """Something of everything."""
    await do("POST", "/api/roles", {"name": "analyst"})
    await do("POST", "/api/projects", {"name": "search"})
    await do("POST", "/api/users", {"name": "alice", "roles": ["analyst"], "tenant": "north"})
    await do("PATCH", "/api/users/alice", {"email": "alice@example.org"})
    await do("PUT", "/api/users/alice/roles/analyst")
    await do("PUT", "/api/users/alice/password", {"password": "a long and unlikely phrase"})
    await do("POST", "/api/login", {"name": "alice", "password": "a long and unlikely phrase"})
    await do("PATCH", "/api/projects/search", {"name": "search"})
    key = (await do("POST", "/api/keys", {"user": "alice", "name": "laptop", "project": "search"}))["key"]["id"]
    await do("POST", "/api/keys/import", {"user": "alice", "name": "old", "key": "5e" * 32})
    await do("PATCH", f"/api/keys/{key}", {"is_disabled": False, "expires_at": "2999-01-01T00:00:00Z"})
    await do("POST", f"/api/keys/{key}/rotate", {"overlap_s": 60})
    await do("POST", "/api/policies", {"text": POLICY})
    await do("POST", "/api/policies/check", {"text": "permit ("})
    await do("POST", "/api/policies/templates", {"template": "business-hours-only"})
    await do("PUT", "/api/policies/p", {"text": POLICY})
    await do("PATCH", "/api/policies/p", {"is_enabled": True})
    await do("PUT", "/api/limits/user/alice", {"requests_per_minute": 60})
    await do("PUT", "/api/budgets/user/alice/day", {"cap_usd": "1.5"})
    price = {"model": MODEL, "provider": "fake", "usd_per_million_tokens": "0.02", "since": "2026-01-01T00:00:00Z"}
    await do("POST", "/api/prices", price)
    await do("PUT", "/api/providers/vllm", {"base_url": "https://192.0.2.1/v1", "key": "k", "allow_private": True})
    await do("POST", "/api/providers/fake/test", {})
    await do("POST", "/api/models/verify", {"model": "fake/deterministic"})
    with running_upstream() as far_side:
        far_side.usually(lambda seen: Answer(body=b'{"data": [{"id": "m"}]}' if seen.method == "GET" else None))
        await do("PUT", "/api/providers/acme", {"base_url": far_side.base_url, "allow_private": True})
        await do("GET", "/api/providers/acme/models")
        await do("POST", "/api/providers/acme/probe", {"name": "m"})
        await do("DELETE", "/api/providers/acme")
    await do("POST", "/api/models", {"model": "acme/encoder", "provider": "vllm", "dim": 768})
    await do("DELETE", "/api/models/acme%2Fencoder?provider=vllm")
    await do("PUT", "/api/aliases/house", {"model": MODEL})
    await do("GET", "/api/aliases")
    await do("DELETE", "/api/aliases/house")
    await do("POST", "/api/providers/vllm/disable")
    await do("POST", "/api/providers/vllm/enable")
    await do("POST", "/api/policies/dry-run", {"key": key, "model": MODEL, "tokens": 5})
    await do("POST", "/api/audit/prune", {"keep_days": 400})
    await do("POST", "/api/usage/reconcile", {"provider": "fake", "bill": "date,model,tokens\n2026-01-01,m,5\n"})
    await do("POST", "/api/usage/settle", {"provider": "fake", "bill": "date,model,tokens\n2026-01-01,m,5\n"})
    await do("POST", "/api/usage/settle/preview", {"provider": "fake", "bill": "date,model,tokens\n2026-01-01,m,5\n"})
    own = (await do("GET", "/api/me/keys"))["items"][0]["id"]
    named = {"user": "alice", "project": "search", "key": key, "policy": "p", "provider": "fake"}
    for route in OPERATIONS:
        if route.method == "GET":
            await do("GET", route.path.format(**named, model=quote(MODEL, safe="")))
    await do("GET", "/api/usage?by=day,model,user,key,project")
    await do("GET", "/api/usage/entries?format=csv")
    await do("POST", f"/api/keys/{key}/revoke")
    await do("DELETE", f"/api/prices?model={MODEL}&provider=fake&since=2026-01-01T00:00:00Z")
    paths = ("users/alice/roles/analyst", "roles/analyst", "budgets/user/alice/day", "limits/user/alice", "policies/p")
    for path in (
        *paths,
        f"keys/{key}",
        "users/alice",
        "projects/search",
        "providers/vllm/key",
        "providers/vllm",
        "cache",
    ):
        await do("DELETE", f"/api/{path}")
    await do("POST", f"/api/me/keys/{own}/rotate", {"overlap_s": 60})
    await do("GET", "/api/me/key-bounds")
    await do("POST", "/api/keys", {"user": "admin", "name": "spare"})
    await do("POST", "/api/me/keys/spare/revoke")
