"""Usage, the ledger and a provider's bill from the command line, on a real database."""

import csv
import io
import json
from pathlib import Path

import pytest

from embedgate.cli import access
from embedgate.cli.output import print_json, print_json_list
from embedgate.core.clock import utc_ms
from embedgate.govern.lists import Listed
from program import AddEntries, Program

DAY_MS = 86_400_000
FRIDAY_MS = 1_795_212_000_000  # 2026-11-20T22:00Z


@pytest.fixture
def alice(program: Program) -> str:
    """The id of a user `alice`."""
    return str(json.loads(program("users", "create", "alice", "--json").text)["id"])


@pytest.fixture
def ledger(alice: str, add_entries: AddEntries) -> None:
    """Two days, two models, a user who is known and one who was deleted."""
    add_entries(
        {"user_id": alice},
        {"user_id": alice, "at_ms": FRIDAY_MS + DAY_MS, "outcome": "upstream_error"},
        {
            "at_ms": FRIDAY_MS + DAY_MS,
            "model": "cohere/embed-v4.0",
            "upstream_model": "embed-v4.0",
            "provider": "cohere",
        },
    )


@pytest.mark.usefixtures("ledger")
def test_usage_is_added_up_by_what_is_asked_for(program: Program) -> None:
    header, only = program("usage").text.splitlines()
    assert header.split() == ["requests", "inputs", "tokens", "reused", "output", "$", "errors"]
    assert only.split() == ["3", "6", "3,000", "1,500", "0", "0.00006", "1"]
    lines = program("usage", "--by", "day,model").text.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["2026-11-20", "openai/text-embedding-3-small", "1"],
        ["2026-11-21", "cohere/embed-v4.0", "1"],
        ["2026-11-21", "openai/text-embedding-3-small", "1"],
        ["total", "3", "6"],
    ]


def test_what_chat_models_wrote_is_told_apart(program: Program, add_entries: AddEntries) -> None:
    add_entries({"action": "completion", "output_tokens": 1234}, {})
    lines = program("usage", "--by", "action").text.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["completion", "embedding", "total"]
    assert [line.split()[5] for line in lines[1:]] == ["1,234", "0", "1,234"]
    (chat,) = [line for line in program("usage", "entries").text.splitlines() if "completion" in line]
    assert "1,234" in chat.split()
    rows = json.loads(program("usage", "entries", "--json").text)["items"]
    assert [(row["action"], row["output_tokens"]) for row in rows] == [("completion", 1234), ("embedding", 0)]


@pytest.mark.usefixtures("ledger")
def test_people_see_names_and_programs_ids(program: Program, alice: str) -> None:
    lines = program("usage", "--by", "user").text.splitlines()
    assert {line.split()[0] for line in lines[1:]} == {"alice", "user_0000000000000000", "total"}
    assert program("usage", "--by", "project").text.splitlines()[1].split()[0] == "(none)"
    rows = json.loads(program("usage", "--by", "user", "--json").text)["items"]
    assert {row["group"]["user"]: row["cost_usd"] for row in rows}[alice] == "0.00004"
    assert {row["names"].get("user") for row in rows} == {"alice", None}
    table = list(csv.DictReader(io.StringIO(program("usage", "--by", "user", "--csv").text)))
    assert {row["user"]: row["requests"] for row in table}[alice] == "2"


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("options", "requests"),
    [
        (["--user", "alice"], "2"),
        (["--user", "alice", "--since", "2026-11-21"], "1"),
        (["--until", "2026-11-21"], "1"),
        (["--since", "2026-11-20T22:00Z", "--until", "2026-11-20T22:00:00.001Z"], "1"),
        (["--model", "embed-v4.0"], "1"),
        (["--provider", "openai"], "2"),
        (["--key", "key_0000000000000000"], "3"),
        (["--key", "key_0000000000000001"], "0"),
    ],
)
def test_usage_is_narrowed(program: Program, options: list[str], requests: str) -> None:
    assert program("usage", *options).text.splitlines()[1].split()[0] == requests


