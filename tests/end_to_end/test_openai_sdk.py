"""The OpenAI Python SDK, unchanged but for base URL, key and model."""

import asyncio
import base64

import numpy as np
import openai
import pytest
from rs_bpe.bpe import openai as bpe

from running import RunningGateway

MODEL = "local/all-minilm-l6-v2"
TEXTS = ["The cat sat on the mat.", "Ein Satz, der länger ist als der erste.", "短い文", "🙂 emoji", " spaces  kept "]


def vectors(answer: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    assert {item.object for item in answer.data} == {"embedding"}
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


@pytest.fixture(scope="module")
def expected(served: RunningGateway) -> np.ndarray:
    """The vectors of TEXTS, each asked for alone."""
    with openai.OpenAI(api_key=served.key, base_url=f"{served.url}/v1") as client:
        rows = [vectors(client.embeddings.create(model=MODEL, input=text, encoding_format="float")) for text in TEXTS]
    return np.concatenate(rows)


def test_every_shape_of_input_gives_the_same_vectors(sdk: openai.OpenAI, expected: np.ndarray) -> None:
    tokenizer = bpe.cl100k_base()
    ids = [tokenizer.encode(text) for text in TEXTS]
    for found in (sdk.embeddings.create(model=MODEL, input=TEXTS), sdk.embeddings.create(model=MODEL, input=ids)):
        np.testing.assert_allclose(vectors(found), expected, atol=1e-5)
    for inputs, row in ((TEXTS[0], 0), (ids[1], 1)):
        np.testing.assert_allclose(
            vectors(sdk.embeddings.create(model=MODEL, input=inputs))[0], expected[row], atol=1e-5
        )


def test_float_base64_and_default_agree(sdk: openai.OpenAI, expected: np.ndarray) -> None:
    floats = vectors(sdk.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float"))
    default = vectors(sdk.embeddings.create(model=MODEL, input=TEXTS))
    raw = sdk.embeddings.create(model=MODEL, input=TEXTS, encoding_format="base64")
    packed = [np.frombuffer(base64.b64decode(str(item.embedding)), dtype="<f4") for item in raw.data]
    for found in (default, np.stack(packed)):
        np.testing.assert_allclose(found, floats, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(floats, axis=1), 1, atol=1e-5)


def test_rounded_vectors_arrive_as_whole_numbers(sdk: openai.OpenAI, expected: np.ndarray) -> None:
    answer = sdk.embeddings.create(model=MODEL, input=TEXTS, encoding_format="int8")  # type: ignore[arg-type]  # ours
    found = np.array([item.embedding for item in answer.data])
    assert np.array_equal(found, np.rint(found))
    np.testing.assert_allclose(found / 127, expected, atol=1 / 254 + 1e-5)


def test_the_asynchronous_client_gets_the_same(served: RunningGateway, expected: np.ndarray) -> None:
    async def ask() -> list[openai.types.CreateEmbeddingResponse]:
        async with openai.AsyncOpenAI(api_key=served.key, base_url=f"{served.url}/v1") as client:
            return await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in TEXTS))

    rows = [vectors(answer) for answer in asyncio.run(ask())]
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=1e-5)


def test_dimensions_cut_and_renormalise(sdk: openai.OpenAI) -> None:
    full = vectors(sdk.embeddings.create(model="local/wordllama-256", input=TEXTS))
    small = vectors(sdk.embeddings.create(model="local/wordllama-256", input=TEXTS, dimensions=64))
    reference = full[:, :64] / np.linalg.norm(full[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(small, reference, atol=1e-5)


def test_two_thousand_and_forty_eight_inputs_come_back_in_order(sdk: openai.OpenAI) -> None:
    words = ["alpha", "beta", "gamma", "delta", "epsilon zeta", "eta theta iota kappa lambda"]
    inputs = [f"{words[i % len(words)]} number {i}" for i in range(2048)]
    answer = sdk.embeddings.create(model=MODEL, input=inputs)
    found = vectors(answer)
    assert found.shape == (2048, 384)
    for position in (0, 1, 7, 500, 1023, 1024, 2046, 2047):
        alone = vectors(sdk.embeddings.create(model=MODEL, input=inputs[position]))[0]
        np.testing.assert_allclose(found[position], alone, atol=1e-5)
    assert answer.usage.prompt_tokens > 2048


def test_usage_counts_the_models_own_tokens(sdk: openai.OpenAI) -> None:
    answer = sdk.embeddings.create(model=MODEL, input="hello world")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (4, 4)  # [CLS] hello world [SEP]


TOO_LONG = "word " * 300


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"model": "nobody/nothing"}, openai.NotFoundError, "model_not_found"),
        ({"model": "gpt-4o"}, openai.BadRequestError, "model_not_embedding"),
        ({"input": ""}, openai.BadRequestError, "invalid_input"),
        ({"input": ["a", ""]}, openai.BadRequestError, "invalid_input"),
        ({"input": []}, openai.BadRequestError, "invalid_input"),
        ({"input": ["a"] * 2049}, openai.BadRequestError, "invalid_input"),
        ({"input": ["a", TOO_LONG]}, openai.BadRequestError, "context_length_exceeded"),
        ({"input": ["word " * 200] * 1600}, openai.BadRequestError, "max_tokens_per_request"),
        ({"dimensions": 0}, openai.BadRequestError, "invalid_dimensions"),
        ({"dimensions": 385}, openai.BadRequestError, "invalid_dimensions"),
        ({"dimensions": 100}, openai.BadRequestError, "invalid_dimensions"),
        ({"encoding_format": "hex"}, openai.BadRequestError, "unsupported_option"),
        ({"extra_body": {"late_chunking": True}}, openai.BadRequestError, "unsupported_option"),
        ({"input": [[1, 2], [-5]]}, openai.BadRequestError, "invalid_input"),
        ({"input": [[1, 2], [100_256]]}, openai.BadRequestError, "invalid_input"),
    ],
)
def test_mistakes_raise_the_class_that_the_sdk_promises(
    sdk: openai.OpenAI, changes: dict[str, object], kind: type[openai.APIStatusError], code: str
) -> None:
    arguments = {"model": MODEL, "input": "hello"} | changes
    with pytest.raises(kind) as caught:
        sdk.embeddings.create(**arguments)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.code == code
    assert caught.value.request_id


def test_a_wrong_key_raises_authentication_error(served: RunningGateway) -> None:
    for key in ("wrong", "eg_" + "0" * 32, served.key[:-1] + ("0" if served.key[-1] != "0" else "1")):
        with (
            openai.OpenAI(api_key=key, base_url=f"{served.url}/v1", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError) as caught,
        ):
            client.embeddings.create(model=MODEL, input="x")
        assert key not in str(caught.value)


def test_over_long_inputs_are_cut_only_on_request_and_named(sdk: openai.OpenAI) -> None:
    raw = sdk.embeddings.with_raw_response.create(
        model=MODEL, input=["short", TOO_LONG], extra_body={"truncate": "end"}
    )
    assert raw.headers["x-embedgate-truncated"] == "1"
    cut = vectors(raw.parse())[1]
    whole = vectors(sdk.embeddings.create(model=MODEL, input="word " * 254))[0]
    np.testing.assert_allclose(cut, whole, atol=1e-5)


def test_models_are_listed_and_found(sdk: openai.OpenAI) -> None:
    ids = [model.id for model in sdk.models.list()]
    assert MODEL in ids
    assert "openai/text-embedding-3-small" in ids
    assert "cohere/embed-v4.0" not in ids  # its provider is not switched on
    assert sdk.models.retrieve(MODEL).owned_by == "local"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nobody/nothing")
