"""A model behind an OpenAI-compatible host: the answer equals the direct one bit for bit, and the books are right.

Tests that look at calls of the provider keep out of the cache, which they all share.
"""

import base64
import sqlite3
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from running import UPSTREAM_KEY, RunningGateway
from upstream import Answer, Upstream, error

MODEL = "openai/text-embedding-3-small"
TEXTS = ["one", "two words", "three words here", "日本語"]
UNCACHED = {"cache": "no-store"}


@pytest.fixture(autouse=True)
def fresh_upstream(openai_host: Upstream) -> Iterator[None]:
    openai_host.reset()
    openai_host.dim = 1536
    yield
    openai_host.reset()


@pytest.mark.parametrize("obeys_base64", [True, False], ids=["base64 upstream", "floats upstream"])
@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize("dim", [1536, 256])
def test_vectors_equal_the_direct_answer_bit_for_bit(
    sdk: openai.OpenAI, openai_host: Upstream, obeys_base64: bool, encoding_format: str, dim: int
) -> None:
    openai_host.obeys_base64 = obeys_base64
    with openai.OpenAI(api_key="direct", base_url=openai_host.base_url) as direct:
        plain = direct.embeddings.create(model="text-embedding-3-small", input=TEXTS, dimensions=dim)
    answer = sdk.embeddings.create(
        model=MODEL,
        input=TEXTS,
        dimensions=dim,
        encoding_format=encoding_format,  # type: ignore[arg-type]  # one of the two words
        extra_body=UNCACHED,
    )
    for ours, theirs in zip(answer.data, plain.data, strict=True):
        numbers = ours.embedding
        if encoding_format == "base64":
            raw = base64.b64decode(str(numbers))
        else:
            raw = np.array(numbers, dtype="<f4").tobytes()
        assert raw == np.array(theirs.embedding, dtype="<f4").tobytes()
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == plain.usage.prompt_tokens


def test_kept_vectors_equal_the_direct_answer_and_are_cut_from_it(sdk: openai.OpenAI, openai_host: Upstream) -> None:
    texts = [f"kept: {text}" for text in TEXTS]
    for _ in range(2):
        whole = sdk.embeddings.create(model=MODEL, input=texts, dimensions=1536)
        short = sdk.embeddings.create(model=MODEL, input=texts, dimensions=256)
        for text, ours, cut in zip(texts, whole.data, short.data, strict=True):
            np.testing.assert_array_equal(np.array(ours.embedding, np.float32), openai_host.vector(text, 1536))
            np.testing.assert_allclose(cut.embedding, openai_host.vector(text, 256), atol=1e-6)
    assert len(openai_host.requests) == 1


def test_usage_and_cost_are_exact_in_the_ledger(
    sdk: openai.OpenAI, served: RunningGateway, openai_host: Upstream
) -> None:
    raw = sdk.embeddings.with_raw_response.create(model=MODEL, input=TEXTS, user="customer 7", extra_body=UNCACHED)
    tokens = raw.parse().usage.prompt_tokens
    with sqlite3.connect(served.data_dir / "embedgate.db") as database:
        database.row_factory = sqlite3.Row
        request_id = raw.headers["x-request-id"]
        (row,) = database.execute("SELECT * FROM ledger WHERE request_id = ?", (request_id,)).fetchall()
    assert row["tokens"] == tokens
    assert row["cost_picodollars"] == tokens * 20_000
    assert (row["items"], row["provider"], row["model"], row["outcome"]) == (4, "openai", MODEL, "ok")
    assert row["end_user"] == "customer 7"
    assert raw.headers["x-embedgate-cost-usd"].rstrip("0") == f"{tokens * 20_000 / 1e12:.12f}".rstrip("0")


def test_token_ids_reach_openai_as_they_are(sdk: openai.OpenAI, openai_host: Upstream) -> None:
    sdk.embeddings.create(model=MODEL, input=[[1, 2, 3], [4]], extra_body=UNCACHED)
    assert openai_host.requests[-1].json["input"] == [[1, 2, 3], [4]]


def test_bare_names_and_pinned_providers_work(sdk: openai.OpenAI) -> None:
    for name in ("text-embedding-3-small", f"{MODEL}:openai"):
        assert sdk.embeddings.create(model=name, input="x").model == MODEL


def test_no_null_and_no_key_of_a_caller_goes_upstream(
    sdk: openai.OpenAI, served: RunningGateway, openai_host: Upstream
) -> None:
    sdk.embeddings.create(model=MODEL, input="x", extra_body={"dimensions": None, "user": None, **UNCACHED})
    seen = openai_host.requests[-1]
    assert None not in seen.json.values()
    assert set(seen.json) == {"model", "input", "encoding_format"}
    assert seen.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert served.key not in str(seen.headers) + seen.body.decode()


def test_the_upstreams_key_and_the_inputs_are_in_no_log_and_no_error(
    sdk: openai.OpenAI, served: RunningGateway, openai_host: Upstream
) -> None:
    secret_text = "a very private sentence"
    openai_host.usually(error(400, f"Incorrect API key provided: {UPSTREAM_KEY} for '{secret_text}'"))
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.embeddings.create(model=MODEL, input=secret_text)
    openai_host.usually(Answer(status=500, body=f"<html>{UPSTREAM_KEY}</html>".encode()))
    with pytest.raises(openai.InternalServerError):
        sdk.embeddings.create(model=MODEL, input=secret_text)
    assert UPSTREAM_KEY not in str(caught.value)
    log = served.log.read_text()
    assert "upstream_fault" in log
    for secret in (UPSTREAM_KEY, served.key, served.admin_key, secret_text):
        assert secret not in log


def test_more_inputs_than_the_host_takes_are_split_in_order(sdk: openai.OpenAI, openai_host: Upstream) -> None:
    inputs = [f"text {i} " + "padding " * 150 for i in range(2040)]  # above 300,000 bytes, below as many tokens
    answer = sdk.embeddings.create(model=MODEL, input=inputs[:1900])
    found = np.array([item.embedding for item in answer.data], dtype=np.float32)
    for position in (0, 1, 999, 1899):
        np.testing.assert_array_equal(found[position], openai_host.vector(inputs[position], 1536))
