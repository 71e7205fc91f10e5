"""The client against a real server on the loopback that is honest until told otherwise."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.client import Client, batches
from embedgate.core.errors import (
    ConfigError,
    GatewayError,
    GatewayRefused,
    InvalidInput,
    MalformedRequest,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamTimeout,
)
from embedgate.core.ports import Embedder
from embedgate.core.vectors import Vectors
from upstream import Answer, Twist, Upstream, error, running_upstream
from waiting import PATIENCE_S, wait_until

KEY = "eg_0123456789ab4def8123456789abcdef"
DIM = 8
AT_ONCE = {"retry-after": "0"}


@pytest.fixture
def server() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        upstream.dim = DIM
        yield upstream


@pytest.fixture
def client(server: Upstream) -> Iterator[Client]:
    with Client(KEY, url(server), timeout_s=PATIENCE_S) as client:
        yield client


def url(server: Upstream) -> str:
    return server.base_url.removesuffix("/v1")


def expected(texts: list[str]) -> Vectors:
    return np.stack([Upstream.vector(text, DIM) for text in texts])


def answer(body: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body).encode())


def test_request_names_model_and_options_and_asks_for_base64(server: Upstream, client: Client) -> None:
    embedder: Embedder = client
    vectors = embedder.embed(["a", "b"], "query")
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_array_equal(vectors, expected(["a", "b"]))
    client.embed(["c"], model="openai/text-embedding-3-small", dim=DIM, input_type="document", truncate="end")
    plain, rich = server.requests
    assert plain.path == "/v1/embeddings"
    assert plain.headers["authorization"] == f"Bearer {KEY}"
    assert plain.json == {
        "model": "local/all-minilm-l6-v2",
        "encoding_format": "base64",
        "input_type": "query",
        "input": ["a", "b"],
    }
    assert rich.json == {
        "model": "openai/text-embedding-3-small",
        "encoding_format": "base64",
        "dimensions": DIM,
        "input_type": "document",
        "truncate": "end",
        "input": ["c"],
    }


def test_rows_follow_the_index_of_the_answer_whatever_its_order(server: Upstream, client: Client) -> None:
    server.script(Answer(twist="shuffled"))
    np.testing.assert_array_equal(client.embed(["a", "b", "c"]), expected(["a", "b", "c"]))


def test_decimals_from_a_server_without_base64_are_taken(server: Upstream, client: Client) -> None:
    server.obeys_base64 = False
    np.testing.assert_array_equal(client.embed(["a", "b"]), expected(["a", "b"]))


def test_more_texts_than_a_request_takes_go_in_several_in_order(server: Upstream, client: Client) -> None:
    texts = [str(i) for i in range(5_000)]
    np.testing.assert_array_equal(client.embed(texts), expected(texts))
    assert [len(seen.json["input"]) for seen in server.requests] == [2_048, 2_048, 904]


def test_no_texts_need_no_request_and_a_bare_text_is_refused(server: Upstream, client: Client) -> None:
    assert client.embed([]).shape == (0, 0)
    assert client.embed([], dim=256).shape == (0, 256)
    with pytest.raises(InvalidInput, match="list of texts"):
        client.embed("hello")
    assert server.requests == []


@given(st.lists(st.text(max_size=40)), st.integers(1, 5), st.integers(1, 60))
def test_batches_keep_order_and_stay_within_both_limits(texts: list[str], max_inputs: int, max_tokens: int) -> None:
    cut = list(batches(texts, max_inputs=max_inputs, max_tokens=max_tokens))
    assert [text for batch in cut for text in batch] == texts
    for batch in cut:
        assert 1 <= len(batch) <= max_inputs
        most_tokens = sum(len(str(text).encode()) + 4 for text in batch)
        assert most_tokens <= max_tokens or len(batch) == 1


@pytest.mark.parametrize(
    "twist", ["no_index", "same_index", "one_missing", "one_extra", "short_vector", "nan", "null_vector", "nested"]
)
def test_a_wrong_answer_is_an_error_and_never_vectors(server: Upstream, client: Client, twist: Twist) -> None:
    server.script(Answer(twist=twist))
    with pytest.raises(UpstreamGarbled):
        client.embed(["a", "b"])


@pytest.mark.parametrize(
    "data",
    ["none", [{"index": 1, "embedding": [1.0]}], [{"index": 0, "embedding": "%%%%"}], [{"index": 0, "embedding": []}]],
)
def test_an_answer_without_usable_vectors_is_an_error(server: Upstream, client: Client, data: object) -> None:
    server.script(answer({"data": data}))
    with pytest.raises(UpstreamGarbled):
        client.embed(["a"])


def test_vectors_of_another_size_than_asked_for_are_an_error(server: Upstream, client: Client) -> None:
    server.script(answer({"data": [{"index": 0, "embedding": [1.0, 0.0]}]}))
    with pytest.raises(UpstreamGarbled, match="2 numbers; 256 were asked for"):
        client.embed(["a"], dim=256)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_failures_that_may_pass_are_tried_again_after_the_wait_asked_for(
    server: Upstream, client: Client, status: int
) -> None:
    server.script(*[Answer(status, b"", AT_ONCE)] * 2)
    np.testing.assert_array_equal(client.embed(["a"]), expected(["a"]))
    assert len(server.requests) == 3


def test_a_broken_connection_is_tried_again(server: Upstream, client: Client) -> None:
    server.script(Answer(ending="reset"), Answer(ending="half"))
    np.testing.assert_array_equal(client.embed(["a"]), expected(["a"]))
    assert len(server.requests) == 3


def test_attempts_are_bounded(server: Upstream) -> None:
    server.usually(Answer(503, b"", AT_ONCE))
    with Client(KEY, url(server), max_retries=1) as client, pytest.raises(GatewayRefused):
        client.embed(["a"])
    assert len(server.requests) == 2


def test_a_wait_longer_than_the_time_left_ends_the_call_at_once(server: Upstream, client: Client) -> None:
    server.script(Answer(429, b"", {"retry-after": "600"}))
    with pytest.raises(GatewayRefused) as caught:
        client.embed(["a"])
    assert caught.value.retry_after_s == 600
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        *(Answer(status, b"") for status in (400, 401, 402, 403, 404, 413, 501)),
        Answer(500, b"", {"x-should-retry": "false"}),
        Answer(307, b"", {"location": "/elsewhere"}),
    ],
    ids=lambda reply: str(reply.status),
)
def test_other_failures_are_not_tried_again(server: Upstream, client: Client, reply: Answer) -> None:
    server.script(reply)
    with pytest.raises(GatewayRefused) as caught:
        client.embed(["a"])
    assert caught.value.status == reply.status
    assert caught.value.code == f"http_{reply.status}"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": {"message": "no such model", "type": "error", "code": "model_not_found"}}, "model_not_found"),
        ({"error": "no such model", "code": "MODEL_NOT_SUPPORTED", "requestId": "req_1"}, "MODEL_NOT_SUPPORTED"),
    ],
    ids=["openai", "ziri"],
)
def test_a_refusal_has_the_facts_of_the_answer(
    server: Upstream, client: Client, body: dict[str, Any], code: str
) -> None:
    server.script(Answer(404, json.dumps(body).encode(), {"x-request-id": "req_1"}))
    with pytest.raises(GatewayError) as caught:
        client.embed(["a"])
    refusal = caught.value
    assert isinstance(refusal, GatewayRefused)
    assert (refusal.status, refusal.code, refusal.message, refusal.request_id) == (404, code, "no such model", "req_1")
    assert (GatewayError.status, GatewayError.code) == (500, "internal_error")


def test_a_refusal_of_a_later_request_says_where_it_began(server: Upstream, client: Client) -> None:
    server.script(Answer(), error(400, "input[1] is empty", code="invalid_input"))
    with pytest.raises(GatewayRefused, match="input.1. is empty") as caught:
        client.embed(["x"] * 2_050)
    assert caught.value.__notes__ == ["input[0] of this request is texts[2048]"]


def test_a_refusal_without_end_is_cut(server: Upstream, client: Client) -> None:
    server.script(Answer(400, b"x" * 1_000_000))
    with pytest.raises(GatewayRefused) as caught:
        client.embed(["a"])
    assert caught.value.message == "x" * 2_000


def test_the_key_is_in_no_repr_and_in_no_message(server: Upstream, client: Client) -> None:
    server.script(error(401, f"Incorrect key {KEY}", code="invalid_api_key"))
    with pytest.raises(GatewayRefused) as caught:
        client.embed(["a"])
    assert str(caught.value) == "Incorrect key [key] (401 invalid_api_key)"
    assert KEY not in repr(client)
    with pytest.raises(ConfigError) as refused:
        Client(KEY + "\nx-other: 1")
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("address", ["127.0.0.1:3100", "ftp://127.0.0.1", "http://user:secret@127.0.0.1", "http://"])
def test_an_address_that_cannot_be_used_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^base_url") as caught:
        Client(base_url=address)
    assert "secret" not in str(caught.value)


def test_an_address_may_end_in_the_version(server: Upstream) -> None:
    with Client(KEY, server.base_url + "/") as client:
        client.embed(["a"])
    assert server.requests[0].path == "/v1/embeddings"


def test_nobody_listening_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said = f"127.0.0.1:{port} cannot be reached: Connection refused"
    with (
        Client(base_url=f"http://127.0.0.1:{port}", max_retries=0) as client,
        pytest.raises(UpstreamFailed, match=said),
    ):
        client.embed(["a"])


@pytest.fixture
def hung(server: Upstream) -> Iterator[Upstream]:
    """The server, whose answers never come."""
    gate = threading.Event()
    server.usually(Answer(gate=gate))
    yield server
    gate.set()


def test_a_server_that_does_not_answer_is_given_up_in_time(hung: Upstream) -> None:
    started_s = time.monotonic()
    with Client(KEY, url(hung), timeout_s=0.2) as client, pytest.raises(UpstreamTimeout, match=r"within 0\.2 s"):
        client.embed(["a"])
    assert time.monotonic() - started_s < PATIENCE_S


def test_an_interrupt_ends_the_wait_for_an_answer(hung: Upstream) -> None:
    program = f"import embedgate; embedgate.Client(base_url={url(hung)!r}).embed(['a'])"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        wait_until("it waits for the answer", lambda: bool(hung.requests) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert b"KeyboardInterrupt" in errors


def test_a_text_that_is_not_unicode_is_refused_without_repeating_it(client: Client) -> None:
    with pytest.raises(MalformedRequest) as caught:
        client.embed(["private \ud800"])
    assert "private" not in str(caught.value)


def test_embeddings_is_the_call_of_the_older_api(server: Upstream, client: Client) -> None:
    body = {"data": [], "_meta": {"requestId": "req_1", "cost": {"totalCost": 2e-8}}}
    server.script(answer(body))
    got = client.embeddings(provider="openai", model="text-embedding-3-small", input="hello", dimensions=8, user="me")
    assert got == body
    (seen,) = server.requests
    assert seen.path == "/api/embeddings"
    assert seen.headers["x-api-key"] == KEY
    assert "authorization" not in seen.headers
    assert seen.json == {
        "provider": "openai",
        "model": "text-embedding-3-small",
        "input": "hello",
        "dimensions": 8,
        "user": "me",
    }


def test_chat_completions_raises_what_the_gateway_says(server: Upstream, client: Client) -> None:
    server.script(answer({"error": "no such model", "code": "MODEL_NOT_SUPPORTED", "requestId": "req_1"}, 400))
    with pytest.raises(GatewayRefused, match="no such model"):
        client.chat_completions(provider="openai", model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    assert server.requests[0].path == "/api/chat/completions"


def test_threads_may_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: client.embed([str(n)]), range(100)))
    np.testing.assert_array_equal(np.concatenate(found), expected([str(n) for n in range(100)]))


def test_importing_the_package_loads_no_http_code() -> None:
    program = (
        "import sys, embedgate; assert not {'pyreqwest', 'numpy'} & set(sys.modules); "
        "assert embedgate.Client.__module__ == 'embedgate.client'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
