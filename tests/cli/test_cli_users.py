"""Users and keys from the command line, on a real database."""

import json
from pathlib import Path

from embedgate.core.keys import is_well_formed
from program import Program


def test_a_key_is_made_listed_and_revoked(program: Program, folder: Path) -> None:
    assert program("users", "create", "al[b]ice", "--admin").code == 0
    secret = program("keys", "create", "--user", "al[b]ice", "--name", "laptop", "--quiet").text.removesuffix("\n")
    assert is_well_formed(secret, "eg")
    (key,) = json.loads(program("keys", "list", "--user", "al[b]ice", "--json").text)
    assert (key["user_name"], key["name"], key["is_admin"], key["revoked_at_ms"]) == ("al[b]ice", "laptop", True, None)
    assert program("keys", "revoke", key["id"]).code == 0
    listed = program("keys", "list").text
    assert "al[b]ice" in listed
    assert "revoked 20" in listed
    assert secret not in listed


def test_a_new_key_is_shown_once(program: Program) -> None:
    user = json.loads(program("users", "create", "bob", "--json").text)
    made = json.loads(program("keys", "create", "--user", user["id"], "--name", "ci", "--json").text)
    assert is_well_formed(made["key"], "eg")
    shown = program("keys", "create", "--user", "bob", "--name", "laptop").text
    assert is_well_formed(shown.splitlines()[-1], "eg")
    assert json.loads(program("keys", "revoke", made["key"], "--json").text)["id"] == made["id"]


def test_users_are_listed_with_their_role(program: Program) -> None:
    program("users", "create", "alice", "--admin")
    program("users", "create", "bob")
    header, alice, bob = program("users", "list").text.splitlines()
    assert header.split() == ["id", "name", "role", "created", "state"]
    assert alice.split()[1:3] == ["alice", "administrator"]
    assert bob.split()[1:3] == ["bob", "user"]
    assert [user["name"] for user in json.loads(program("users", "list", "--json").text)] == ["alice", "bob"]


def test_what_does_not_exist_is_said_so(program: Program) -> None:
    for arguments in (
        ["keys", "create", "--user", "nobody", "--name", "x"],
        ["keys", "list", "--user", "nobody"],
        ["keys", "revoke", "key_0000000000000000"],
    ):
        ended = program(*arguments)
        assert (ended.code, ended.output) == (1, b"")
        assert ended.errors.startswith("error: There is no")
