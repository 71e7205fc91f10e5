"""What a command says of a name that is not there can be done: the name that may be meant, and what lists them."""

import re
from pathlib import Path

import pytest

from program import Program
from upstream import Answer, Upstream, error

pytestmark = pytest.mark.usefixtures("fake_only")

FAKE = "fake/deterministic"
UNKNOWN = [
    (("users", "delete", "an", "--yes"), "an", "ann"),
    (("users", "give-role", "an", "reader"), "an", "ann"),
    (("users", "give-role", "ann", "readr"), "readr", "reader"),
    (("roles", "delete", "readr", "--yes"), "readr", "reader"),
    (("projects", "delete", "serch", "--yes"), "serch", "search"),
    (("keys", "show", "lapto"), "lapto", "laptop"),
    (("keys", "revoke", "lapto", "--yes"), "lapto", "laptop"),
    (("keys", "create", "--user", "an", "--name", "k"), "an", "ann"),
    (("keys", "create", "--user", "ann", "--project", "serch", "--name", "k"), "serch", "search"),
    (("policies", "show", "basic-alow-key"), "basic-alow-key", "basic-allow-key"),
    (("policies", "templates", "openai-onl"), "openai-onl", "openai-only"),
    (("policies", "from-template", "openai-onl"), "openai-onl", "openai-only"),
    (("policies", "try", "--key", "lapto", "--model", FAKE), "lapto", "laptop"),
    (("limits", "set", "--user", "an", "--requests-per-minute", "5"), "an", "ann"),
    (("budgets", "set", "5", "--project", "serch", "--period", "day"), "serch", "search"),
    (("models", "show", "determinstic"), "determinstic", FAKE),
    (("models", "list", "--provider", "fak"), "fak", "fake"),
    (("models", "verify", "fake/determinstic"), "fake/determinstic", FAKE),
    (("embed", "a", "--model", "fake/determinstic"), "fake/determinstic", FAKE),
    (("split", "text.txt", "--model", "fake/determinstic"), "fake/determinstic", FAKE),
    (("cache", "clear", "--model", "fake/determinstic", "--yes"), "fake/determinstic", FAKE),
    (("prices", "set", "fake/determinstic", "fake", "1"), "fake/determinstic", FAKE),
    (("prices", "set", FAKE, "fak", "1"), "fak", "fake"),
    (("providers", "test", "fak"), "fak", "fake"),
    (("providers", "disable", "fak"), "fak", "fake"),
    (("providers", "delete", "acm", "--yes"), "acm", "acme"),
    (("providers", "remove-key", "acm", "--yes"), "acm", "acme"),
    (("aliases", "remove", "fast-embd", "--yes"), "fast-embd", "fast-embed"),
    (("usage", "--user", "an"), "an", "ann"),
    (("usage", "--project", "serch"), "serch", "search"),
    (("usage", "entries", "--key", "lapto"), "lapto", "laptop"),
    (("usage", "reconcile", "bill.csv", "--provider", "fak"), "fak", "fake"),
    (("usage", "reconcile", "bill.csv", "--provider", "fak", "--settle", "--yes"), "fak", "fake"),
    (("index", "show", "note"), "note", "notes"),
    (("search", "note", "x"), "note", "notes"),
]
"""Commands with a name that is a letter wrong, that name, and the one that is meant."""


@pytest.fixture
def prepared(program: Program, folder: Path, server: Upstream) -> Program:
    (folder / "text.txt").write_text("One sentence.")
    (folder / "bill.csv").write_text("date,model,tokens\n2026-11-21,deterministic,12\n")
    for arguments in (
        ("users", "create", "ann"),
        ("roles", "create", "reader"),
        ("projects", "create", "search"),
        ("keys", "create", "--name", "laptop", "--user", "ann"),
        ("aliases", "set", "fast-embed", FAKE),
        ("index", "create", "notes"),
        ("index", "add", "notes", "text.txt"),
        ("policies", "from-template", "openai-only", "--id", "basic-allow-key"),
        ("providers", "set", "acme", "--base-url", server.base_url, "--allow-private"),
    ):
        ended = program(*arguments)
        assert ended.code == 0, (arguments, ended.errors)
    return program


