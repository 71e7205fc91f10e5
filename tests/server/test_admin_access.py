"""Who may ask the administration API: nobody without a key, administrators for most, everybody for its own."""

import pytest

from admin_calls import Api
from embedgate.govern.operations import OPERATIONS
from embedgate.server.administration import Routes
from embedgate.server.app import PUBLIC

VALUES = {"kind": "user", "period": "day"}
ROUTES = [pytest.param(route, id=f"{route.method} {route.path}") for route in OPERATIONS]


def target(path: str) -> str:
    """The path with something in the place of each parameter."""
    for name in Routes(OPERATIONS).find(path)[1]:  # type: ignore[index]  # it is of the table
        path = path.replace(f"{{{name}}}", VALUES.get(name, "x"))
    return path


async def test_every_route_but_the_public_ones_refuses_without_a_key(api: Api) -> None:
    stranger = api.with_key("")
    for route in OPERATIONS:
        reply = await stranger.reply(route.method, target(route.path), b"not json")
        if route.path in PUBLIC:
            assert reply.json["code"] == "INVALID_REQUEST", route.path
        else:
            assert (reply.status, reply.json["code"]) == (400, "API_KEY_REQUIRED"), route.path


async def test_keys_that_are_none_are_refused_everywhere(api: Api) -> None:
    for key, status, code in (
        ("nonsense", 401, "INVALID_API_KEY_FORMAT"),
        ("eg_" + "a" * 12 + "4" + "a" * 3 + "8" + "a" * 15, 403, "API_KEY_INVALID"),
        ("egs_nonsense", 401, "INVALID_CREDENTIALS"),
    ):
        for route in OPERATIONS:
            if route.path not in PUBLIC:
                reply = await api.with_key(key).reply(route.method, target(route.path))
                assert (reply.status, reply.json["code"]) == (status, code), route.path


async def test_only_administrators_pass_but_for_what_is_ones_own(user_api: Api) -> None:
    for route in OPERATIONS:
        if route.facts.who == "admin":
            reply = await user_api.reply(route.method, target(route.path))
            assert (reply.status, reply.json["code"]) == (403, "AUTHORIZATION_DENIED"), route.path
    assert {route.path for route in OPERATIONS if route.facts.who == "user"} == {
        "/api/logout",
        "/api/me",
        "/api/me/password",
        "/api/me/keys",
        "/api/me/key-bounds",
        "/api/me/keys/{key}/rotate",
        "/api/me/keys/{key}/revoke",
        "/api/me/usage",
        "/api/me/usage/entries",
    }


async def test_paths_and_methods_that_are_not_there(api: Api) -> None:
    for path in ("/api/nothing", "/api/users/", "/api/users/a/b/c", "/api/policies//"):
        assert (await api("GET", path, status=404))["code"] == "NOT_FOUND"
    reply = await api.reply("POST", "/api/users/user")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, PATCH, DELETE")
    assert (await api.reply("HEAD", "/api/users")).status == 200


async def test_strangers_send_no_megabytes(api: Api) -> None:
    reply = await api.with_key("").reply("POST", "/api/login", {"name": "admin", "password": "x" * 1_000_000})
    assert reply.status == 413
    assert "at most 1000000 are taken" in reply.json["error"]
