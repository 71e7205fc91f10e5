"""Keys over the administration API: what is answered is in force."""

import asyncio
from datetime import UTC, datetime, timedelta

from admin_calls import Api
from embedgate.core.keys import digest, new_secret
from waiting import PATIENCE_S


async def test_a_new_key_works_at_once_and_its_secret_is_shown_once(api: Api) -> None:
    reply = await api.reply("POST", "/api/keys", {"user": "user", "name": "laptop"})
    assert (reply.status, reply.headers["cache-control"]) == (201, "no-store")
    made = reply.json
    assert (await api.with_key(made["secret"])("GET", "/api/me"))["name"] == "user"
    shown = await api("GET", f"/api/keys/{made['key']['id']}")
    assert (shown["hint"], shown["state"]) == (made["secret"][-4:], "active")
    assert made["secret"] not in (await api.reply("GET", "/api/keys")).body.decode()


async def test_a_revoked_key_stops_with_the_answer(api: Api, user_api: Api) -> None:
    (key,) = (await user_api("GET", "/api/me/keys"))["items"]
    assert (await api("POST", f"/api/keys/{key['id']}/revoke"))["state"] == "revoked"
    assert (await user_api("GET", "/api/me", status=403))["code"] == "API_KEY_REVOKED_OR_DISABLED"
    await api("PATCH", f"/api/keys/{key['id']}", {"is_disabled": False}, 409)


async def test_a_disabled_or_expired_key_is_refused_until_it_is_not(api: Api, user_api: Api) -> None:
    (key,) = (await user_api("GET", "/api/me/keys"))["items"]
    past = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    for change, status, state in (
        ({"is_disabled": True}, 403, "disabled"),
        ({"is_disabled": False}, 200, "active"),
        ({"expires_at": past}, 403, "expired"),
        ({"expires_at": None}, 200, "active"),
        ({}, 200, "active"),
    ):
        assert (await api("PATCH", f"/api/keys/{key['id']}", change))["state"] == state
        assert (await user_api.reply("GET", "/api/me")).status == status
        found = (await api("GET", f"/api/keys?state={state}&user=user"))["items"]
        assert [each["id"] for each in found] == [key["id"]]


async def test_a_rotated_key_keeps_its_id_and_its_old_secret_for_a_while(api: Api, user_api: Api) -> None:
    (key,) = (await user_api("GET", "/api/me/keys"))["items"]
    first = await user_api("POST", f"/api/me/keys/{key['id']}/rotate", {"overlap_s": 60})
    assert first["key"]["id"] == key["id"]
    assert (await user_api.reply("GET", "/api/me")).status == 200
    second = await api("POST", f"/api/keys/{key['id']}/rotate")
    assert (await api.with_key(first["secret"]).reply("GET", "/api/me")).status == 403
    assert (await api.with_key(second["secret"]).reply("GET", "/api/me")).status == 200


async def test_nobody_rotates_the_key_of_another(api: Api, user_api: Api) -> None:
    (key,) = (await api("GET", "/api/me/keys"))["items"]
    assert (await user_api("POST", f"/api/me/keys/{key['id']}/rotate", {}, 404))["code"] == "NOT_FOUND"


async def test_a_key_of_another_gateway_is_taken_over_by_its_digest(api: Api) -> None:
    secret = new_secret("eg")
    body = {"user": "user", "name": "old", "key": digest(secret).hex(), "hint": secret[-4:]}
    taken = await api("POST", "/api/keys/import", body, 201)
    assert taken["hint"] == secret[-4:]
    assert (await api.with_key(secret).reply("GET", "/api/me")).status == 200
    assert (await api("POST", "/api/keys/import", body, 409))["code"] == "CONFLICT"
    await api("DELETE", f"/api/keys/{taken['id']}", status=204)
    assert (await api.with_key(secret).reply("GET", "/api/me")).status == 403


async def test_an_old_secret_shows_until_when_it_was_used(api: Api, user_api: Api) -> None:
    (key,) = (await user_api("GET", "/api/me/keys"))["items"]
    rotated = await user_api("POST", f"/api/me/keys/{key['id']}/rotate", {"overlap_s": 60})

    async def last_uses() -> dict[str, str | None]:
        found = (await api("GET", "/api/keys?user=user"))["items"]
        return {each["hint"]: each["last_used_at"] for each in found}

    new = rotated["key"]["hint"]
    (old,) = set(await last_uses()) - {new}
    assert (await last_uses())[new] is None
    before = (await last_uses())[old]
    async with asyncio.timeout(PATIENCE_S):
        while (await last_uses())[old] == before:
            await user_api("GET", "/api/me")  # with the old secret
    assert (await last_uses())[new] is None
    async with asyncio.timeout(PATIENCE_S):
        while (await last_uses())[new] is None:
            await api.with_key(rotated["secret"])("GET", "/api/me")


async def test_keys_are_named_by_their_name(api: Api) -> None:
    for name in ("a laptop/é", "twin", "twin"):
        await api("POST", "/api/keys", {"user": "user", "name": name}, 201)
    path = "/api/keys/a%20laptop%2F%C3%A9"
    assert (await api("GET", path))["name"] == "a laptop/é"
    assert (await api("PATCH", path, {"name": "phone"}))["name"] == "phone"
    assert (await api("POST", "/api/keys/phone/revoke"))["state"] == "revoked"
    twins = [each["id"] for each in (await api("GET", "/api/keys"))["items"] if each["name"] == "twin"]
    for method, rest in (("GET", ""), ("POST", "/rotate"), ("POST", "/revoke"), ("DELETE", "")):
        refused = await api(method, f"/api/keys/twin{rest}", status=409)
        assert all(twin in refused["error"] for twin in twins)
    assert (await api("GET", "/api/usage?key=twin", status=409))["code"] == "CONFLICT"