def test_a_duration_reaches_back_from_now(program: Program, add_entries: AddEntries) -> None:
    add_entries({"at_ms": utc_ms() - 2 * DAY_MS}, {"at_ms": utc_ms() - 60_000})
    assert program("usage", "--since", "3d").text.splitlines()[1].split()[0] == "2"
    assert program("usage", "--since", "90m").text.splitlines()[1].split()[0] == "1"


@pytest.mark.usefixtures("ledger")
def test_entries_are_listed_the_newest_first(program: Program, alice: str) -> None:
    lines = program("usage", "entries", "--limit", "2").text.splitlines()
    assert lines[0].split()[:6] == ["at", "request", "key", "model", "provider", "action"]
    assert lines[1].startswith("2026-11-21T22:00:00Z")
    assert lines[-1] == "2 of 3 entries; --limit shows more, --csv all"
    rows = json.loads(program("usage", "entries", "--user", "alice", "--json").text)["items"]
    assert [(row["request_id"], row["user_id"], row["cost_usd"]) for row in rows] == [
        ("req_1", alice, "0.00002"),
        ("req_2", alice, "0.00002"),
    ]
    assert len(program("usage", "entries", "--csv").text.splitlines()) == 4
    assert "req_3" in program("usage", "entries", "--search", "cohere").text
    assert program("usage", "entries", "--limit", "2", "--csv").code == 2


@pytest.mark.usefixtures("ledger")
def test_a_bill_is_compared_with_the_ledger(program: Program, folder: Path) -> None:
    bill = "date,model,tokens,cost_usd\n2026-11-20,text-embedding-3-small,1000,0.00002\n"
    bill += "2026-11-21,text-embedding-3-small,1500,0.00003\n"
    (folder / "bill.csv").write_text(bill, encoding="utf-8")
    lines = program("usage", "reconcile", "bill.csv", "--provider", "openai").text.splitlines()
    assert lines[2].split() == [
        "2026-11-21", "text-embedding-3-small", "1,000", "1,500", "500", "0.00002", "0.00003", "0.00001",
    ]  # fmt: skip
    assert lines[3].split() == ["total", "2,000", "2,500", "500", "0.00004", "0.00005", "0.00001"]
    piped = program("usage", "reconcile", "-", "--provider", "openai", "--last", "2026-11-20", stdin=bill.encode())
    assert piped.text.splitlines()[-1].split() == ["total", "1,000", "1,000", "0", "0.00002", "0.00002", "0.0"]
    rows = json.loads(program("usage", "reconcile", "bill.csv", "--provider", "openai", "--json").text)["rows"]
    assert [row["difference"]["token_difference"] for row in rows] == [0, 500]
    table = program("usage", "reconcile", "bill.csv", "--provider", "openai", "--csv").text.splitlines()
    assert table[0] == (
        "day,model,ledger_tokens,billed_tokens,token_difference,ledger_cost_usd,billed_cost_usd,cost_difference_usd"
    )
    assert table[2] == "2026-11-21,text-embedding-3-small,1000,1500,500,0.00002,0.00003,0.00001"
    (folder / "bill.json").write_text(json.dumps([{"date": "2026-11-20", "model": "m", "tokens": 7}]), encoding="utf-8")
    assert program("usage", "reconcile", "bill.json", "--provider", "openai", "--csv").code == 0
    ended = program("usage", "reconcile", "bill.json", "--format", "csv", "--provider", "openai")
    assert (ended.code, "Row 1 of the bill" in ended.errors or "no rows" in ended.errors) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--by", "weather"], 1),
        (["--by", "day,day"], 1),
        (["--user", "nobody"], 1),
        (["--since", "yesterday"], 2),
        (["--csv", "--json"], 2),
        (["--by", "day", "entries"], 2),
        (["--json", "reconcile", "bill.csv", "--provider", "openai"], 2),
    ],
)
def test_what_cannot_be_reported_is_refused(program: Program, arguments: list[str], code: int) -> None:
    ended = program("usage", *arguments)
    assert (ended.code, ended.output) == (code, b"")


