"""Policies from the command line: checked with places, saved, switched, tried."""

import json
from pathlib import Path

import pytest

from program import Program

pytestmark = pytest.mark.usefixtures("fake_only")

GOOD = """\
@id("fake-only")
permit (principal, action == Action::"embedding", resource)
when { context.model_provider == "fake" };
"""
BAD = """\
@id("fake-only")
permit (principal, action == Action::"embedding", resource)
when { context.model_providr == "fake" };
"""


@pytest.fixture
def good(folder: Path) -> str:
    (folder / "good.cedar").write_text(GOOD, encoding="utf-8")
    return "good.cedar"


@pytest.fixture
def bad(folder: Path) -> str:
    (folder / "bad.cedar").write_text(BAD, encoding="utf-8")
    return "bad.cedar"


def states(program: Program) -> dict[str, bool]:
    return {each["id"]: each["is_enabled"] for each in json.loads(program("policies", "list", "--json").text)["items"]}


def test_mistakes_are_shown_with_file_line_and_column(program: Program, good: str, bad: str) -> None:
    for arguments in (["check", good, bad], ["create", bad], ["update", bad]):
        ended = program("policies", *arguments)
        assert (ended.code, ended.output) == (1, b"")
        (line,) = ended.errors.splitlines()
        assert line.startswith("bad.cedar:3:16: attribute `model_providr` in context not found")
    assert list(states(program)) == ["permit-everything"]


@pytest.mark.usefixtures("no_data")
def test_a_check_needs_no_database(program: Program, folder: Path, good: str, bad: str) -> None:
    assert program("policies", "check", good).text == "ok: good.cedar\n"
    ended = program("policies", "check", good, bad, "--json")
    assert ended.code == 1
    fine, wrong = json.loads(ended.text)
    assert fine == {"file": "good.cedar", "mistakes": []}
    assert [(mistake["line"], mistake["column"]) for mistake in wrong["mistakes"]] == [(3, 16)]
    assert not (folder / "data").exists()


def test_a_policy_is_saved_changed_switched_and_deleted(program: Program, folder: Path, good: str) -> None:
    assert program("policies", "create", good, "--description", "For tests").text == "fake-only is in force\n"
    assert program("policies", "create", good).code == 1
    assert program("policies", "show", "fake-only").text == GOOD
    (folder / "good.cedar").write_text(GOOD.replace('"fake"', '"local"'), encoding="utf-8")
    assert program("policies", "update", good).code == 0
    found = json.loads(program("policies", "show", "fake-only", "--json").text)
    assert ('"local"' in found["text"], found["description"]) == (True, "For tests")
    assert program("policies", "disable", "fake-only").text == "fake-only is off\n"
    assert states(program) == {"fake-only": False, "permit-everything": True}
    program("policies", "enable", "fake-only")
    assert "For tests" in program("policies", "list").text
    assert program("policies", "delete", "fake-only").code == 2
    assert program("policies", "delete", "fake-only", "--yes").code == 0
    assert list(states(program)) == ["permit-everything"]


def test_a_policy_comes_from_standard_input_and_is_saved_without_force(program: Program) -> None:
    assert program("policies", "create", "-", "--disabled", stdin=GOOD.encode()).text == "fake-only is off\n"


def test_only_a_policy_that_is_there_is_changed(program: Program, good: str) -> None:
    ended = program("policies", "update", good)
    assert (ended.code, ended.errors.startswith("error: There is no policy 'fake-only'")) == (1, True)


def test_a_file_that_is_no_text_is_refused(program: Program, folder: Path) -> None:
    (folder / "broken.cedar").write_bytes(b'@id("x")\n\xff')
    ended = program("policies", "check", "broken.cedar")
    assert (ended.code, "broken.cedar, line 2: not UTF-8" in ended.errors) == (1, True)
    assert program("policies", "check", "absent.cedar").errors == "error: absent.cedar: No such file or directory\n"


def test_templates_are_listed_shown_and_filled_in(program: Program) -> None:
    assert "basic-allow-user" in program("policies", "templates").text
    assert '"{{key_id}}"' in program("policies", "templates", "basic-allow-user").text
    assert json.loads(program("policies", "templates", "--json").text)["total"] > 10
    assert program("policies", "templates", "nothing").code == 1
    made = program("policies", "from-template", "basic-allow-user", "--set", "key_id=key_1", "--id", "mine")
    assert made.text == "mine is in force\n"
    assert 'UserKey::"key_1"' in program("policies", "show", "mine").text
    assert program("policies", "from-template", "basic-allow-user").code == 1
    assert program("policies", "from-template", "basic-allow-user", "--set", "key_id").code == 2


