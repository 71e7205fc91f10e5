"""Servers that no catalogue knows: set up, discovered, priced, tested and used with five commands, no restart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedgate.providers import fake
from program import Program
from upstream import Answer, Seen, Upstream, error, inputs_of

pytestmark = pytest.mark.usefixtures("fake_only")


def vector(item: str | tuple[int, ...], dim: int) -> Any:
    """A vector whose beginning is the shorter one, as of a Matryoshka model; texts are cut after 4,000 characters."""
    whole = fake.vector(item[:4_000], 64)[:dim]
    return whole / np.linalg.norm(whole)


def of_openai(seen: Seen) -> Answer:
    """vLLM's forms: the list says how long a text may be; there is a chat model that makes no vectors."""
    if seen.path == "/v1/models":
        rows = [{"id": "talker", "object": "model"}, {"id": "report-embed:v2", "object": "model", "max_model_len": 512}]
        return Answer(body=json.dumps({"object": "list", "data": rows}).encode())
    if seen.json["model"] == "talker":
        return error(400, "The model does not support Embeddings API")
    if any(len(str(item).split()) > 1_000 for item in inputs_of(seen.json)):
        return error(400, "This model's maximum context length is 512 tokens.")
    return Answer()


def of_tei(seen: Seen) -> Answer:
    """Text Embeddings Inference: one model, vectors as a bare list."""
    if seen.path == "/info":
        facts = {"model_id": "acme/tuned", "model_type": {"embedding": {"pooling": "mean"}}, "max_input_length": 384}
        return Answer(body=json.dumps(facts).encode())
    body = [vector(text, 64).tolist() for text in seen.json["inputs"]]
    return Answer(body=json.dumps(body).encode(), headers={"x-compute-tokens": str(3 * len(body))})


def of_ollama(seen: Seen) -> Answer:
    """Ollama: names with tags, facts one by one."""
    if seen.path == "/api/tags":
        rows = [{"name": name, "model": name} for name in ("my-embed:latest", "llama3.2:1b")]
        return Answer(body=json.dumps({"models": rows}).encode())
    if seen.path == "/api/show":
        is_chat = seen.json["model"].startswith("llama")
        told = {"bert.context_length": 2048, "bert.embedding_length": 64, "general.architecture": "bert"}
        can = ["completion", "tools"] if is_chat else ["embedding"]
        return Answer(body=json.dumps({"model_info": told, "capabilities": can}).encode())
    rows = [vector(text, 64).tolist() for text in seen.json["input"]]
    return Answer(body=json.dumps({"model": seen.json["model"], "embeddings": rows, "prompt_eval_count": 3}).encode())


SERVERS = [
    pytest.param(of_openai, "/v1", [], "acme/report-embed-v2", 512, id="openai"),
    pytest.param(of_tei, "", ["--host", "tei"], "acme/tuned", 384, id="tei"),
    pytest.param(of_ollama, "", ["--host", "ollama"], "acme/my-embed", 2048, id="ollama"),
]


@pytest.mark.parametrize(("answers", "path", "host", "model", "max_tokens"), SERVERS)
def test_a_server_is_used_after_five_commands(
    remote: Program,
    server: Upstream,
    answers: Callable[[Seen], Answer],
    path: str,
    host: list[str],
    model: str,
    max_tokens: int,
) -> None:
    server.dim, server.vector_of = 64, vector
    server.usually(answers)
    address = f"http://127.0.0.1:{server.port}{path}"
    asked = remote("providers", "set", "acme", "--base-url", address, "--allow-private", *host)
    assert ("embedgate models discover acme" in asked.text) is (answers is not of_ollama)  # it has the catalogue's
    found = remote("models", "discover", "acme", "--add")
    assert found.code == 0, found.errors
    rows = {line.split()[1]: line.split() for line in found.text.splitlines() if line.startswith(("r", "m", "acme/"))}
    assert (rows[model][-1], "trying" in found.errors) == ("added", True)
    assert remote("prices", "set", model, "acme", "0.05").code == 0
    tried = json.loads(remote("providers", "test", "acme", "--model", model, "--json").text)
    assert (tried["ok"], tried["model"], tried["dim"], tried["tokens"] > 0) == (True, model, 64, True)
    assert tried["cost_usd"] == f"{tried['tokens'] * 5e-8:.8f}".rstrip("0")
    embedded = remote("embed", "--model", model, stdin=b"a text\n")
    assert (embedded.code, len(json.loads(embedded.text)["data"][0]["embedding"])) == (0, 64)
    shown = json.loads(remote("models", "show", model, "--json").text)
    assert (shown["max_input_tokens"], shown["sizes"]["default"]) == (max_tokens, 64)
    assert shown["is_matryoshka"] is (host == [])


def test_what_is_not_added_is_proposed_as_a_command_that_works(remote: Program, server: Upstream) -> None:
    server.dim, server.vector_of = 64, vector
    server.usually(of_openai)
    remote("providers", "set", "acme", "--base-url", server.base_url, "--allow-private")
    found = remote("models", "discover", "acme").text
    (line,) = [line.split() for line in found.splitlines() if line.startswith("  embedgate models add")]
    assert "talker: It makes no vectors: " in found
    assert remote(*line[1:]).text.splitlines()[0] == "acme/report-embed-v2 is on at acme"
    (served,) = [line for line in remote("models", "discover", "acme").text.splitlines() if "report-embed" in line]
    assert served.split()[-1] == "served"


def test_a_server_that_tells_nothing_of_lengths_is_tried_with_longer_and_longer_texts(
    program: Program, server: Upstream, folder: Path
) -> None:
    def mute(seen: Seen) -> Answer:
        if seen.path == "/v1/models":
            return Answer(body=b'[{"id": "plain"}]')
        return Answer()

    server.dim, server.vector_of = 64, vector
    server.usually(mute)
    program("providers", "set", "acme", "--base-url", server.base_url, "--allow-private")
    found = program("models", "discover", "acme")
    assert "The longest input is 512 tokens at least; a text of 2048 words is cut without a word." in found.text
    assert folder.exists()


def test_a_server_that_cannot_be_asked_says_so(program: Program, server: Upstream) -> None:
    assert program("models", "discover", "nowhere").code == 1
    assert "OPENAI_API_KEY" in program("models", "discover", "openai").errors
    program("providers", "set", "acme", "--base-url", server.base_url, "--allow-private")
    server.usually(Answer(body=b"<html>"))
    ended = program("models", "discover", "acme")
    assert (ended.code, "no JSON" in ended.errors) == (4, True)
    server.usually(error(404, "no such page"))
    assert program("models", "discover", "acme").code == 4
