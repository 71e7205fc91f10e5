"""The OpenAI format: what is sent to which host, and which answers are right answers."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embedgate.core.errors import UpstreamGarbled
from embedgate.core.models import DimRange, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.core.vectors import to_base64, to_json
from embedgate.providers import hosts, openai
from embedgate.providers.hosts import Host
from embedgate.settings import TransportSettings
from embedgate.transport import Endpoint, HttpDriver, HttpReply
from upstream import Answer, Twist, Upstream
from waiting import PATIENCE_S

DIM = 256
PLAIN = Route("acme", "m-1", DimRange(DIM, 8, DIM), 8192, "unknown")
TEXTS = ("first", "second", "\u7b2c\u4e09")


@pytest.fixture
async def driver(upstream: Upstream) -> AsyncIterator[HttpDriver]:
    driver = HttpDriver(openai.provider(), Endpoint("acme", upstream.base_url), TransportSettings())
    yield driver
    await driver.aclose()


async def embed(driver: HttpDriver, route: Route) -> ProviderReply:
    return await driver.embed(Batch(TEXTS, expected_dim=DIM), route, time.monotonic() + PATIENCE_S)


def body(batch: Batch, route: Route) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(openai.build(batch, route).body)
    return content


def test_a_plain_call_says_model_and_inputs_and_nothing_else() -> None:
    batch = Batch(TEXTS, expected_dim=DIM, user="u-1", input_type="query", truncate="end", options={"x": b"1"})
    assert body(batch, PLAIN) == {"model": "m-1", "input": list(TEXTS)}
    assert "authorization" not in openai.build(batch, PLAIN).headers


def test_a_field_is_sent_where_it_was_asked_for_and_is_taken() -> None:
    route = replace(
        PLAIN,
        accepts_base64=True,
        accepts_dim=True,
        dim_field="output_dimension",
        accepts_user=True,
        accepts_unknown_options=True,
        input_type_field="input_type",
        input_types=("query", "passage"),
        query_input_type="query",
        document_input_type="passage",
        required_params=(("normalize", True), ("parameters.task", "embed")),
    )
    options = {"provider": b'{"only": ["x"]}', "model": b'"another"', "encoding_format": b'"float"'}
    batch = Batch(((1, 2, 3), "text"), 64, dim=64, user="u-1", input_type="document", options=options)
    assert body(batch, route) == {
        "provider": {"only": ["x"]},
        "model": "m-1",
        "input": [[1, 2, 3], "text"],
        "encoding_format": "base64",
        "output_dimension": 64,
        "user": "u-1",
        "input_type": "passage",
        "normalize": True,
        "parameters": {"task": "embed"},
    }


def test_hosts_differ_as_their_rows_say() -> None:
    table = hosts.load()
    cl100k = replace(PLAIN, tokenizer="tiktoken:cl100k_base", accepts_dim=True, accepts_token_ids=True)
    assert body(Batch(TEXTS, DIM), table["fireworks"].adapt(PLAIN))["normalize"] is True
    assert body(Batch(TEXTS, 64, dim=64), table["mistral"].adapt(cl100k))["output_dimension"] == 64
    assert table["openrouter"].adapt(cl100k).accepts_token_ids
    assert not table["openrouter"].adapt(replace(PLAIN, accepts_token_ids=True)).accepts_token_ids
    assert not table["vllm"].adapt(cl100k).accepts_token_ids
    assert not table["together"].adapt(cl100k).accepts_dim
    assert table["scaleway"].adapt(PLAIN).limits.max_inputs == 32
    nvidia = replace(PLAIN, input_type_field="input_type", query_input_type="query", document_input_type="passage")
    typed = table["nvidia"].adapt(nvidia)
    assert body(Batch(TEXTS, DIM), typed)["input_type"] == "passage"
    assert body(Batch(TEXTS, DIM, input_type="query"), typed)["input_type"] == "query"


def test_every_host_can_be_reached_as_written() -> None:
    for name, host in hosts.load().items():
        assert host.note
        assert host.key_variables or name == hosts.GENERIC
        if host.base_url is not None:
            endpoint = Endpoint(name, host.base_url, "k-1", host.key_header, host.key_prefix)
            assert endpoint.may_use_proxy == host.key_required, "servers of your own are on this machine by default"


@pytest.mark.parametrize("is_asked", [True, False])
@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("twist", [None, "shuffled", "no_index", "no_usage", "only_total", "escaped_base64"])
async def test_right_answers_are_read_whatever_their_form(
    driver: HttpDriver, upstream: Upstream, is_asked: bool, obeys: bool, twist: Twist | None
) -> None:
    upstream.obeys_base64 = obeys
    upstream.usually(Answer(twist=twist))
    reply = await embed(driver, replace(PLAIN, accepts_base64=is_asked))
    assert reply.vectors.dtype == np.float32
    assert reply.vectors.flags.c_contiguous
    assert np.array_equal(reply.vectors, np.stack([upstream.vector(text, DIM) for text in TEXTS]))
    assert reply.model == "m-1"
    assert reply.tokens == (None if twist == "no_usage" else 6)


@pytest.mark.parametrize("is_asked", [True, False])
@pytest.mark.parametrize(
    "twist",
    [
        *("same_index", "one_missing", "one_extra", "short_vector", "nested"),
        *("null_vector", "texts", "booleans", "truncated_json"),
    ],
)
async def test_wrong_answers_are_garbled(driver: HttpDriver, upstream: Upstream, is_asked: bool, twist: Twist) -> None:
    upstream.usually(Answer(twist=twist))
    with pytest.raises(UpstreamGarbled) as caught:
        await embed(driver, replace(PLAIN, accepts_base64=is_asked))
    assert "first" not in caught.value.message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html></html>",
        b"[]",
        b"{}",
        b'{"data": null}',
        b'{"error": {"message": "boom"}}',
        b'{"data": [{"embedding": []}]}',
        b'{"data": [{"embedding": ""}]}',
        b'{"data": [{"embedding": "AAA"}]}',
        b'{"data": [{"embedding": "AAAA"}]}',
        b'{"data": [{"embedding": "!!!!!!!!"}]}',
        b'{"data": [{"embedding": 0.5}]}',
        b'{"data": [{"embedding": {"float": [1.0]}}]}',
        b'{"data": [{"embedding": [1.0, NaN]}]}',
        b'{"data": [{"embedding": [1.0, 2.0, null]}]}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": 1, "embedding": [1.0]}]}',
        b'{"data": [{"index": -1, "embedding": [1.0]}]}',
        b'{"data": [{"index": "0", "embedding": [1.0]}]}',
    ],
)
def test_what_is_not_an_answer_is_garbled(content: bytes) -> None:
    with pytest.raises(UpstreamGarbled):
        openai.parse(HttpReply("acme", 200, {}, content), Batch(("x",), 1), PLAIN)


def test_items_with_and_without_an_index_are_garbled() -> None:
    content = b'{"data": [{"index": 0, "embedding": [1.0]}, {"embedding": [2.0]}]}'
    with pytest.raises(UpstreamGarbled, match="index"):
        openai.parse(HttpReply("acme", 200, {}, content), Batch(("x", "y"), 1), PLAIN)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ("{}", None),
        ("null", None),
        ('{"prompt_tokens": 0, "total_tokens": 9}', 0),
        ('{"prompt_tokens": null, "total_tokens": 9}', 9),
        ('{"prompt_tokens": -1}', None),
        ('{"prompt_tokens": 9223372036854775808}', None),
        ('{"prompt_tokens": 5, "cost": 1e-9, "prompt_tokens_details": {}}', 5),
    ],
)
def test_usage_is_read_where_there_is_one(usage: str, tokens: int | None) -> None:
    content = f'{{"data": [{{"embedding": [1.0]}}], "usage": {usage}}}'.encode()
    reply = HttpReply("acme", 200, {}, content)
    assert openai.parse(reply, Batch(("x",), 1), PLAIN).tokens == tokens
    assert openai.provider(Host(note="", sends_usage=False)).parse(reply, Batch(("x",), 1), PLAIN).tokens is None


def test_floats_are_rounded_as_numpy_rounds_them() -> None:
    rng = np.random.default_rng(7)
    exact = rng.standard_normal(4096) * 10.0 ** rng.integers(-40, 30, 4096)
    vector = exact.astype(np.float32)
    decimals = json.dumps(exact.tolist()).encode()
    as_base64 = b'"' + to_base64(vector) + b'"'
    for written in (decimals, to_json(vector), as_base64, b" " + decimals.replace(b", ", b" ,\n") + b" "):
        content = b'{"data": [{"embedding": %b}]}' % written
        reply = openai.parse(HttpReply("acme", 200, {}, content), Batch(("x",), 4096), PLAIN)
        assert np.array_equal(reply.vectors[0], vector)
