"""Users, roles and projects over the administration API."""

from datetime import UTC, datetime

from admin_calls import Api


async def test_users_are_made_changed_and_deleted(api: Api) -> None:
    await api("POST", "/api/roles", {"name": "analyst"})
    made = await api("POST", "/api/users", {"name": "alice", "roles": ["analyst"], "tenant": "north"}, 201)
    assert (made["name"], made["roles"], made["tenant"], made["is_admin"]) == ("alice", ["analyst"], "north", False)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(made["created_at"])).total_seconds()) < 60
    changed = await api("PATCH", f"/api/users/{made['id']}", {"name": "alicia", "tenant": "", "is_agent": True})
    assert (changed["name"], changed["tenant"], changed["is_agent"]) == ("alicia", None, True)
    assert await api("GET", "/api/users/alicia") == changed
    assert await api("DELETE", "/api/users/alicia", status=204) is None
    assert (await api("GET", "/api/users/alicia", status=404))["code"] == "NOT_FOUND"


async def test_a_list_is_sorted_searched_and_cut(api: Api) -> None:
    for name in ("carol", "alice", "bob"):
        await api("POST", "/api/users", {"name": name})
    names = [user["name"] for user in (await api("GET", "/api/users?sort=-name&limit=2"))["items"]]
    assert names == ["user", "carol"]
    page = await api("GET", "/api/users?search=LIC&offset=0")
    assert ([user["name"] for user in page["items"]], page["total"]) == (["alice"], 1)
    assert (await api("GET", "/api/users?offset=4"))["total"] == 5
    oldest = await api("GET", "/api/users?sort=created_at&limit=1")
    assert oldest["items"][0]["name"] == "admin"


async def test_what_does_not_fit_is_refused_by_name(api: Api) -> None:
    refused: list[tuple[str, str, object, str]] = [
        ("GET", "/api/users?sort=password", None, "$.sort"),
        ("GET", "/api/users?limit=501", None, "$.limit"),
        ("GET", "/api/users?limit=1&limit=2", None, "'limit' more than once"),
        ("GET", "/api/users?colour=red", None, "colour"),
        ("GET", "/api/users?search=%ff", None, "UTF-8"),
        ("GET", "/api/users/user?verbose=1", None, "verbose"),
        ("POST", "/api/users", {"name": "alice", "colour": "red"}, "colour"),
        ("POST", "/api/users", {"name": 5}, "$.name"),
        ("POST", "/api/users", {}, "name"),
        ("POST", "/api/users", b"\xff", "JSON"),
        ("POST", "/api/users", b"[" * 100_000, "body"),
        ("POST", "/api/users", [], "object"),
        ("POST", "/api/users", {"name": " alice"}, "user name"),
        ("PUT", "/api/limits/planet/x", {"max_parallel": 1}, "kind"),
    ]
    for method, target, body, said in refused:
        reply = await api(method, target, body, 400)
        assert reply["code"] == "INVALID_REQUEST", target
        assert said in reply["error"], reply


async def test_the_last_administrator_and_a_taken_name_are_conflicts(api: Api) -> None:
    for method, target, body in (
        ("DELETE", "/api/users/admin", None),
        ("PATCH", "/api/users/admin", {"is_disabled": True}),
        ("PATCH", "/api/users/admin", {"is_admin": False}),
        ("POST", "/api/users", {"name": "user"}),
    ):
        assert (await api(method, target, body, 409))["code"] == "CONFLICT"


async def test_roles_are_given_and_taken(api: Api) -> None:
    await api("POST", "/api/roles", {"name": "a/b", "description": "with a slash"}, 201)
    assert (await api("PUT", "/api/users/user/roles/a%2Fb"))["roles"] == ["a/b"]
    assert (await api("GET", "/api/roles"))["items"] == [{"name": "a/b", "description": "with a slash", "users": 1}]
    assert (await api("DELETE", "/api/users/user/roles/a%2Fb"))["roles"] == []
    await api("PUT", "/api/users/user/roles/nothing", status=404)
    await api("DELETE", "/api/roles/a%2Fb", status=204)
    await api("DELETE", "/api/roles/a%2Fb", status=404)


async def test_a_project_stays_while_keys_are_billed_under_it(api: Api) -> None:
    project = await api("POST", "/api/projects", {"name": "search"}, 201)
    key = await api("POST", "/api/keys", {"user": "user", "name": "k", "project": "search"}, 201)
    assert key["key"]["project_id"] == project["id"]
    assert (await api("PATCH", "/api/projects/search", {"is_disabled": True}))["is_disabled"] is True
    assert (await api("GET", f"/api/keys/{key['key']['id']}"))["state"] == "disabled"
    await api("DELETE", "/api/projects/search", status=409)
    await api("POST", f"/api/keys/{key['key']['id']}/revoke")
    await api("DELETE", "/api/projects/search", status=204)
    assert (await api("GET", "/api/projects"))["items"] == []
