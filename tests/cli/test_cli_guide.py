"""The commands of docs/govern.md run, in their order, and print what the guide shows.

Ids, keys, digests and times are new in every run; all else is as in the guide, but for the width of columns.
"""

import json
import re
from pathlib import Path

import pytest

from guides import run_command, steps
from program import AddEntries, Program
from running import gateway

GUIDE = Path(__file__).parents[2] / "docs" / "govern.md"
ASKING = "embedgate users set-password alice"
REFUSED = ("embedgate policies check typo.cedar", "embedgate providers enable voyage")

_NEW = re.compile(
    r"\b(?:user|project|key)_[0-9a-f]{16}|\beg_[0-9a-f]{32}|\b(?:\d+:)?[0-9a-f]{64}|(?<=\.\.\.)[0-9a-f]{4}\b"
)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{3})?Z|(?<==)1[78]\d{11}\b")
_OF_FIRST_START = re.compile(r"^user_[0-9a-f]{16} +(?:admin|user) .*\n", re.MULTILINE)
_REFERENCE = re.compile(r" \(\d{3} [A-Z_]+, request req_[0-9a-f]{32}\)$", re.MULTILINE)
"""What an error of a gateway elsewhere says besides its message."""


def comparable(text: str) -> list[str]:
    return [" ".join(_TIME.sub("TIME", line).split()) for line in text.splitlines()]


def spend(program: Program, add_entries: AddEntries) -> None:
    """What the guide's users have asked for: on 20 November 2026 and the day after."""
    users = {user["name"]: user["id"] for user in json.loads(program("users", "list", "--json").text)["items"]}
    (key,) = json.loads(program("keys", "list", "--user", "alice", "--json").text)["items"]
    alice = {
        "user_id": users["alice"],
        "key_id": key["id"],
        "project_id": key["project_id"],
        "price_picodollars": 18_000,
    }
    local = {
        "model": "local/all-minilm-l6-v2",
        "upstream_model": "all-minilm-l6-v2",
        "provider": "local",
        "price_picodollars": 0,
        "cost_picodollars": 0,
    }
    at_ms = 1_795_164_300_000  # 2026-11-20T08:45Z
    add_entries(
        alice | {"request_id": "req_1c0f", "at_ms": at_ms, "tokens": 70_000, "cost_picodollars": 1_260_000_000},
        alice | {"request_id": "req_5a7e", "at_ms": at_ms + 60_250, "tokens": 50_000, "cost_picodollars": 900_000_000},
        alice
        | {"request_id": "req_93bd", "at_ms": at_ms + 86_400_000, "tokens": 40_000, "cost_picodollars": 720_000_000},
        local | {"user_id": users["crawler"], "at_ms": at_ms + 90_000_000, "items": 64, "tokens": 9_500},
    )


def follow_guide(program: Program, folder: Path, add_entries: AddEntries, *, is_remote: bool) -> None:
    """Run every command of the guide, and compare what it prints.

    is_remote: the gateway has a first start behind it, whose users are not in the guide, and audit events of its own.
    """
    (folder / "old.key").write_text("eg_0123456789ab4def8123456789abcdef\n", encoding="utf-8")
    (folder / "openai.key").write_text("sk-proj-4f1c9a0b7d2e3c58wXyZ\n", encoding="utf-8")
    meant: dict[str, str] = {}
    for step in steps(GUIDE, folder):
        printed = ""
        for command in step.commands:
            if command == ASKING:
                continue
            ended = run_command(program, folder, _NEW.sub(lambda found: meant[found[0]], command))
            assert ended.code == (1 if command in REFUSED else 0), (command, ended.errors)
            printed += ended.text + ended.errors
            if command.startswith("embedgate keys create"):
                spend(program, add_entries)
        if is_remote:
            printed = _REFERENCE.sub("", _OF_FIRST_START.sub("", printed))
        if step.printed is None:
            continue
        meant.update(zip(_NEW.findall(step.printed), _NEW.findall(printed), strict=False))
        if not (is_remote and step.commands[0].startswith("embedgate audit")):
            assert comparable(_NEW.sub(lambda found: meant[found[0]], step.printed)) == comparable(printed)


def test_the_guide_shows_what_the_program_prints(program: Program, folder: Path, add_entries: AddEntries) -> None:
    follow_guide(program, folder, add_entries, is_remote=False)


def test_the_guide_shows_what_the_program_prints_of_a_gateway_elsewhere(
    program: Program, folder: Path, add_entries: AddEntries, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway(folder / "data") as running:
        monkeypatch.setenv("EMBEDGATE_URL", running.url)
        monkeypatch.setenv("EMBEDGATE_API_KEY", running.admin_key)
        monkeypatch.setenv("EMBEDGATE_DATA_DIR", str(folder / "here"))
        follow_guide(program, folder, add_entries, is_remote=True)
        assert not (folder / "here").exists()
