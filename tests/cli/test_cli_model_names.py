"""Whatever takes the name of a model takes an alias of it, or says which model that alias stands for.

A new command or operation that takes one has to be named here.
"""

import json
import re
from pathlib import Path

import generate_docs
import pytest

from embedgate.govern.operations import OPERATIONS
from program import Program
from upstream import Upstream

pytestmark = pytest.mark.usefixtures("fake_only")

FAKE, ALIAS = "fake/deterministic", "fast-embed"
OTHER = "acme/encoder"
SINCE = "2026-11-01T00:00:00Z"

SAME: dict[str, tuple[str, ...]] = {
    "embed --model": ("embed", "a text", "--model", "{}"),
    "split --model": ("split", "text.txt", "--model", "{}"),
    "models show ID": ("models", "show", "{}"),
    "models verify ID": ("models", "verify", "{}"),
    "providers test MODEL": ("providers", "test", "fake", "{}"),
    "policies try --model": ("policies", "try", "--key", "laptop", "--model", "{}"),
    "keys create --model": ("keys", "create", "--name", "k", "--user", "ann", "--model", "{}"),
    "prices set MODEL": ("prices", "set", "{}", "fake", "1", "--from", SINCE),
    "prices delete MODEL": ("prices", "delete", "{}", "fake", SINCE, "--yes"),
    "providers set --models": ("providers", "set", "acme", "--models", "{}"),
    "usage --model": ("usage", "--model", "{}"),
    "usage entries --model": ("usage", "entries", "--model", "{}"),
    "cache clear --model": ("cache", "clear", "--model", "{}", "--yes"),
    "index create --model": ("index", "create", "notes", "--model", "{}"),
}
"""Commands that do with an alias as they do with the id."""
REFUSED: dict[str, tuple[str, ...]] = {
    "models add MODEL": ("models", "add", "{}", "--provider", "acme", "--dim", "8"),
    "models remove ID": ("models", "remove", "{}", "--yes"),
    "aliases set MODEL": ("aliases", "set", "another", "{}"),
}
"""Commands that name the model that the alias stands for."""
ONE_PLACE = {
    f"{command} --model"
    for command in ("cluster", "outliers", "classify", "map", "evaluate", "dedupe", "search", "ask")
} | {"evaluate --against", "reindex --to"}
"""Commands that embed as `embed` does: the gateway that they open, or that is at --url, finds the model."""
AT_A_GATEWAY = {"search --rerank", "ask --chat-model"}
"""What a gateway elsewhere is asked for, where aliases count as for all callers."""
NO_MODEL = {"aliases set NAME", "aliases remove NAME"}
"""Aliases themselves."""

OPERATIONS_WITH_MODELS = {
    "me.create_key", "keys.create", "policies.dry_run", "prices.add", "prices.delete", "providers.put",
    "providers.test", "models.show", "models.add", "models.remove", "models.verify", "aliases.set", "usage.show",
    "me.usage", "usage.entries", "me.entries", "cache.clear",
}  # fmt: skip
"""Those of a user, `me`, are tried in tests/govern/test_own_model_names.py, the others by their commands."""


@pytest.fixture
def prepared(program: Program, folder: Path, server: Upstream) -> Program:
    """An alias of the only model, and all that the commands need."""
    (folder / "text.txt").write_text("One sentence. Another one.")
    for arguments in (
        ("aliases", "set", ALIAS, FAKE),
        ("users", "create", "ann"),
        ("keys", "create", "--name", "laptop", "--user", "ann"),
        ("prices", "set", FAKE, "fake", "2", "--from", "2026-10-01T00:00:00Z"),
        ("embed", "a first text", "--model", ALIAS),
    ):
        ended = program(*arguments)
        assert ended.code == 0, (arguments, ended.errors)
    return program


def places() -> set[str]:
    """Where commands take the name of a model."""
    found = set()
    for command in generate_docs.commands():
        for names, meaning in command.rows:
            taken = re.match(r"(--[\w-]+|[A-Z]+) (?:ID|MODEL|<str>)", names)
            if taken and re.search(r"[Mm]odel|callers ask for", meaning) and not re.search(r"tokens|Dollars", meaning):
                found.add(f"{command.path.removeprefix('embedgate ')} {taken[1]}")
    return found - {"models add --space"}


def test_every_place_is_tried_here() -> None:
    assert places() == SAME.keys() | REFUSED.keys() | ONE_PLACE | AT_A_GATEWAY | NO_MODEL
    operations = {each.name for each in OPERATIONS if any("model" in name for name in each.takes.__struct_fields__)}
    assert operations == OPERATIONS_WITH_MODELS


@pytest.mark.parametrize("place", SAME)
def test_an_alias_does_what_the_id_does(prepared: Program, server: Upstream, place: str) -> None:
    program = prepared
    if place == "providers set --models":  # a provider serves a model of its own
        program("providers", "set", "acme", "--base-url", server.base_url, "--allow-private")
        assert program("models", "add", OTHER, "--provider", "acme", "--dim", "256").code == 0
        assert program("aliases", "set", ALIAS, OTHER, "--yes").code == 0
    if place == "prices delete MODEL":
        assert program("prices", "set", FAKE, "fake", "3", "--from", SINCE).code == 0
    ended = program(*(argument.format(ALIAS) for argument in SAME[place]))
    assert ended.code == 0, ended.errors
    match place:
        case "keys create --model":
            listed = json.loads(program("keys", "list", "--json").text)["items"]
            assert [key["models"] for key in listed if key["name"] == "k"] == [[FAKE]]
        case "prices set MODEL" | "prices delete MODEL":
            listed = json.loads(program("prices", "list", "--json").text)["items"]
            assert {price["model"] for price in listed} == {FAKE}
            assert len(listed) == (2 if place == "prices set MODEL" else 1)
        case "providers set --models":
            listed = json.loads(program("providers", "list", "--json").text)["items"]
            assert [each["models_served"] for each in listed if each["name"] == "acme"] == [[OTHER]]
        case "cache clear --model" | "index create --model":
            if place == "index create --model":
                (listed,) = json.loads(program("index", "list", "--json").text)
                assert listed["model"] == FAKE
        case _:
            by_id = program(*(argument.format(FAKE) for argument in SAME[place]))
            assert without_times(by_id.text) == without_times(ended.text)
            assert "usage" not in place or re.search(r"\b[1-9]", ended.text)


def without_times(text: str) -> str:
    return re.sub(r"ms +\d+", "", text)


@pytest.mark.parametrize("place", REFUSED)
def test_a_refused_alias_is_told_with_its_model(prepared: Program, server: Upstream, place: str) -> None:
    prepared("providers", "set", "acme", "--base-url", server.base_url, "--allow-private")
    ended = prepared(*(argument.format(ALIAS) for argument in REFUSED[place]))
    assert ended.code in (1, 2)
    said = " ".join(ended.errors.split())
    assert re.search(rf"{ALIAS} is an alias .*{FAKE}", said), said
