"""Users, roles and projects from the command line, on a real database."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from embedgate.core.errors import InvalidCredentials
from embedgate.govern.logins import Login, log_in
from embedgate.storage.database import open_database
from governing import Governing, resources_for
from program import Program

PASSWORD = "correct horse battery staple"


def shown(program: Program, user: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(program("users", "show", user, "--json").text)
    return found


def names(program: Program, *options: str) -> list[str]:
    return [user["name"] for user in json.loads(program("users", "list", "--json", *options).text)["items"]]


def may_log_in(folder: Path, name: str, password: str) -> bool:
    database = open_database(folder / "data")
    try:
        Governing(database, resources_for(folder / "data"))(log_in, Login(name, password))
    except InvalidCredentials:
        return False
    else:
        return True
    finally:
        database.close()


def at_a_terminal(answers: Sequence[tuple[str, str]], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a run at a terminal. answers: the end of a prompt, and what is typed then."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "embedgate", *arguments]
    # A session of its own has no other terminal where it could ask.
    child = subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0, start_new_session=True
    )
    assert child.stderr is not None
    told = b""
    try:
        for prompt, answer in answers:
            asked = b""
            while not asked.endswith(prompt.encode()):
                piece = child.stderr.read(1)
                assert piece, told + asked
                asked += piece
            told += asked
            os.write(ours, f"{answer}\n".encode())
        told += child.stderr.read() or b""
        return child.wait(), told.decode()
    finally:
        child.kill()
        child.wait()
        child.stderr.close()
        os.close(ours)
        os.close(theirs)


def test_users_are_listed_with_what_they_are(program: Program) -> None:
    program("roles", "create", "analyst")
    program("users", "create", "alice", "--admin")
    program("users", "create", "bo[b]", "--agent", "--tenant", "research", "--role", "analyst")
    header, alice, bob = program("users", "list").text.splitlines()
    assert header.split() == ["id", "name", "kind", "tenant", "roles", "created", "state"]
    assert alice.split()[1:3] == ["alice", "administrator"]
    assert bob.split()[1:5] == ["bo[b]", "agent", "research", "analyst"]
    assert [user["name"] for user in json.loads(program("users", "list", "--json").text)["items"]] == ["alice", "bo[b]"]
    assert [
        user["name"] for user in json.loads(program("users", "list", "--search", "BO", "--json").text)["items"]
    ] == ["bo[b]"]


def test_only_what_is_given_is_changed(program: Program) -> None:
    program("users", "create", "alice", "--email", "alice@example.com", "--tenant", "research")
    assert program("users", "update", "alice", "--name", "alicia", "--agent").text == "alicia is changed\n"
    program("users", "update", "alicia", "--tenant", "")
    user = shown(program, "alicia")
    assert (user["email"], user["tenant"], user["is_agent"], user["is_admin"]) == (
        "alice@example.com", None, True, False,
    )  # fmt: skip
    assert "alice@example.com" in program("users", "show", user["id"]).text
    ended = program("users", "update", "alicia")
    assert (ended.code, "nothing to change" in ended.errors) == (2, True)


def test_a_disabled_user_is_said_to_be(program: Program) -> None:
    program("users", "create", "alice")
    assert program("users", "disable", "alice").text == "alice is disabled\n"
    assert program("users", "list").text.endswith("disabled\n")
    assert json.loads(program("users", "enable", "alice", "--json").text)["is_disabled"] is False


def test_roles_are_given_and_taken(program: Program) -> None:
    assert program("roles", "create", "analyst", "--description", "Reads reports").code == 0
    program("users", "create", "alice")
    assert program("users", "give-role", "alice", "analyst").text == "alice has the roles analyst\n"
    assert program("roles", "list").text.splitlines()[1].split() == ["analyst", "1", "Reads", "reports"]
    assert program("users", "take-role", "alice", "analyst").text == "alice has no role\n"
    program("users", "give-role", "alice", "analyst")
    assert program("roles", "delete", "analyst", "--yes").text == "the role analyst is deleted; 1 had it\n"
    assert shown(program, "alice")["roles"] == []
    assert program("users", "give-role", "alice", "analyst").code == 1


def test_a_piped_password_lets_its_user_log_in(program: Program, folder: Path) -> None:
    program("users", "create", "alice")
    ended = program("users", "set-password", "alice", "--stdin", stdin=f"{PASSWORD}\n".encode())
    assert (ended.code, ended.text) == (0, "alice has a new password\n")
    assert may_log_in(folder, "alice", PASSWORD)
    assert shown(program, "alice")["has_password"] is True


@pytest.mark.parametrize(("stdin", "code"), [(b"too short\n", 1), (b"", 1)])
def test_an_unfit_password_is_refused(program: Program, stdin: bytes, code: int) -> None:
    program("users", "create", "alice")
    ended = program("users", "set-password", "alice", "--stdin", stdin=stdin)
    assert ended.code == code
    assert stdin.decode().strip() not in ended.errors or not stdin
    assert program("users", "set-password", "alice", stdin=b"correct horse battery\n").code == 2


def test_a_password_is_asked_for_at_a_terminal(program: Program, folder: Path) -> None:
    program("users", "create", "alice")
    code, told = at_a_terminal(
        [("New password: ", PASSWORD), ("confirmation: ", PASSWORD)], "users", "set-password", "alice"
    )
    assert code == 0, told
    assert PASSWORD not in told
    assert may_log_in(folder, "alice", PASSWORD)


@pytest.mark.parametrize(("answer", "left"), [("n", ["alice"]), ("y", [])])
def test_somebody_at_a_terminal_is_asked_before_a_user_is_deleted(
    program: Program, answer: str, left: list[str]
) -> None:
    program("users", "create", "alice")
    _, told = at_a_terminal([("[y/N]:", answer)], "users", "delete", "alice")
    assert "Delete the user alice" in told
    assert names(program) == left


def test_nothing_is_deleted_when_nobody_can_be_asked(program: Program) -> None:
    program("users", "create", "alice")
    program("roles", "create", "analyst")
    program("projects", "create", "search")
    for arguments in (["users", "delete", "alice"], ["roles", "delete", "analyst"], ["projects", "delete", "search"]):
        ended = program(*arguments)
        assert (ended.code, "--yes" in ended.errors) == (2, True)
    assert names(program) == ["alice"]
    assert program("users", "delete", "alice", "--yes").text == "alice is deleted\n"


def test_the_last_administrator_stays(program: Program) -> None:
    program("users", "create", "alice", "--admin")
    for arguments in (["delete", "alice", "-y"], ["disable", "alice"], ["update", "alice", "--no-admin"]):
        ended = program("users", *arguments)
        assert (ended.code, "last enabled administrator" in ended.errors) == (1, True)


def test_projects_are_made_renamed_switched_and_deleted(program: Program) -> None:
    project = json.loads(program("projects", "create", "search", "--json").text)
    program("projects", "update", "search", "--name", "find")
    assert program("projects", "disable", project["id"]).text == "find is disabled\n"
    header, row = program("projects", "list").text.splitlines()
    assert header.split() == ["id", "name", "created", "state"]
    assert (row.split()[1], row.split()[-1]) == ("find", "disabled")
    program("projects", "enable", "find")
    assert json.loads(program("projects", "list", "--json").text)["items"][0]["is_disabled"] is False
    assert program("projects", "delete", "find", "--yes").code == 0
    assert json.loads(program("projects", "list", "--json").text)["items"] == []


def test_what_does_not_exist_is_said_so(program: Program) -> None:
    for arguments in (
        ["users", "show", "nobody"],
        ["users", "delete", "nobody", "--yes"],
        ["users", "set-password", "nobody", "--stdin"],
        ["projects", "disable", "nothing"],
        ["roles", "delete", "nothing", "--yes"],
    ):
        ended = program(*arguments)
        assert (ended.code, ended.output) == (1, b"")
        assert ended.errors.startswith("error: There is no")
