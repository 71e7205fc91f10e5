"""Keys from the command line, on a real database."""

import hashlib
import json
from datetime import datetime
from typing import Any

import pytest

from embedgate.core.clock import utc_ms
from embedgate.core.keys import is_well_formed
from embedgate.govern.values import milliseconds
from program import Program

DAY_MS = 86_400_000
OLD_KEY = "eg_0123456789ab4def8123456789abcdef"


@pytest.fixture(autouse=True)
def alice(program: Program, request: pytest.FixtureRequest) -> None:
    """A user to own keys."""
    if "remote" in request.fixturenames:
        request.getfixturevalue("remote")  # first, or its administrator would not be the first user
    program("users", "create", "alice", "--admin")


def made(program: Program, *options: str) -> dict[str, Any]:
    """A new key as `keys show` has it, and its `secret`."""
    answer: dict[str, Any] = json.loads(program("keys", "create", "--user", "alice", *options, "--json").text)
    return {**answer["key"], "secret": answer["secret"]}


def shown(program: Program, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(program("keys", "show", key, "--json").text)
    return found


def test_a_key_is_made_listed_and_revoked(program: Program) -> None:
    secret = program("keys", "create", "--user", "alice", "--name", "la[p]top", "--quiet").text.removesuffix("\n")
    assert is_well_formed(secret, "eg")
    (key,) = json.loads(program("keys", "list", "--user", "alice", "--json").text)["items"]
    assert (key["user_name"], key["name"], key["revoked_at"]) == ("alice", "la[p]top", None)
    assert key["state"] == "active"
    assert program("keys", "revoke", key["id"], "--yes").code == 0
    listed = program("keys", "list").text
    assert "la[p]top" in listed
    assert "revoked 20" in listed
    assert secret not in listed


def test_a_new_key_is_shown_once(program: Program) -> None:
    key = made(program, "--name", "ci")
    assert is_well_formed(key["secret"], "eg")
    told = program("keys", "create", "--user", "alice", "--name", "laptop").text
    assert is_well_formed(told.splitlines()[-1], "eg")
    assert json.loads(program("keys", "revoke", key["secret"], "--json", "--yes").text)["id"] == key["id"]
    assert key["secret"] not in program("keys", "show", key["id"]).text


def test_a_key_has_a_project_and_an_end(program: Program) -> None:
    program("projects", "create", "search")
    before_ms = utc_ms()
    key = made(program, "--name", "ci", "--project", "search", "--expires", "90d")
    expires_at_ms = milliseconds(datetime.fromisoformat(key["expires_at"]))
    assert before_ms + 90 * DAY_MS <= expires_at_ms <= utc_ms() + 90 * DAY_MS
    assert key["project_name"] == "search"
    text = program("keys", "show", key["id"]).text
    assert "active until 20" in text
    assert "search (project_" in text
    assert json.loads(program("keys", "list", "--project", "search", "--state", "active", "--json").text)["total"] == 1


def test_the_end_of_a_key_can_be_moved(program: Program) -> None:
    key_id = made(program, "--name", "ci")["id"]
    assert "expires at 2126-01-01 00:00:00Z" in program("keys", "expire", key_id, "2126-01-01").text
    assert "never expires" in program("keys", "expire", key_id, "never").text
    program("keys", "expire", key_id, "now")
    assert shown(program, key_id)["state"] == "expired"
    ended = program("keys", "expire", key_id, "tomorrow")
    assert (ended.code, "'tomorrow'" in ended.errors) == (2, True)


def test_a_rotated_key_keeps_its_id(program: Program) -> None:
    key = made(program, "--name", "ci")
    assert is_well_formed(program("keys", "rotate", key["id"], "-q").text.strip(), "eg")
    rotated = json.loads(program("keys", "rotate", key["id"], "--overlap", "24h", "--json").text)
    assert rotated["key"]["id"] == key["id"]
    assert rotated["secret"] != key["secret"]
    states = {each["state"] for each in json.loads(program("keys", "list", "--json").text)["items"]}
    assert states == {"active", "revoked"}
    assert "old secret, active until 20" in program("keys", "list").text


def test_a_key_is_stopped_and_let_in_again(program: Program) -> None:
    key_id = made(program, "--name", "ci")["id"]
    assert program("keys", "disable", key_id).text == f"{key_id}, the key of alice for ci, is disabled\n"
    assert program("keys", "list", "--state", "disabled").text.count("key_") == 1
    program("keys", "enable", key_id)
    assert shown(program, key_id)["state"] == "active"
    program("users", "create", "bob", "--admin")
    program("users", "disable", "alice")
    assert "user disabled" in program("keys", "show", key_id).text


@pytest.mark.parametrize(
    ("given", "hint"), [(OLD_KEY, ()), (hashlib.sha256(OLD_KEY.encode()).hexdigest(), ("--hint", "cdef"))]
)
def test_a_key_from_elsewhere_is_taken_over_from_standard_input(
    program: Program, given: str, hint: tuple[str, ...]
) -> None:
    ended = program("keys", "import", "--user", "alice", "--name", "old", *hint, stdin=f"{given}\r\n".encode())
    assert ended.code == 0
    assert "is taken over" in ended.text
    found = shown(program, OLD_KEY)
    assert (found["name"], found["hint"]) == ("old", "cdef")
    assert program("keys", "import", "--user", "alice", "--name", "old", stdin=given.encode()).code == 1


@pytest.mark.parametrize("given", [b"", b"not-a-key-at-all\n"])
def test_what_is_no_key_is_not_taken_over_nor_repeated(program: Program, given: bytes) -> None:
    ended = program("keys", "import", "--user", "alice", "--name", "old", stdin=given)
    assert ended.code == 1
    assert "not-a-key" not in ended.errors
    assert program("keys", "import", OLD_KEY, "--user", "alice", "--name", "old").code == 2


def test_a_deleted_key_is_gone(program: Program) -> None:
    key_id = made(program, "--name", "ci")["id"]
    ended = program("keys", "delete", key_id)
    assert (ended.code, "--yes" in ended.errors) == (2, True)
    assert program("keys", "delete", key_id, "--yes").code == 0
    assert json.loads(program("keys", "list", "--json").text)["items"] == []


def test_what_does_not_exist_is_said_so(program: Program) -> None:
    for arguments in (
        ["create", "--user", "nobody", "--name", "x"],
        ["list", "--user", "nobody"],
        ["list", "--project", "nothing"],
        ["import", "--user", "nobody", "--name", "x"],
        ["revoke", "key_0000000000000000"],
        ["show", "key_0000000000000000"],
    ):
        ended = program("keys", *arguments)
        assert (ended.code, ended.output) == (1, b"")
        assert ended.errors.startswith("error: There is no")


def test_keys_of_a_gateway_elsewhere_are_managed_the_same(program: Program, remote: Program) -> None:
    made = json.loads(remote("keys", "create", "--user", "alice", "--name", "ci", "--expires", "90d", "--json").text)
    key_id = made["key"]["id"]
    assert is_well_formed(made["secret"], "eg")
    for arguments in (["list"], ["list", "--user", "alice", "--json"], ["show", key_id], ["show", key_id, "--json"]):
        here, there = (run("keys", *arguments) for run in (program, remote))
        assert (there.code, there.output, there.errors) == (0, here.output, "")
    rotated = remote("keys", "rotate", key_id, "--overlap", "1h", "-q")
    assert is_well_formed(rotated.text.strip(), "eg")
    named = f"{key_id}, the key of alice for ci,"
    assert remote("keys", "expire", key_id, "2126-01-01").text == f"{named} expires at 2126-01-01 00:00:00Z\n"
    assert remote("keys", "expire", key_id, "never").text == f"{named} never expires\n"
    assert remote("keys", "disable", key_id).text == f"{named} is disabled\n"
    assert remote("keys", "enable", key_id).text == f"{named} is enabled\n"
    imported = remote("keys", "import", "--user", "alice", "--name", "old", stdin=OLD_KEY.encode())
    assert imported.text.endswith("a key of alice for old, is taken over\n")
    assert remote("keys", "revoke", key_id).code == 2
    assert remote("keys", "revoke", key_id, "--yes").text == f"{named} is revoked\n"
    assert remote("keys", "delete", key_id).code == 2
    assert remote("keys", "delete", key_id, "--yes").text == f"{named} is deleted\n"
    assert remote("keys", "show", key_id).errors.startswith("error: There is no such key.")
    assert [key["name"] for key in json.loads(program("keys", "list", "--user", "alice", "--json").text)["items"]] == [
        "old"
    ]
