"""Models added and removed from the command line, here and on a gateway elsewhere, and what advice says then."""

import json
from pathlib import Path

import pytest

from program import Program
from upstream import Upstream

pytestmark = pytest.mark.usefixtures("fake_only")


def set_up(program: Program, server: Upstream, *more: str) -> str:
    ended = program("providers", "set", "acme", "--base-url", server.base_url, "--allow-private", *more)
    assert ended.code == 0, ended.errors
    return ended.text


def test_a_model_is_added_used_and_removed_on_a_running_gateway(remote: Program, server: Upstream) -> None:
    assert set_up(remote, server).startswith("acme is stored, and not on yet: acme has no model yet: ")
    added = remote("models", "add", "acme/encoder", "--provider", "acme", "--dim", "256", "--price", "0.05")
    assert (added.code, added.text.splitlines()[0]) == (0, "acme/encoder is on at acme")
    tried = json.loads(remote("providers", "test", "acme", "--json").text)
    assert (tried["ok"], tried["model"], tried["dim"]) == (True, "acme/encoder", 256)
    assert remote("models", "remove", "acme/encoder", "--provider", "acme").code == 2
    ended = remote("models", "remove", "acme/encoder", "--provider", "acme", "--yes")
    assert (ended.code, ended.text) == (0, "acme/encoder is removed from acme\n")
    assert remote("models", "remove", "acme/encoder", "--yes").code == 1
    assert "has no model yet" in remote("providers", "enable", "acme").text


def test_settings_of_the_file_are_set_kept_and_unset(program: Program, server: Upstream) -> None:
    set_up(program, server, "--host", "vllm", "--models", "BAAI/bge-m3", "--weight", "3", "--precision", "int8")
    assert program("providers", "set", "acme", "--requests-per-minute", "600", "--no-free").code == 0

    def shown() -> tuple[object, ...]:
        (found,) = [
            each for each in json.loads(program("providers", "list", "--json").text)["items"] if each["name"] == "acme"
        ]
        names = ("models_served", "weight", "precision", "requests_per_minute", "free", "is_on")
        return tuple(found[name] for name in names)

    assert shown() == (["BAAI/bge-m3"], 3, "int8", 600, False, True)
    assert program("providers", "set", "acme", "--unset", "weight", "--unset", "models", "--unset", "free").code == 0
    assert shown() == (None, None, "int8", 600, None, True)


def test_no_model_is_called_free_that_has_a_price_somewhere(program: Program, server: Upstream) -> None:
    set_up(program, server, "--free")
    program("models", "add", "acme/encoder", "--provider", "acme", "--dim", "256")

    def price() -> str:
        rows = [line for line in program("models", "list").text.splitlines() if line.startswith("acme/encoder")]
        return rows[0].split("512")[1].split("acme")[0].strip()

    assert price() == "free"
    program("providers", "set", "acme2", "--base-url", server.base_url, "--allow-private")
    program("models", "add", "acme/encoder", "--provider", "acme2", "--price", "0.05")
    assert price() == "0 to 0.05"
    program("providers", "set", "acme3", "--base-url", server.base_url, "--allow-private")
    program("models", "add", "acme/encoder", "--provider", "acme3")
    assert price() == "0 to ?"
    chat = ("models", "add", "acme/talker", "--provider", "acme", "--action", "chat", "--price", "0", "--output-price")
    assert program(*chat, "2").code == 0
    talker = next(
        line for line in program("models", "list", "--action", "chat").text.splitlines() if "acme/talker" in line
    )
    assert ("free" in talker, "2.0 written" in talker) == (False, True)


def test_advice_names_only_what_is_yet_to_be_done(
    program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def advice(name: str) -> str:
        found = json.loads(program("providers", "list", "--json").text)["items"]
        return str(next(each["how_to_switch_on"] for each in found if each["name"] == name))

    assert advice("azure") == "set AZURE_OPENAI_API_KEY for azure, and base_url in [providers.azure]"
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "0123456789")
    assert advice("azure") == "set base_url in [providers.azure]"
    assert "embedgate providers enable ollama" in advice("ollama")
    assert program("providers", "enable", "ollama").text == "ollama is switched on\n"
    assert advice("ollama") == "None"
    assert "ollama has no model yet" not in program("models", "list", "--all").text
    ended = program("providers", "enable", "tei")
    assert (ended.code, "embedgate models discover tei" in ended.text) == (0, True)
    assert folder.exists()
