"""The catalogue on the screen: what is on, what is off and how to change that."""

import json
from pathlib import Path

import pytest

from embedgate.catalog import Catalog
from program import Program


def test_only_what_can_be_used_is_listed(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-display")
    ended = program("models", "list")
    rows = {line.split()[0]: line.split() for line in ended.text.splitlines()[1:]}
    assert rows["openai/text-embedding-3-small"][1:] == ["1..1536", "8192", "0.02", "openai", "on"]
    assert not any(row[-1] == "off" for row in rows.values())
    assert "sk-not-for-display" not in ended.text


def test_all_models_come_with_how_to_switch_them_on(program: Program) -> None:
    ended = program("models", "list", "--all", "--provider", "openai")
    lines = ended.text.splitlines()
    assert any(line.startswith("openai/text-embedding-3-large") and line.rstrip().endswith("off") for line in lines)
    assert "  set OPENAI_API_KEY for openai" in lines
    everything = json.loads(program("models", "list", "--all", "--json").text)["items"]
    known = {model.id for model in Catalog.builtin().embedding_models()}
    assert known <= {model["id"] for model in everything}


def test_models_that_order_documents_are_listed_with_the_price_of_their_searches(program: Program) -> None:
    ended = program("models", "list", "--all", "--action", "rerank")
    rows = {line.split()[0]: line for line in ended.text.splitlines()[1:] if line}
    assert "2.5 per 1,000 searches" in rows["cohere/rerank-v4.0-pro"]
    assert "openai/text-embedding-3-small" not in rows
    model = json.loads(program("models", "show", "rerank-v4.0-pro", "--json").text)
    assert (model["action"], model["sizes"]) == ("rerank", None)
    assert model["routes"][0]["usd_per_thousand_searches"] == "2.5"


def test_a_provider_that_does_not_exist_is_refused(program: Program) -> None:
    ended = program("models", "list", "--provider", "opnai")
    assert ended.code == 1
    assert "openai" in ended.errors


def test_one_model_is_shown_with_its_routes(program: Program) -> None:
    shown = program("models", "show", "text-embedding-3-small").text
    assert "openai/text-embedding-3-small" in shown
    assert "1536 of 1..1536" in shown
    model = json.loads(program("models", "show", "text-embedding-3-small", "--json").text)
    assert model["is_on"] is False
    assert model["sizes"]["default"] == 1536
    assert model["routes"][0]["usd_per_million_tokens"] == "0.02"


def test_models_of_the_settings_are_known(program: Program, folder: Path) -> None:
    (folder / "embedgate.toml").write_text("[providers.fake]\nenabled = true\n", encoding="utf-8")
    model = json.loads(program("models", "show", "fake/deterministic", "--json").text)
    assert (model["is_on"], model["action"]) == (True, "embedding")


@pytest.mark.usefixtures("fake_only")
def test_a_gateway_elsewhere_lists_the_same(program: Program, remote: Program) -> None:
    for arguments in (
        ["list"], ["list", "--all", "--provider", "openai"], ["list", "--json"], ["show", "text-embedding-3-small"],
        ["show", "deterministic", "--json"],
    ):  # fmt: skip
        here, there = (run("models", *arguments) for run in (program, remote))
        assert (there.code, there.output) == (0, here.output)
    assert remote("models", "list", "--provider", "opnai").code == 1
