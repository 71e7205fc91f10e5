"""Providers from the command line: stored beside the settings, with sealed keys, and never to the gateway's end."""

import json
from pathlib import Path
from typing import Any

import pytest

from program import Program

pytestmark = pytest.mark.usefixtures("fake_only")

KEY = "sk-0123456789abcdef0123456789"


def listed(program: Program) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(program("providers", "list", "--json").text)["items"]}


def test_a_key_from_standard_input_switches_a_provider_on_and_is_shown_nowhere(program: Program, folder: Path) -> None:
    ended = program("providers", "set", "openai", "--key-stdin", stdin=f"{KEY}\n".encode())
    assert (ended.code, ended.text) == (0, "openai is stored\n")
    found = listed(program)["openai"]
    assert (found["is_on"], found["is_stored"], found["key_hint"]) == (True, True, "6789")
    text = program("providers", "list").text + program("audit", "list", "--json").text
    assert KEY not in text
    assert "...6789" in text
    assert not any(KEY.encode() in file.read_bytes() for file in (folder / "data").iterdir() if file.is_file())


def test_a_key_from_the_environment_is_taken_once(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = program("providers", "set", "openai", "--key-env", "SECRET")
    assert (ended.code, "SECRET is not set" in ended.errors) == (1, True)
    monkeypatch.setenv("SECRET", KEY)
    assert program("providers", "set", "openai", "--key-env", "SECRET", "--key-stdin").code == 2
    assert program("providers", "set", "openai", "--key-env", "SECRET").code == 0
    monkeypatch.delenv("SECRET")
    assert listed(program)["openai"]["is_on"] is True


def test_what_is_not_given_stays(program: Program) -> None:
    url = "http://127.0.0.1:8000/v1"
    arguments = ["providers", "set", "gpu1", "--host", "vllm", "--base-url", url]
    ended = program(*arguments)
    assert (ended.code, "allow_private" in ended.errors) == (1, True)
    assert program(*arguments, "--allow-private").code == 0
    assert program("providers", "set", "gpu1", "--max-parallel", "3", "--batching").code == 0
    found = listed(program)["gpu1"]
    assert (found["host"], found["base_url"], found["max_parallel"], found["batching"]) == ("vllm", url, 3, True)
    assert program("providers", "set", "gpu1", "--unset", "batching").code == 0
    assert listed(program)["gpu1"]["batching"] is None
    assert "gpu1" in program("models", "show", "BAAI/bge-m3").text
    assert program("providers", "set", "gpu1").code == 2


def test_a_provider_is_switched_and_left_to_the_settings_again(program: Program) -> None:
    program("providers", "set", "openai", "--key-stdin", stdin=KEY.encode())
    assert program("providers", "disable", "openai").text == "openai is switched off\n"
    assert listed(program)["openai"]["is_on"] is False
    program("providers", "enable", "openai")
    ended = program("providers", "remove-key", "openai", "--yes")
    assert (ended.code, "has no key" in ended.errors) == (1, True)
    program("providers", "disable", "openai")
    assert program("providers", "remove-key", "openai").code == 2
    assert program("providers", "remove-key", "openai", "--yes").text == "openai has no stored key\n"
    assert program("providers", "delete", "openai", "--yes").code == 0
    assert [each["name"] for each in listed(program).values() if each["is_on"] or each["is_stored"]] == ["fake"]


def test_a_gateway_is_not_left_without_a_provider(program: Program) -> None:
    ended = program("providers", "disable", "fake")
    assert (ended.code, "no provider would be on" in ended.errors) == (1, True)
    assert listed(program)["fake"]["is_on"] is True
    assert program("providers", "enable", "absent").code == 1


def test_the_list_shows_what_keeps_a_gateway_from_starting(program: Program, folder: Path) -> None:
    program("providers", "set", "openai", "--key-stdin", stdin=KEY.encode())
    (folder / "data" / "secrets.key").unlink()
    ended = program("providers", "list")
    assert ended.code == 0
    assert "warning: a gateway could not start: there is no master key" in ended.errors
    assert ended.text.splitlines()[1].split()[:3] == ["openai", "?", "stored"]
    assert program("providers", "remove-key", "openai", "--yes").code == 0
    assert program("providers", "list").errors == ""


def test_keys_are_sealed_with_the_master_key_of_the_settings(
    program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDGATE_ACCESS__MASTER_KEY_ENV", "MASTER")
    monkeypatch.setenv("MASTER", "ab" * 32)
    assert program("providers", "set", "openai", "--key-stdin", stdin=KEY.encode()).code == 0
    assert not (folder / "data" / "secrets.key").exists()
    monkeypatch.setenv("MASTER", "cd" * 32)
    ended = program("models", "list")
    assert (ended.code, "cannot be opened" in ended.errors) == (3, True)


def test_keys_and_limits_of_the_settings_are_listed(
    program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRST", KEY)
    monkeypatch.setenv("SECOND", f"{KEY}0")
    (folder / "embedgate.toml").write_text(
        "[providers.local]\nenabled = false\n[providers.fake]\nenabled = true\n"
        '[providers.openai]\napi_key_env = ["FIRST", "SECOND"]\nmax_parallel = 5\ntokens_per_minute = 1000\n',
        encoding="utf-8",
    )
    found = listed(program)["openai"]
    assert (found["keys"], found["in_use"]["max_parallel"]) == (2, 5)
    assert (found["in_use"]["requests_per_minute"], found["in_use"]["tokens_per_minute"]) == (None, 1000)
    assert listed(program)["fake"]["keys"] == 0
    shown = json.loads(program("config", "show", "--json").text)
    assert {"provider": "openai", "is_set": True, "source": "FIRST and SECOND"} in shown["provider_keys"]
    assert ("providers.openai.api_key_env", ["FIRST", "SECOND"]) in [(s["path"], s["value"]) for s in shown["settings"]]
    assert "FIRST, SECOND" in program("config", "show").text
    monkeypatch.delenv("SECOND")
    assert "api_key_env names SECOND, which is not set" in program("config", "check").errors


def test_a_provider_is_tried(program: Program) -> None:
    tried = json.loads(program("providers", "test", "fake", "--json").text)
    assert (tried["ok"], tried["model"], tried["error"]) == (True, "fake/deterministic", None)
    ended = program("providers", "test", "openai")
    assert (ended.code, "OPENAI_API_KEY" in ended.text) == (0, True)
    assert program("providers", "test", "nowhere").code == 1


def test_a_gateway_elsewhere_is_managed_alike(remote: Program, program: Program) -> None:
    ended = remote("providers", "set", "openai", "--key-stdin", stdin=KEY.encode())
    assert (ended.code, ended.text) == (0, "openai is stored\n")
    for form in ([], ["--json"]):
        here, there = (run("providers", "list", *form) for run in (program, remote))
        assert there.output == here.output
        assert KEY.encode() not in there.output
    assert json.loads(remote("providers", "test", "fake", "--json").text)["ok"]
    assert remote("providers", "disable", "openai").text == "openai is switched off\n"
    assert remote("providers", "enable", "openai").text == "openai is switched on\n"
    assert remote("providers", "remove-key", "openai", "--yes").code == 1
    assert remote("providers", "delete", "openai", "--yes").text == "openai is left to the settings file\n"
    assert "no provider would be on" in remote("providers", "disable", "fake").errors
