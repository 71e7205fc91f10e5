"""Several keys of one provider in the settings: all that are named are used, and every mistake is told at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from embedgate.config import Loaded, load
from embedgate.core.access import ProviderRecord
from embedgate.core.errors import ConfigError
from embedgate.govern.selection import Stored, decide

ENVIRONMENT = {"FIRST": "sk-first", "SECOND": "sk-second", "OPENAI_API_KEY": "sk-usual"}


def loaded(folder: Path, settings: str, environment: dict[str, str] | None = None) -> Loaded:
    file = folder / "embedgate.toml"
    file.write_text(settings, encoding="utf-8")
    return load(file, ENVIRONMENT if environment is None else environment)


def keys(folder: Path, settings: str, name: str = "openai", **others: Any) -> dict[str, str | None]:
    """The keys of a provider by the names of its accounts."""
    in_use = decide(loaded(folder, settings, **others)).hosts[name]
    return {endpoint.provider: endpoint.key for endpoint in in_use.endpoints}


def mistakes(folder: Path, settings: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        decide(loaded(folder, settings))
    assert not any("sk-" in mistake for mistake in caught.value.mistakes)
    return list(caught.value.mistakes)


def test_each_key_is_an_account_with_a_name_that_shows_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "third.key").write_text("sk-third\n", encoding="utf-8")
    file = json.dumps(str(tmp_path / "third.key"))
    both = f'[providers.openai]\napi_key_env = ["FIRST", "SECOND"]\napi_key_file = {file}\n'
    assert keys(tmp_path, both) == {"openai": "sk-third", "openai#2": "sk-first", "openai#3": "sk-second"}
    assert keys(tmp_path, '[providers.openai]\napi_key_env = "SECOND"\n') == {"openai": "sk-second"}


def test_keys_that_are_not_named_are_not_used(tmp_path: Path) -> None:
    environment = {
        "OPENAI_API_KEY": "sk-usual",
        "OPENAI_API_KEY_2": "sk-more",
        "GEMINI_API_KEY": "a",
        "GOOGLE_API_KEY": "b",
    }
    assert keys(tmp_path, "", environment=environment) == {"openai": "sk-usual"}
    assert keys(tmp_path, "", "gemini", environment=environment) == {"gemini": "a"}


def test_a_key_that_is_missing_beside_others_is_a_mistake(tmp_path: Path) -> None:
    assert mistakes(tmp_path, '[providers.openai]\napi_key_env = ["FIRST", "THIRD", "FOURTH"]\n') == [
        "providers.openai: api_key_env names THIRD, FOURTH, which is not set"
    ]
    nothing = '[providers.openai]\napi_key_env = ["THIRD", "FOURTH"]\n'
    assert "openai" not in decide(loaded(tmp_path, nothing)).hosts
    (mistake,) = mistakes(tmp_path, nothing + "enabled = true\n")
    assert "has no key" in mistake


def test_all_mistakes_with_keys_are_told_at_once(tmp_path: Path) -> None:
    again = tmp_path / "again.key"
    again.write_text("sk-first", encoding="utf-8")
    files = json.dumps([str(tmp_path / "no.key"), str(again)])
    found = mistakes(
        tmp_path,
        f"[providers.openai]\napi_key_file = {files}\napi_key_env = ['FIRST', 'THIRD']\n"
        "[providers.voyage]\napi_key_env = ['SECOND', 'THIRD']\n",
    )
    assert len(found) == 4
    assert "no.key cannot be read" in found[0]
    assert f"FIRST holds the same key as {again}" in found[1]
    assert "THIRD" in found[2]
    assert found[3].startswith("providers.voyage")


def test_a_variable_that_is_named_twice_is_no_second_account(tmp_path: Path) -> None:
    assert mistakes(tmp_path, '[providers.openai]\napi_key_env = ["FIRST", "FIRST"]\n') == [
        "providers.openai: FIRST holds the same key as FIRST; name each account once"
    ]


def test_a_provider_without_its_key_is_switched_on_by_the_variable_that_the_settings_name(tmp_path: Path) -> None:
    decided = decide(loaded(tmp_path, '[providers.openai]\napi_key_env = ["THIRD", "FOURTH"]\n'))
    assert decided.explain_off("openai") == "set THIRD or FOURTH for openai"
    assert decided.explain_off("voyage") == "set VOYAGE_API_KEY for voyage"
    off = '[providers.openai]\nenabled = false\n[providers.mine]\nhost = "vllm"\nenabled = false\n'
    decided = decide(loaded(tmp_path, off))
    assert decided.explain_off("openai") == "enable openai, which is switched off"
    assert decided.explain_off("mine") == "enable mine, which is switched off"
    assert "azure" in decided.explain_off("azure")
    assert "base_url" in decided.explain_off("azure")


def test_what_is_switched_off_needs_no_keys(tmp_path: Path) -> None:
    settings = '[providers.openai]\nenabled = false\napi_key_file = "no.key"\napi_key_env = ["FIRST", "THIRD"]\n'
    assert "openai" not in decide(loaded(tmp_path, settings)).hosts


def test_a_stored_key_takes_the_place_of_all_others(tmp_path: Path) -> None:
    settings = loaded(tmp_path, '[providers.openai]\napi_key_env = ["FIRST", "SECOND"]\nrequests_per_minute = 7\n')
    stored = Stored({"openai": ProviderRecord("openai", max_parallel=3)}, {"openai": "sk-stored"})
    in_use = decide(settings, stored).hosts["openai"]
    assert [endpoint.key for endpoint in in_use.endpoints] == ["sk-stored"]
    assert (in_use.max_parallel, in_use.requests_per_minute) == (3, 7)


def test_every_key_has_the_address_that_belongs_to_it(tmp_path: Path) -> None:
    environment = {"FIRST": "pa-1", "SECOND": "al-2"}
    settings = loaded(tmp_path, '[providers.voyage]\napi_key_env = ["FIRST", "SECOND"]\n', environment)
    found = decide(settings).hosts["voyage"]
    assert [endpoint.base_url for endpoint in found.endpoints] == [
        "https://api.voyageai.com/v1",
        "https://ai.mongodb.com/v1",
    ]


def test_the_cap_is_of_the_provider_and_the_limits_of_each_key(tmp_path: Path) -> None:
    settings = (
        '[providers.openai]\napi_key_env = ["FIRST", "SECOND"]\nmax_parallel = 5\nbatching = true\n'
        "requests_per_minute = 500\ntokens_per_minute = 1000000\n"
    )
    decided = decide(loaded(tmp_path, settings))
    in_use = decided.hosts["openai"]
    assert (in_use.max_parallel, in_use.requests_per_minute, in_use.tokens_per_minute) == (5, 500, 1_000_000)
    assert decided.batching()["openai"] == 5


def test_a_declared_precision_keeps_vectors_of_a_server_apart(tmp_path: Path) -> None:
    settings = (
        '[providers.exact]\nhost = "vllm"\nbase_url = "http://127.0.0.1:1/v1"\n'
        '[providers.rounded]\nhost = "vllm"\nbase_url = "http://127.0.0.1:2/v1"\nprecision = "int8"\n'
    )
    decided = decide(loaded(tmp_path, settings))
    model = decided.catalog.find("BAAI/bge-m3")
    assert model is not None
    found = {route.provider: route.precision for route in model.routes}
    assert (found["exact"], found["rounded"]) == ("f32", "int8")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("api_key_env", "3"),
        ("api_key_file", "[1]"),
        ("requests_per_minute", "0"),
        ("tokens_per_minute", "-1"),
        ("precision", '"FP 8"'),
        ("api_key_envs", '["A"]'),
        ("api_key_env", "{}"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"providers.openai.{setting}"):
        loaded(tmp_path, f"[providers.openai]\n{setting} = {value}\n")
