"""The settings on the screen: complete, true, and without a secret."""

import json
from pathlib import Path

import pytest

from embedgate.settings_reference import fields
from program import Program

SECRET = "sk-not-for-display"


def test_settings_without_a_mistake_are_ok(program: Program, folder: Path) -> None:
    assert program("config", "check").text == "ok: defaults\n"
    (folder / "embedgate.toml").write_text("[server]\nport = 3200\n", encoding="utf-8")
    assert program("config", "check").text == "ok: embedgate.toml\n"


def test_mistakes_beyond_types_are_found_too(program: Program, folder: Path) -> None:
    (folder / "embedgate.toml").write_text(
        '[providers.mine]\nenabled = true\n[providers.openai]\nenabled = true\n[server]\ntls_cert_file = "no.pem"\n',
        encoding="utf-8",
    )
    ended = program("config", "check")
    assert ended.code == 3
    assert len(ended.errors.splitlines()) == 3
    assert "server.tls_cert_file" in ended.errors
    assert "providers.mine" in ended.errors
    assert "providers.openai" in ended.errors


def test_every_setting_is_shown_with_its_value_and_whether_it_was_set(
    program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDGATE_PORT", "3200")
    (folder / "embedgate.toml").write_text('[providers.mine]\nbase_url = "http://127.0.0.1:1/v1"\n', encoding="utf-8")
    shown = json.loads(program("config", "show", "--json").text)
    settings = {item["path"]: item for item in shown["settings"]}
    assert {info.path for info in fields() if "<name>" not in info.path} <= settings.keys()
    assert all(item["description"] for item in settings.values())
    assert (settings["server.port"]["value"], settings["server.port"]["is_default"]) == (3200, False)
    assert (settings["server.host"]["value"], settings["server.host"]["is_default"]) == ("127.0.0.1", True)
    assert settings["storage.data_dir"]["value"] == str(folder / "data")
    assert settings["providers.mine.base_url"]["is_default"] is False
    assert settings["providers.mine.host"]["is_default"] is True
    table = program("config", "show").text
    assert any(line.split()[:3] == ["server.port", "3200", "set"] for line in table.splitlines())


def test_keys_of_providers_are_set_or_not_and_never_shown(
    program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    (folder / "mine.key").write_text(SECRET, encoding="utf-8")
    (folder / "embedgate.toml").write_text('[providers.mine]\napi_key_file = "mine.key"\n', encoding="utf-8")
    ended = program("config", "show", "--json")
    keys = {key["provider"]: key for key in json.loads(ended.text)["provider_keys"]}
    assert keys["openai"] == {"provider": "openai", "is_set": True, "source": "OPENAI_API_KEY"}
    assert keys["mine"] == {"provider": "mine", "is_set": True, "source": "mine.key"}
    assert keys["together"]["is_set"] is False
    assert SECRET not in ended.text + program("config", "show").text


@pytest.mark.parametrize(
    ("config", "variables", "said"),
    [
        *(
            (f'[providers.mine]\nbase_url = "http://127.0.0.1:1/v1{path}"\n', {}, ["providers.mine.base_url", "/v1"])
            for path in ("/embeddings", "/embeddings/", "/chat/completions", "/rerank", "/embed")
        ),
        ("", {"OPENAI_API_KEY": f'"{SECRET}"'}, ["OPENAI_API_KEY", "quotation marks"]),
        ("", {"COHERE_API_KEY": f"'{SECRET}'"}, ["COHERE_API_KEY", "quotation marks"]),
        ('[providers.openai]\napi_key_env = "MY_KEY"\n', {"MY_KEY": f'{SECRET}"'}, ["MY_KEY", "quotation marks"]),
        ('[providers.openai]\napi_key_env = "MY_KEY"\n', {}, ["MY_KEY"]),
        ('[providers.openai]\napi_key_env = ["MY_KEY", "OTHER"]\n', {"MY_KEY": SECRET, "OTHER": ""}, ["OTHER"]),
        ('[providers.openai]\napi_key_file = "quoted.key"\n', {}, ["quoted.key", "quotation marks"]),
        ('[access]\nmaster_key_env = "MASTER"\n', {}, ["access.master_key_env", "MASTER", "not set"]),
    ],
)
def test_what_is_most_likely_wrong_is_found(
    program: Program,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    variables: dict[str, str],
    said: list[str],
) -> None:
    (folder / "quoted.key").write_text(f'"{SECRET}"\n', encoding="utf-8")
    (folder / "embedgate.toml").write_text(config, encoding="utf-8")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ended = program("config", "check")
    assert ended.code == 3
    assert len(ended.errors.splitlines()) == 1, ended.errors
    assert all(part in ended.errors for part in said), ended.errors
    assert SECRET not in ended.errors


def test_what_is_off_needs_no_key(program: Program, folder: Path) -> None:
    config = '[providers.openai]\nenabled = false\napi_key_env = "MY_KEY"\n'
    (folder / "embedgate.toml").write_text(config, encoding="utf-8")
    assert program("config", "check").text == "ok: embedgate.toml\n"