def test_the_name_that_is_meant_is_given_and_works(prepared: Program) -> None:
    for arguments, wrong, right in UNKNOWN:
        refused = prepared(*arguments)
        said = " ".join(refused.errors.split())
        assert refused.code == 1, (arguments, said)
        meant = re.search(r"Did you mean (\S+?)(?: or \S+)*\?", said)
        assert meant is not None, (arguments, said)
        assert meant[1] == right, (arguments, said)
        for command in re.findall(r"`embedgate ([a-z -]+)`", said):
            assert prepared(*command.split()).code == 0, command
        assert "List the" not in said
        if arguments[1] in ("delete", "remove", "revoke") or "MODEL" in arguments:
            continue  # the others need what these take away
        again = prepared(*(right if each == wrong else each for each in arguments))
        assert "There is no" not in again.errors, (arguments, again.errors)


def test_advice_without_a_name_that_is_near_is_a_command_that_runs(program: Program) -> None:
    for arguments in (
        ("users", "delete", "zzz", "--yes"), ("projects", "delete", "zzz", "--yes"), ("policies", "show", "zzz"),
        ("roles", "delete", "zzz", "--yes"), ("models", "show", "zzz"), ("embed", "a", "--model", "zzz"),
        ("policies", "templates", "zzz"), ("split", "text.txt", "--model", "zzz"),
    ):  # fmt: skip
        (Path.cwd() / "text.txt").write_text("One.")
        refused = program(*arguments)
        assert refused.code == 1
        (command,) = re.findall(r"`embedgate ([a-z -]+)`", " ".join(refused.errors.split()))
        assert program(*command.split()).code == 0


TRIALS = [
    (("fake",), True, FAKE),
    (("fake", "deterministic"), True, FAKE),
    (("fake", "--model", FAKE), True, FAKE),
    (("fake", "zzz"), False, f"There is no model 'zzz'. Those of fake: {FAKE}."),
    (("fake", "text-embedding-3-small"), False, f"is not served by fake. Those of fake: {FAKE}."),
    (("fake", "openai/gpt-4o-mini"), False, "is for chat, and only models for embeddings are tried."),
    (("fake", "cohere/rerank-v3.5"), False, "is for reranking, and only models for embeddings are tried."),
    (("openai",), False, "openai serves no embedding model here: set OPENAI_API_KEY for openai."),
    (("openai", "text-embedding-3-small"), False, "set OPENAI_API_KEY for openai"),
    (("acme",), True, "acme/encoder"),
]


def test_a_trial_says_what_is_wrong_and_what_to_try_instead(prepared: Program) -> None:
    assert prepared("models", "add", "acme/encoder", "--provider", "acme", "--dim", "256").code == 0
    for arguments, is_right, told in TRIALS:
        ended = prepared("providers", "test", *arguments)
        assert ended.code == 0
        said = " ".join(ended.text.split())
        assert told in said, (arguments, said)
        assert ("answer right" in said) == is_right, (arguments, said)


def test_a_trial_tells_what_a_server_answers(
    prepared: Program, server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDGATE_UPSTREAM__MAX_RETRIES", "0")
    assert prepared("models", "add", "acme/encoder", "--provider", "acme", "--dim", "256").code == 0
    answers = {
        "refused our key (status 401)": error(401, "no such key"),
        "(status 404)": error(404, "nothing here"),
        "is busy or limits us (status 429)": error(429, "slow down", headers={"retry-after": "0"}),
        "Welcome to nginx": Answer(503, b"<html><title>Welcome to nginx</title></html>"),
    }
    for told, answer in answers.items():
        server.usually(answer)
        said = " ".join(prepared("providers", "test", "acme", "acme/encoder").text.split())
        assert told in said, said
        assert "answer none" in said
    prepared("providers", "set", "acme", "--base-url", "http://127.0.0.1:9/v1", "--allow-private")
    said = " ".join(prepared("providers", "test", "acme", "acme/encoder").text.split())
    assert "acme" in said
    assert "answer none" in said
