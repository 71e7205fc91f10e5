"""The ready-made embedders: each keeps what `Embedder` promises."""

from collections.abc import Iterator

import numpy as np
import openai
import pytest

import embedgate
from embedgate.core import deterministic
from embedgate.core.errors import GatewayRefused, InputTooLong, InvalidInput, UnknownModel
from embedgate.core.ports import CallLimits, Embedder
from upstream import Answer, Upstream, error, running_upstream

TEXTS = [f"text number {number}" for number in range(50)]
DIM = 8
SMALL = CallLimits(max_inputs=8, parallel=4)


@pytest.fixture
def server() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        upstream.dim = DIM
        yield upstream


@pytest.fixture
def client(server: Upstream) -> Iterator[embedgate.Client]:
    with embedgate.Client("key", server.base_url, model="author/name", max_retries=0) as client:
        yield client


def expected(texts: list[str], dim: int = DIM) -> np.ndarray:
    return np.stack([deterministic.vector(text, dim) for text in texts])


def test_requests_of_a_client_run_at_once_and_keep_their_order(server: Upstream, client: embedgate.Client) -> None:
    seen: list[tuple[int, int]] = []
    embedder = embedgate.ClientEmbedder(client, limits=SMALL, on_progress=lambda done, n: seen.append((done, n)))
    vectors = embedder.embed(TEXTS, "query")
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(TEXTS), atol=1e-6)
    assert len(server.requests) == 7
    assert {request.json["input_type"] for request in server.requests} == {"query"}
    assert seen[-1] == (50, 50)
    assert embedder.embed([]).shape == (0, 0)


def test_a_gateway_names_the_space_and_the_size_of_a_model(server: Upstream, client: embedgate.Client) -> None:
    body = b'{"id": "author/name", "object": "model", "space": "weights/of-it", "dimensions": 384}'
    server.script(Answer(body=body))
    embedder: Embedder = embedgate.ClientEmbedder(client)
    assert (embedder.model, embedder.space, embedder.dim) == ("author/name", "weights/of-it", 384)
    assert [(request.method, request.path) for request in server.requests] == [("GET", "/v1/models/author/name")]
    assert embedgate.ClientEmbedder(client, dim=64).dim == 64


def test_a_server_that_does_not_describe_models_gives_the_id_and_a_measured_size(
    server: Upstream, client: embedgate.Client
) -> None:
    server.script(error(404, "no such route"))
    assert (client.model, client.space, client.dim) == ("author/name", "author/name", DIM)


def test_a_refused_key_is_no_missing_description(server: Upstream, client: embedgate.Client) -> None:
    server.script(error(401, "no such key", code="invalid_api_key"))
    with pytest.raises(GatewayRefused):
        _ = client.space


def test_an_sdk_of_openais_shape_is_an_embedder(server: Upstream) -> None:
    sdk = openai.OpenAI(api_key="key", base_url=server.base_url, max_retries=0)
    embedder = embedgate.OpenAIEmbedder(sdk, "name", space="family/name", prefixes={"query": "query: "}, limits=SMALL)
    np.testing.assert_allclose(embedder.embed(TEXTS), expected(TEXTS), atol=1e-6)
    asked = [f"query: {text}" for text in TEXTS]
    np.testing.assert_allclose(embedder.embed(TEXTS, "query"), expected(asked), atol=1e-6)
    assert (embedder.model, embedder.space, embedder.dim) == ("name", "family/name", DIM)
    assert embedgate.OpenAIEmbedder(sdk, "name", dim=4).embed(["a"]).shape == (1, 4)
    sdk.close()


def test_the_fake_is_the_same_everywhere() -> None:
    fake: Embedder = embedgate.FakeEmbedder(16)
    np.testing.assert_array_equal(fake.embed(TEXTS), expected(TEXTS, 16))
    assert (fake.model, fake.space, fake.dim) == ("fake/deterministic", "fake/deterministic", 16)
    with pytest.raises(InvalidInput, match=r"input\[1\] is empty"):
        fake.embed(["a", ""])


@pytest.fixture(scope="module")
def local() -> embedgate.LocalEmbedder:
    return embedgate.LocalEmbedder(threads=1)


def test_the_embedded_model_runs_without_a_gateway(local: embedgate.LocalEmbedder) -> None:
    texts = ["A cat sat on the mat.", "The kitten lay on the rug.", "Interest rates rose again."]
    cat, kitten, rates = local.embed(texts, "document")
    assert cat @ kitten > 0.5 > cat @ rates
    assert (local.model, local.dim) == ("local/all-minilm-l6-v2", 384)
    assert local.space == "sentence-transformers/all-MiniLM-L6-v2"
    np.testing.assert_allclose(np.linalg.norm(local.embed(texts), axis=1), 1, atol=1e-5)


def test_a_text_that_is_too_long_is_named_unless_it_is_cut(local: embedgate.LocalEmbedder) -> None:
    long = "word " * 300
    with pytest.raises(InputTooLong, match=r"input\[1\] has 302 tokens"):
        local.embed(["short", long])
    cut = embedgate.LocalEmbedder(threads=1, truncate="end").embed([long, "word " * 254])
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-5)


def test_an_unknown_local_model_is_refused_at_once() -> None:
    with pytest.raises(UnknownModel, match="all-minilm-l6-v2"):
        embedgate.LocalEmbedder("local/none")
