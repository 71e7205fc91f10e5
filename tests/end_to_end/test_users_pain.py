"""What hurts users of embeddings gateways elsewhere, tried on this one over real sockets.

Each test names a behaviour. Those that a stage alone can show are tested with that stage.
"""

import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from running import RunningGateway, gateway
from upstream import Answer, Twist, Upstream, error
from wire import Reply, call

MODEL = "openai/text-embedding-3-small"
DIM = 1536
LOCAL = "local/all-minilm-l6-v2"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: Upstream) -> Iterator[RunningGateway]:
    config = f"""
        [providers.openai]
        base_url = "{far_side.base_url}"
    """
    with gateway(tmp_path_factory.mktemp("pain"), config, {"OPENAI_API_KEY": "sk-upstream"}) as started:
        yield started


@pytest.fixture
def host(far_side: Upstream) -> Upstream:
    far_side.reset()
    return far_side


def new_texts(n: int) -> list[str]:
    """Texts that nothing has kept."""
    return [f"text {next(_numbers)}" for _ in range(n)]


def ask(running: RunningGateway, texts: Any, model: str = MODEL, **fields: Any) -> Reply:
    body = {"model": model, "input": texts, **fields}
    return call(running.url, "/v1/embeddings", body, {"authorization": f"Bearer {running.key}"})


def assert_right(reply: Reply, texts: list[str], dim: int = DIM) -> None:
    """Every text has its own vector, in its own place."""
    assert reply.status == 200, reply.body
    data = reply.json["data"]
    assert [item["index"] for item in data] == list(range(len(texts)))
    found = np.array([item["embedding"] for item in data], np.float32)
    np.testing.assert_allclose(found, [Upstream.vector(text, dim) for text in texts], atol=1e-6)


@pytest.mark.parametrize("obeys_base64", [True, False], ids=["base64", "floats"])
@pytest.mark.parametrize("twist", ["shuffled", "no_index", "no_usage", "only_total", "escaped_base64"])
def test_odd_answers_are_understood_and_kept_by_text(
    running: RunningGateway, host: Upstream, twist: Twist, obeys_base64: bool
) -> None:
    """Items out of order or without usage: each text gets its own vector, at once and from the cache."""
    host.obeys_base64 = obeys_base64
    texts = new_texts(4)
    host.script(Answer(twist=twist))
    reply = ask(running, texts)
    assert_right(reply, texts)
    assert reply.json["usage"]["total_tokens"] > 0
    backwards = [texts[2], *new_texts(1), texts[0], texts[3]]
    assert_right(ask(running, backwards), backwards)


WRONG: tuple[Twist, ...] = (
    "one_missing",
    "one_extra",
    "same_index",
    "short_vector",
    "zeros",
    "nan",
    "nested",
    "null_vector",
    "texts",
    "booleans",
    "truncated_json",
)


@pytest.mark.parametrize("twist", WRONG)
def test_wrong_answers_reach_nobody_and_are_not_kept(running: RunningGateway, host: Upstream, twist: Twist) -> None:
    """Vectors fused, missing, empty, all zero, not finite or malformed: an error, then the truth, then the cache."""
    texts = new_texts(3)
    host.usually(Answer(twist=twist))
    reply = ask(running, texts)
    assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_error")
    assert "data" not in reply.json
    host.usually(Answer())
    assert_right(ask(running, texts), texts)
    n_calls = len(host.requests)
    assert_right(ask(running, texts), texts)
    assert len(host.requests) == n_calls


def one_vector(dim: int) -> Answer:
    """One vector, however many inputs and of whatever size were asked for."""
    item = {"object": "embedding", "index": 0, "embedding": Upstream.vector("any", dim).tolist()}
    return Answer(body=json.dumps({"object": "list", "data": [item], "usage": {"prompt_tokens": 99}}).encode())


def test_one_vector_for_many_inputs_is_no_answer(running: RunningGateway, host: Upstream) -> None:
    """A host that fuses a list into one vector: refused, whatever it bills."""
    host.usually(one_vector(DIM))
    reply = ask(running, new_texts(99))
    assert reply.status == 502
    assert "1 vectors for 99 inputs" in reply.json["error"]["message"]


def test_vectors_of_another_size_than_asked_for_are_no_answer(running: RunningGateway, host: Upstream) -> None:
    """A host that ignores the size it was asked for: refused, not passed on."""
    host.usually(one_vector(768))
    reply = ask(running, new_texts(1), dimensions=256, cache="no-store")
    assert reply.status == 502
    assert "vectors of 768 came back, expected 256" in reply.json["error"]["message"]


def test_a_text_has_one_vector_for_ever(running: RunningGateway, host: Upstream) -> None:
    """Hosts answer the same text a little differently each time: what was answered once is answered again."""
    texts = new_texts(1)
    first = ask(running, texts).json["data"]
    host.usually(error(500, "must not be called"))
    assert ask(running, texts).json["data"] == first
    assert ask(running, texts[0]).json["data"] == first