def test_a_dry_run_tells_what_each_provider_would_get_and_why(program: Program, good: str) -> None:
    program("users", "create", "alice")
    program("keys", "create", "--user", "alice", "--name", "ci")
    program("policies", "create", good)
    ask = ["policies", "try", "--key", "ci", "--model", "fake/deterministic"]
    assert program(*ask).text.splitlines()[-1].split() == [
        "fake",
        "permitted",
        "fake-only,",
        "permit-everything",
        "0.0",
    ]
    program("policies", "disable", "permit-everything")
    openai = ["policies", "try", "--key", "ci", "--model", "openai/text-embedding-3-small:openai", "--tokens", "1000"]
    row = program(*openai).text.splitlines()[-1]
    assert row.split() == ["openai", "refused", "no", "policy", "permits", "it", "0.00002"]
    program("policies", "disable", "fake-only")
    found = json.loads(program(*ask, "--json").text)
    assert (found["is_permitted"], found["key"]["state"]) == (False, "active")
    assert [each["is_permitted"] for each in found["providers"]] == [False]


def test_a_dry_run_knows_time_place_and_emergency(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("users", "create", "alice")
    key = json.loads(program("keys", "create", "--user", "alice", "--name", "ci", "--json").text)["key"]["id"]
    text = '@id("p") permit (principal, action, resource) when { context.hour == 3 && context.is_emergency };'
    program("policies", "create", "-", stdin=text.encode())
    program("policies", "disable", "permit-everything")
    ask = ["policies", "try", "--key", key, "--model", "fake/deterministic", "--at", "2026-11-21T03:30Z"]
    assert "refused" in program(*ask).text
    assert "permitted" in program(*ask, "--emergency").text
    monkeypatch.setenv("EMBEDGATE_ACCESS__IS_EMERGENCY", "true")
    assert "permitted" in program(*ask).text
    assert "refused" in program(*ask, "--no-emergency").text
    program("keys", "revoke", key, "--yes")
    assert "The key is revoked" in program(*ask).text


def test_a_dry_run_refuses_what_there_is_not(program: Program) -> None:
    program("users", "create", "alice")
    key = json.loads(program("keys", "create", "--user", "alice", "--name", "ci", "--json").text)["key"]["id"]
    assert program("policies", "try", "--key", "absent", "--model", "fake/deterministic").code == 1
    assert program("policies", "try", "--key", key, "--model", "absent/model").code == 1
    assert program("policies", "try", "--key", key, "--model", "fake/deterministic", "--ip", "here").code == 1
    assert program("policies", "try", "--key", key, "--model", "fake/deterministic", "--at", "noon").code == 2


def test_policies_of_a_gateway_elsewhere_are_managed_the_same(
    program: Program, remote: Program, good: str, bad: str
) -> None:
    ended = remote("policies", "create", bad)
    assert (ended.code, ended.output) == (1, b"")
    assert ended.errors.startswith("bad.cedar:3:16: ")
    assert remote("policies", "check", bad).errors == ended.errors
    assert remote("policies", "check", good).text == "ok: good.cedar\n"
    assert remote("policies", "create", good, "--description", "For tests").text == "fake-only is in force\n"
    assert remote("policies", "update", good).text == "fake-only is in force\n"
    assert remote("policies", "disable", "permit-everything").text == "permit-everything is off\n"
    assert remote("policies", "from-template", "openai-only", "--disabled").text == "openai-only is off\n"
    remote("keys", "create", "--user", "admin", "--name", "ci")
    for arguments in (
        ["list"],
        ["list", "--json"],
        ["show", "fake-only"],
        ["templates"],
        ["templates", "openai-only", "--json"],
        ["try", "--key", "ci", "--model", "fake/deterministic", "--at", "2026-11-21", "--json"],
        ["try", "--key", "ci", "--model", "fake/deterministic"],
    ):
        here, there = (run("policies", *arguments) for run in (program, remote))
        assert (here.code, here.text) == (0, there.text)
    assert remote("policies", "delete", "fake-only", "--yes").text == "fake-only is deleted\n"
    assert "fake-only" not in states(program)
