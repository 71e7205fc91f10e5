"""The audit trail from the command line: what commands leave in it, whether it is whole, how it is shortened."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from program import AddEntries, Program


@pytest.fixture(autouse=True)
def changes(program: Program, request: pytest.FixtureRequest) -> None:
    """Three changes."""
    if "remote" in request.fixturenames:
        request.getfixturevalue("remote")  # first, or its administrator would not be the first user
    program("users", "create", "alice")
    program("users", "disable", "alice")
    program("roles", "create", "analyst")


def run_sql(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "data" / "embedgate.db")) as connection, connection:
        connection.execute(statement)


def head(program: Program) -> str:
    end = json.loads(program("audit", "verify", "--json").text)["end"]
    return f"{end['seq']}:{end['digest']}"


def test_every_change_is_listed_with_its_actor(program: Program) -> None:
    lines = program("audit", "list").text.splitlines()
    assert lines[0].split() == ["seq", "at", "kind", "actor", "action", "target", "outcome", "policies", "detail"]
    assert [line.split()[0] for line in lines[1:]] == ["3", "2", "1"]
    assert all("command line" in line for line in lines[1:])
    assert lines[2].rstrip().endswith("is_disabled=true")
    found = json.loads(program("audit", "list", "--action", "users.create", "--json").text)
    assert (found["total"], found["items"][0]["detail"]["name"]) == (1, "alice")


def test_the_list_is_narrowed(program: Program) -> None:
    for options, rows in (
        (["--kind", "change"], 3),
        (["--kind", "login"], 0),
        (["--actor", "command line", "--outcome", "ok"], 3),
        (["--target", "analyst"], 1),
        (["--since", "1h"], 3),
        (["--until", "1h"], 0),
        (["--search", "users."], 2),
        (["--request-id", "req_1"], 0),
    ):
        assert len(program("audit", "list", *options).text.splitlines()) == rows + 1, options
    assert program("audit", "list", "--limit", "1", "--offset", "1").text.splitlines()[-1].startswith("1 of 3 events")


def test_a_whole_trail_is_told_with_its_end(program: Program) -> None:
    kept = head(program)
    assert program("audit", "verify").text == f"intact: 3 events; head {kept}\n"
    program("roles", "create", "writer")
    assert program("audit", "verify", "--expect", kept).code == 0
    assert head(program).startswith("4:")


def test_a_changed_row_is_found(program: Program, folder: Path) -> None:
    run_sql(folder, "UPDATE audit SET target = 'somebody else' WHERE seq = 2")
    ended = program("audit", "verify")
    assert (ended.code, ended.output) == (1, b"")
    assert ended.errors == "broken: Row 2 does not match its digest: it was changed.\n"
    ended = program("audit", "verify", "--json")
    assert (ended.code, json.loads(ended.text)["first_break"]["seq"]) == (1, 2)


def test_a_trail_that_was_cut_short_is_found_with_a_head_from_before(program: Program, folder: Path) -> None:
    kept = head(program)
    run_sql(folder, "DELETE FROM audit WHERE seq = 3")
    assert program("audit", "verify").code == 0
    ended = program("audit", "verify", "--expect", kept)
    assert (ended.code, "it went on to row 3" in ended.errors) == (1, True)


@pytest.mark.parametrize("expected", ["3", "3:abc", "x:" + "0" * 64])
def test_what_is_no_head_is_refused(program: Program, expected: str) -> None:
    assert program("audit", "verify", "--expect", expected).code == 2


def test_only_what_is_old_is_deleted(program: Program) -> None:
    assert program("audit", "prune", "--older-than", "90").code == 2
    assert program("audit", "prune", "--older-than", "90d", "--yes").text == "0 events are deleted\n"
    assert program("audit", "prune", "--older-than", "0", "--yes").code == 1
    assert program("audit", "prune", "--older-than", "soon", "--yes").code == 2
    assert json.loads(program("audit", "prune", "--older-than", "1", "--yes", "--json").text) == {"deleted": 0}
    assert json.loads(program("audit", "verify", "--json").text)["events"] == 3


def test_the_trail_of_a_gateway_elsewhere_is_read_verified_and_shortened(
    program: Program, remote: Program, folder: Path
) -> None:
    for arguments in (["list", "--limit", "2"], ["list", "--action", "users.create", "--json"], ["verify"]):
        here, there = (run("audit", *arguments) for run in (program, remote))
        assert (there.code, there.output, there.errors) == (0, here.output, "")
    kept = head(remote)
    assert remote("audit", "verify", "--expect", kept).text == f"intact: 3 events; head {kept}\n"
    assert remote("audit", "prune", "--older-than", "0", "--yes").code == 1
    assert json.loads(remote("audit", "prune", "--older-than", "1", "--yes", "--json").text) == {"deleted": 0}
    run_sql(folder, "UPDATE audit SET at_ms = 1 WHERE seq = 1")
    ended = remote("audit", "verify", "--json")
    assert (ended.code, json.loads(ended.text)["first_break"]["seq"]) == (1, 1)
    assert remote("audit", "prune", "--older-than", "90d", "--yes").text == "1 events are deleted\n"
    assert remote("audit", "verify").code == 0


def test_a_changed_cost_in_the_ledger_is_found(program: Program, folder: Path, add_entries: AddEntries) -> None:
    add_entries({}, {}, {})
    trail, ledger = program("audit", "verify").text.splitlines()
    assert trail.startswith("intact: 3 events; head 3:")
    found = re.fullmatch(r"ledger intact: 3 entries; head (3:[0-9a-f]{64})", ledger)
    assert found is not None
    assert program("audit", "verify", "--expect-ledger", found[1]).code == 0
    run_sql(folder, "DELETE FROM ledger WHERE id = 3")
    ended = program("audit", "verify", "--expect-ledger", found[1])
    assert (ended.code, "it went on to entry 3" in ended.errors) == (1, True)
    run_sql(folder, "UPDATE ledger SET cost_picodollars = 0 WHERE id = 2")
    ended = program("audit", "verify")
    assert (ended.code, ended.output) == (1, b"")
    assert ended.errors == "broken: Entry 2 does not match its digest: it, or the one before it, was changed.\n"
    found_json = json.loads(program("audit", "verify", "--json").text)
    assert (found_json["ok"], found_json["first_break"], found_json["ledger"]["first_break"]["id"]) == (False, None, 2)