def test_a_gateway_elsewhere_answers_the_same(program: Program, remote: Program, folder: Path, ledger: None) -> None:
    bill = "date,model,tokens\n2026-11-20,text-embedding-3-small,1000\n"
    (folder / "bill.csv").write_text(bill, encoding="utf-8")
    for arguments in (
        [], ["--by", "day,user", "--user", "alice", "--since", "2026-11-20"], ["entries", "--search", "cohere"],
        ["reconcile", "bill.csv", "--provider", "openai", "--last", "2026-11-21"],
    ):  # fmt: skip
        for form in ([], ["--json"], ["--csv"]):
            if form and "--search" in arguments:
                continue
            here, there = (run("usage", *arguments, *form) for run in (program, remote))
            assert (there.code, there.errors) == (0, "")
            assert there.output == here.output
    entries = [run("usage", "entries", "--csv").output for run in (program, remote)]
    assert entries[0] == entries[1]
    assert remote("usage", "--user", "nobody").code == 1
    ended = program("usage", "--url", "http://127.0.0.1:1", "entries")
    assert (ended.code, "put it behind" in ended.errors) == (2, True)


def test_settings_may_be_named_in_front_of_every_command(program: Program, folder: Path) -> None:
    (folder / "other.toml").write_text(f'[storage]\ndata_dir = "{folder}/other"\n', encoding="utf-8")
    for arguments in (["--config", "other.toml", "entries"], ["entries", "--config", "other.toml"]):
        assert program("usage", *arguments).code == 0
    assert program("usage", "--config", "absent.toml", "entries").code == 3


@pytest.mark.parametrize("n_items", [0, 1, 3])
def test_a_list_that_is_printed_while_it_is_read_looks_like_any_other(
    n_items: int, capsys: pytest.CaptureFixture[str]
) -> None:
    items = tuple({"id": f"é{i}", "parts": [i, {"deep": None}]} for i in range(n_items))
    print_json(Listed(items, n_items, 0, n_items))
    usual = capsys.readouterr().out
    print_json_list(iter(items))
    assert capsys.readouterr().out == usual


@pytest.mark.usefixtures("ledger")
def test_a_ledger_of_many_pages_is_printed_whole(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_PAGE_ITEMS", 2)
    assert len(json.loads(program("usage", "entries", "--json").text)["items"]) == 3


ESTIMATED = {"tokens_estimated": True, "estimated_tokens": 1000, "estimated_picodollars": 20_000_000}


def test_a_settlement_is_shown_first_and_made_when_it_is_meant(
    program: Program, folder: Path, add_entries: AddEntries
) -> None:
    add_entries({"at_ms": FRIDAY_MS, **ESTIMATED}, {"at_ms": FRIDAY_MS, "upstream_model": "other", **ESTIMATED})
    bill = "date,model,tokens\n2026-11-20,text-embedding-3-small,400\n2026-11-20,text-embedding-3-smal,1\n"
    (folder / "bill.csv").write_text(bill, encoding="utf-8")
    command = ("usage", "reconcile", "bill.csv", "--provider", "openai", "--settle")
    asked = program(*command)
    assert asked.code == 2
    assert "--yes" in asked.errors
    assert [line.split()[1:] for line in asked.text.splitlines()[1:3]] == [
        ["other", "1", "0.00002", "(not", "on", "the", "bill)"],
        ["text-embedding-3-small", "1", "0.00002", "0.000012"],
    ]
    assert "text-embedding-3-smal. Is it" in asked.text
    assert '"estimated_usd": "0.00002"' in program("usage", "entries", "--json").text  # nothing has changed
    made = json.loads(program(*command, "--yes", "--json").text)
    assert made == {
        "requests": 1, "estimated_usd": "0.00002", "returned_usd": "0.000012", "kept_requests": 1,
        "kept_usd": "0.00002",
    }  # fmt: skip
    assert "0 requests settled" in program(*command, "--yes").text
    assert program(*command).code == 0  # there is nothing to ask