def test_a_text_alone_and_among_others_has_the_same_vector(running: RunningGateway) -> None:
    """A batch differs from single calls: not with the model of the gateway itself, and not by way of its cache."""
    texts = ["short", "a longer text that needs more padding than the other ones do " * 3, "日本語"]
    together = ask(running, texts, LOCAL, cache="no-store").json["data"]
    alone = [ask(running, text, LOCAL, cache="no-store").json["data"][0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one["embedding"], other["embedding"], atol=1e-5)


@pytest.mark.parametrize("field", ["encoding_format", "dimensions", "input_type", "truncate", "user", "cache"])
def test_a_null_is_neither_refused_nor_passed_on(running: RunningGateway, host: Upstream, field: str) -> None:
    """A field that is null counts as absent on either side of the gateway."""
    texts = new_texts(1)
    nothing: dict[str, Any] = {field: None}
    assert_right(ask(running, texts, **nothing), texts)
    sent = host.requests[-1].json
    assert None not in sent.values()
    assert set(sent) == {"model", "input", "encoding_format"}


def test_base64_is_what_was_asked_for_when_the_host_sends_floats(running: RunningGateway, host: Upstream) -> None:
    """SDKs ask for base64 unless told otherwise: they get four bytes for each number, whatever the host sends."""
    host.obeys_base64 = False
    texts = new_texts(2)
    for dim in (DIM, 256):
        data = ask(running, texts, encoding_format="base64", dimensions=dim).json["data"]
        for text, item in zip(texts, data, strict=True):
            raw = base64.b64decode(item["embedding"], validate=True)
            assert len(raw) == 4 * dim
            np.testing.assert_allclose(np.frombuffer(raw, "<f4"), Upstream.vector(text, dim), atol=1e-6)


@pytest.mark.parametrize("order", [(64, 256), (256, 64)], ids=str)
def test_sizes_of_one_text_are_not_mixed_up(running: RunningGateway, order: tuple[int, int]) -> None:
    """The same text in two sizes: each answer has the size it was asked for, at unit length, cached or not."""
    texts = new_texts(2)
    for dim in (*order, *order):
        data = ask(running, texts, "local/wordllama-256", dimensions=dim).json["data"]
        found = np.array([item["embedding"] for item in data])
        assert found.shape == (2, dim)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_model_that_cannot_be_shortened_says_so(running: RunningGateway) -> None:
    """Sizes that a model was not trained for are refused by name, not cut and not ignored."""
    reply = ask(running, new_texts(1), LOCAL, dimensions=100)
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_dimensions")
    assert "384" in reply.json["error"]["message"]


def test_a_list_is_split_no_more_than_needed(running: RunningGateway, host: Upstream) -> None:
    """2,048 short inputs are one call where the host takes 2,048."""
    texts = new_texts(2048)
    assert_right(ask(running, texts), texts)
    assert [len(request.json["input"]) for request in host.requests] == [2048]


@pytest.mark.parametrize("status", [400, 413])
def test_a_call_that_is_too_large_is_halved(running: RunningGateway, host: Upstream, status: int) -> None:
    """A host takes less than it says: the halves are asked for, and never the same size again."""
    texts = new_texts(8)
    host.script(error(status, "Too many inputs in this request, maximum allowed batch size is 4"))
    assert_right(ask(running, texts), texts)
    assert [len(request.json["input"]) for request in host.requests] == [8, 4, 4]


def test_one_text_that_is_too_long_is_named_by_its_place(running: RunningGateway, host: Upstream) -> None:
    """One long text among many: the error says which one, and no call was made."""
    reply = ask(running, [*new_texts(2), "word " * 9000])
    assert reply.status == 400
    assert reply.json["error"]["message"].startswith("input[2] ")
    assert host.requests == []


def test_texts_that_were_cut_are_named_also_from_the_cache(running: RunningGateway) -> None:
    """Nothing is cut unasked, and what is cut is said, each time it is answered."""
    texts = ["a short one", "much too long " * 200]
    assert ask(running, texts, LOCAL).status == 400
    for _ in range(2):
        reply = ask(running, texts, LOCAL, truncate="end")
        assert (reply.status, reply.headers["x-embedgate-truncated"]) == (200, "1")
    assert ask(running, texts, LOCAL).status == 400


def test_headers_stay_short_however_many_texts_were_cut(running: RunningGateway) -> None:
    """nginx refuses answers with more than 4 KB of headers: which texts were cut is told as ranges, and as a number."""
    cut, whole = "much too long " * 200, "short"
    for texts, told in (([cut] * 300, "0-299"), ([cut, whole] * 300, None)):
        reply = ask(running, texts, LOCAL, truncate="end")
        assert reply.status == 200
        assert sum(len(name) + len(value) + len(": \r\n") for name, value in reply.headers.items()) < 2_000
        assert reply.headers["x-embedgate-truncated"] == told or told is None


PASSING = [
    error(429, "slow down", headers={"retry-after": "0"}),
    error(503, "overloaded"),
    Answer(ending="drop"),
    Answer(ending="reset"),
]


@pytest.mark.parametrize("fault", PASSING, ids=["429", "503", "dropped", "reset"])
def test_a_fault_that_passes_costs_one_call_more_and_not_one_for_each_text(
    running: RunningGateway, host: Upstream, fault: Answer
) -> None:
    """A rate limit or a stale connection in the middle of an ingest: the batch is repeated whole, and served."""
    texts = new_texts(50)
    host.script(fault)
    assert_right(ask(running, texts), texts)
    assert [len(request.json["input"]) for request in host.requests] == [50, 50]


def test_connections_are_used_again(running: RunningGateway, host: Upstream) -> None:
    """One caller after the other needs one connection, also after errors."""
    ask(running, new_texts(1))
    opened = host.connections
    for _ in range(20):
        host.script(error(400, "no"))
        assert ask(running, new_texts(1)).status == 400
        assert ask(running, new_texts(1)).status == 200
    assert host.connections == opened
