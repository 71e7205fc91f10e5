"""Limits, budgets and prices from the command line, on a real database."""

import json
from typing import Any

import pytest

from embedgate.core.clock import utc_ms
from program import AddEntries, Program

pytestmark = pytest.mark.usefixtures("fake_only")

DAY_MS = 86_400_000


@pytest.fixture
def user(program: Program) -> str:
    """The id of a user `alice`."""
    return str(json.loads(program("users", "create", "alice", "--json").text)["id"])


@pytest.fixture
def key(program: Program, user: str) -> str:
    """The id of a key of `alice`."""
    return str(json.loads(program("keys", "create", "--user", "alice", "--name", "ci", "--json").text)["key"]["id"])


def listed(program: Program, subject: str) -> Any:
    return json.loads(program(subject, "list", "--json").text)["items"]


def test_a_limit_keeps_what_is_not_given(program: Program, user: str) -> None:
    program("limits", "set", "--user", "alice", "--requests-per-minute", "60")
    header, row = program(
        "limits", "set", "--user", user, "--max-parallel", "4", "--max-waiting", "2"
    ).text.splitlines()
    assert header.split() == ["for", "requests/min", "tokens/min", "at", "once", "waiting"]
    assert row.split() == ["user", "alice", "60", "4", "2"]
    program("limits", "set", "--user", "alice", "--unset", "max-parallel", "--unset", "max-waiting")
    (limit,) = listed(program, "limits")
    assert limit == {
        "kind": "user",
        "subject": user,
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "max_parallel": None,
        "max_waiting": 0,
    }


def test_limits_are_for_keys_projects_and_each_of_a_kind(program: Program, key: str) -> None:
    program("projects", "create", "search")
    program("limits", "set", "--key", key, "--tokens-per-minute", "100000")
    program("limits", "set", "--project", "search", "--requests-per-minute", "5")
    program("limits", "set", "--user", "*", "--requests-per-minute", "10")
    text = program("limits", "list").text
    assert f"key {key} (alice, ci)" in text
    assert "100,000" in text
    assert "project search" in text
    assert "each user" in text
    assert program("limits", "delete", "--user", "*", "--yes").code == 0
    assert program("limits", "delete", "--user", "*", "--yes").code == 1
    assert program("limits", "delete", "--key", key).code == 2
    assert len(listed(program, "limits")) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--requests-per-minute", "5"], 2),
        (["--user", "alice", "--key", "key_1", "--requests-per-minute", "5"], 2),
        (["--user", "alice"], 2),
        (["--user", "alice", "--requests-per-minute", "0"], 1),
        (["--user", "alice", "--unset", "requests-per-minute"], 1),
        (["--user", "nobody", "--requests-per-minute", "5"], 1),
    ],
)
def test_an_unfit_limit_is_refused(program: Program, user: str, arguments: list[str], code: int) -> None:
    assert program("limits", "set", *arguments).code == code
    assert listed(program, "limits") == []


def test_a_budget_is_shown_with_what_the_ledger_says_is_spent(
    program: Program, user: str, key: str, add_entries: AddEntries
) -> None:
    now_ms = utc_ms()
    add_entries(
        {"user_id": user, "key_id": key, "at_ms": now_ms, "cost_picodollars": 1_500_000_000_000},
        {"user_id": user, "key_id": key, "at_ms": now_ms - 40 * DAY_MS, "cost_picodollars": 250_000_000_000},
        {"at_ms": now_ms},
    )
    row = program("budgets", "set", "12.50", "--period", "day", "--user", "alice").text.splitlines()[1]
    assert row.split() == ["user", "alice", "day", "12.5", "1.5", "11.0"]
    program("budgets", "set", "1", "--period", "total", "--key", key)
    program("budgets", "set", "100", "--period", "month", "--project", "*")
    by_period = {budget["period"]: budget for budget in listed(program, "budgets")}
    assert (by_period["day"]["cap_usd"], by_period["day"]["spent_usd"]) == ("12.5", "1.5")
    assert (by_period["total"]["cap_usd"], by_period["total"]["spent_usd"]) == ("1.0", "1.75")
    assert (by_period["month"]["cap_usd"], by_period["month"]["spent_usd"]) == ("100.0", None)
    lines = program("budgets", "list").text.splitlines()
    assert lines[1].split() == ["key", key, "(alice,", "ci)", "total", "1.0", "1.75", "0.0"]
    assert lines[2].split() == ["each", "project", "month", "100.0"]


