"""Logins over the administration API."""

import pytest

from admin_calls import Api

PASSWORD = "a long and unlikely phrase"
OTHER = "another long and unlikely phrase"


@pytest.fixture
async def tokens(api: Api) -> dict[str, str]:
    """A login of the administrator."""
    await api("PUT", "/api/users/admin/password", {"password": PASSWORD})
    found: dict[str, str] = await api.with_key("")("POST", "/api/login", {"name": "admin", "password": PASSWORD})
    return found


async def test_an_access_token_is_as_good_as_a_key_until_it_is_over(api: Api, tokens: dict[str, str]) -> None:
    logged_in = api.with_key(tokens["access_token"])
    assert (await logged_in("GET", "/api/users"))["total"] == 2
    assert await logged_in("POST", "/api/logout", status=204) is None
    assert (await logged_in("GET", "/api/users", status=401))["code"] == "INVALID_CREDENTIALS"


async def test_a_login_is_kept_going_and_a_stolen_token_ends_it(api: Api, tokens: dict[str, str]) -> None:
    anybody = api.with_key("")
    newer = await anybody("POST", "/api/refresh", {"refresh_token": tokens["refresh_token"]})
    assert (await api.with_key(newer["access_token"])("GET", "/api/me"))["name"] == "admin"
    await anybody("POST", "/api/refresh", {"refresh_token": tokens["refresh_token"]}, 401)
    await api.with_key(newer["access_token"])("GET", "/api/me", status=401)


async def test_a_password_is_changed_by_whoever_knows_it(api: Api, tokens: dict[str, str]) -> None:
    logged_in = api.with_key(tokens["access_token"])
    await logged_in("PUT", "/api/me/password", {"password": OTHER, "new_password": OTHER}, 401)
    await logged_in("PUT", "/api/me/password", {"password": PASSWORD, "new_password": "short"}, 400)
    await logged_in("PUT", "/api/me/password", {"password": PASSWORD, "new_password": OTHER})
    await logged_in("GET", "/api/me", status=401)
    await api("POST", "/api/login", {"name": "admin", "password": OTHER})


async def test_guessing_is_slowed_down_and_written_down(api: Api, tokens: dict[str, str]) -> None:
    anybody = api.with_key("")
    for _ in range(5):
        await anybody("POST", "/api/login", {"name": "admin", "password": OTHER}, 401)
    reply = await anybody.reply("POST", "/api/login", {"name": "admin", "password": PASSWORD})
    assert (reply.status, reply.json["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert int(reply.headers["retry-after"]) > 0
    failed = await api("GET", "/api/audit?kind=login&outcome=invalid_credentials")
    assert failed["total"] == 5
    assert failed["items"][0]["detail"]["ip_address"] == "192.0.2.7"


async def test_a_key_cannot_be_logged_out(api: Api) -> None:
    assert "revoke" in (await api("POST", "/api/logout", status=400))["error"]


async def test_a_disabled_user_is_logged_out(api: Api, tokens: dict[str, str]) -> None:
    await api("PUT", "/api/users/user/password", {"password": PASSWORD})
    other = await api("POST", "/api/login", {"name": "user", "password": PASSWORD})
    await api("PATCH", "/api/users/user", {"is_disabled": True})
    await api.with_key(other["access_token"])("GET", "/api/me", status=401)
