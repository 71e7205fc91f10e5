"""Aliases of models from the command line, on a data folder and on a gateway elsewhere."""

import json

import pytest

from program import Program
from upstream import Upstream

pytestmark = pytest.mark.usefixtures("fake_only")

FAKE = "fake/deterministic"


def add_another(program: Program, server: Upstream) -> None:
    program("providers", "set", "acme", "--base-url", server.base_url, "--allow-private")
    assert program("models", "add", "acme/encoder", "--provider", "acme", "--dim", "256").code == 0


def check_life_of_an_alias(program: Program, server: Upstream) -> None:
    add_another(program, server)
    ended = program("aliases", "set", "fast-embed", FAKE)
    assert (ended.code, ended.text) == (0, f"fast-embed stands for {FAKE}\n")
    refused = program("aliases", "set", "fast-embed", "acme/encoder")
    assert refused.code == 2
    assert "give --yes" in refused.errors
    assert "allow_space_change" not in refused.errors
    for words in (f"stands for {FAKE} now", f"of the space {FAKE}", "of the space acme/encoder"):
        assert words in " ".join(refused.errors.split())
    assert program("aliases", "set", "fast-embed", "acme/encoder", "--yes").code == 0
    assert program("projects", "create", "search").code == 0
    assert program("aliases", "set", "fast-embed", FAKE, "--project", "search", "--yes").code == 0
    lines = [line.split() for line in program("aliases", "list").text.splitlines()[-2:]]
    assert lines == [
        ["fast-embed", "acme/encoder", "everybody", "on"],
        ["fast-embed", FAKE, "project", "search", "on"],
    ]
    (listed,) = json.loads(program("aliases", "list", "--project", "search", "--json").text)["items"]
    assert (listed["model"], listed["space"], listed["is_on"]) == (FAKE, FAKE, True)
    assert program("aliases", "remove", "fast-embed").code == 2
    ended = program("aliases", "remove", "fast-embed", "--yes")
    assert (ended.code, ended.text) == (0, "the alias fast-embed is removed\n")
    ended = program("aliases", "remove", "fast-embed", "--yes")
    assert (ended.code, "There is no alias 'fast-embed'" in ended.errors) == (1, True)


def test_an_alias_is_set_listed_changed_and_removed_here(program: Program, server: Upstream) -> None:
    check_life_of_an_alias(program, server)


def test_an_alias_is_set_listed_changed_and_removed_on_a_gateway(remote: Program, server: Upstream) -> None:
    check_life_of_an_alias(remote, server)


def test_texts_are_embedded_under_an_alias(program: Program) -> None:
    program("aliases", "set", "fast-embed", FAKE)
    by_alias, by_id = (program("embed", "a text", "--model", name) for name in ("fast-embed", FAKE))
    assert (by_alias.code, by_alias.text) == (0, by_id.text)