def test_a_budget_is_replaced_and_taken_away(program: Program, user: str) -> None:
    program("budgets", "set", "1", "--period", "day", "--user", "alice")
    program("budgets", "set", "2", "--period", "day", "--user", user)
    assert [budget["cap_usd"] for budget in listed(program, "budgets")] == ["2.0"]
    assert program("budgets", "delete", "--period", "day", "--user", "alice").code == 2
    assert program("budgets", "delete", "--period", "month", "--user", "alice", "--yes").code == 1
    told = program("budgets", "delete", "--period", "day", "--user", "alice", "--yes").text
    assert told == "the day budget of user alice is taken away\n"
    assert listed(program, "budgets") == []


@pytest.mark.parametrize("cap", ["twelve", "-1", "0.0000000000001", "1e99"])
def test_an_amount_that_is_none_is_refused(program: Program, user: str, cap: str) -> None:
    assert program("budgets", "set", "--period", "day", "--user", "alice", "--", cap).code == 1


def test_prices_come_into_force_at_their_time(program: Program) -> None:
    program("prices", "set", "text-embedding-3-small", "openai", "0.019", "--from", "2026-01-01")
    program("prices", "set", "openai/text-embedding-3-small", "openai", "0.018", "--from", "2126-01-01T06:00+06:00")
    program("prices", "set", "fake/deterministic", "fake", "0.5")
    header, fake, now, later = program("prices", "list").text.splitlines()
    assert header.split() == ["model", "provider", "$", "per", "million", "from", "state"]
    assert fake.split()[:3] == ["fake/deterministic", "fake", "0.5"]
    assert now.split()[1:] == ["openai", "0.019", "2026-01-01T00:00:00Z", "in", "force"]
    assert later.split()[1:] == ["openai", "0.018", "2126-01-01T00:00:00Z", "to", "come"]
    assert program("models", "show", "fake/deterministic").text.splitlines()[-1].split()[4] == "0.5"


def test_a_price_is_deleted_by_the_time_that_the_list_shows(program: Program) -> None:
    program("prices", "set", "fake/deterministic", "fake", "0.5")
    (price,) = listed(program, "prices")
    assert price["usd_per_million_tokens"] == "0.5"
    delete = ["prices", "delete", "fake/deterministic", "fake", price["since"]]
    assert program(*delete).code == 2
    assert program(*delete, "--yes").code == 0
    assert listed(program, "prices") == []
    assert program(*delete, "--yes").code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["absent/model", "openai", "1"],
        ["fake/deterministic", "openai", "1"],
        ["fake/deterministic", "fake", "free"],
        ["fake/deterministic", "fake", "0.0000001"],
    ],
)
def test_an_unfit_price_is_refused(program: Program, arguments: list[str]) -> None:
    ended = program("prices", "set", *arguments)
    assert (ended.code, ended.output) == (1, b"")
    assert listed(program, "prices") == []


def test_rules_of_a_gateway_elsewhere_are_managed_the_same(program: Program, remote: Program) -> None:
    key = json.loads(remote("keys", "create", "--user", "admin", "--name", "ci", "--json").text)["key"]["id"]
    remote("limits", "set", "--user", "admin", "--requests-per-minute", "60")
    remote("limits", "set", "--user", "admin", "--max-parallel", "4")
    remote("limits", "set", "--key", "*", "--tokens-per-minute", "100000")
    told = remote("budgets", "set", "12.50", "--period", "day", "--key", key).text.splitlines()[1]
    assert told.split() == ["key", key, "(admin,", "ci)", "day", "12.5", "0.0", "12.5"]
    remote("prices", "set", "fake/deterministic", "fake", "0.5", "--from", "2026-01-01")
    for subject in ("limits", "budgets", "prices"):
        here, there = (run(subject, "list") for run in (program, remote))
        assert (here.code, here.text) == (0, there.text)
    for subject in ("limits", "prices"):
        assert listed(program, subject) == listed(remote, subject)
    assert remote("limits", "set", "--user", "nobody", "--max-parallel", "4").code == 1
    assert remote("limits", "delete", "--user", "admin", "--yes").text == "the limit of user admin is taken away\n"
    assert remote("budgets", "delete", "--period", "day", "--key", key, "--yes").code == 0
    deleted = remote("prices", "delete", "deterministic", "fake", "2026-01-01", "--yes")
    assert deleted.text == "the price of fake/deterministic at fake from 2026-01-01T00:00:00Z is deleted\n"
    assert [len(listed(program, subject)) for subject in ("limits", "budgets", "prices")] == [1, 0, 0]
