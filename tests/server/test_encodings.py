"""Vectors in every encoding, in both dialects: the same vectors, rounded as it is documented."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from admin_calls import Api
from embedgate.core.vectors import Vectors
from embedgate.providers import fake

TEXTS = ["one", "two words", "日本語"]
DIM = 256
EXPECTED = np.stack([fake.vector(text, DIM) for text in TEXTS])

Expect = Callable[[Vectors], Any]
ENCODINGS: dict[str, Expect] = {
    "int8": lambda vectors: np.rint(vectors * 127).astype(int).tolist(),
    "uint8": lambda vectors: (np.rint(vectors * 127) + 128).astype(int).tolist(),
    "ubinary": lambda vectors: np.packbits(vectors > 0, axis=1).tolist(),
    "binary": lambda vectors: (np.packbits(vectors > 0, axis=1).astype(int) - 128).tolist(),
    "base64": lambda vectors: [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors],
}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": fake.MODEL_ID},
    "/api/embeddings": {"model": "deterministic", "provider": "fake"},
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("encoding_format", ENCODINGS)
async def test_every_encoding_is_made_of_the_same_vectors(user_api: Api, route: str, encoding_format: str) -> None:
    wish = {**ROUTES[route], "input": TEXTS, "encoding_format": encoding_format}
    common = await user_api("POST", route, wish)
    # A field that no common body has makes the gateway read it in another way.
    odd = await user_api("POST", route, {**wish, "dimensions": DIM, "extra": None})
    for answer in (common, odd):
        assert [item["embedding"] for item in answer["data"]] == ENCODINGS[encoding_format](EXPECTED)
        assert [item["index"] for item in answer["data"]] == [0, 1, 2]
        assert answer["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("route", ROUTES)
async def test_shortened_vectors_are_rounded_after_they_are_cut(user_api: Api, route: str) -> None:
    wish = {**ROUTES[route], "input": TEXTS, "dimensions": 16}
    cut = np.stack([fake.vector(text, 16) for text in TEXTS])
    for encoding_format in ("int8", "ubinary"):
        answer = await user_api("POST", route, {**wish, "encoding_format": encoding_format})
        assert [item["embedding"] for item in answer["data"]] == ENCODINGS[encoding_format](cut)


@pytest.mark.parametrize(("route", "code"), [("/v1/embeddings", "unsupported_option"), ("/api/embeddings", None)])
async def test_a_size_that_is_no_multiple_of_eight_is_refused_by_name(
    user_api: Api, route: str, code: str | None
) -> None:
    wish = {**ROUTES[route], "input": "x", "dimensions": 12, "encoding_format": "binary"}
    refusal = await user_api("POST", route, wish, 400)
    message = refusal["error"]["message"] if code else refusal["error"]
    assert "12, which is not a multiple of 8" in message
    assert (refusal["error"]["code"] if code else refusal["code"]) == (code or "INVALID_REQUEST")
    assert await user_api("POST", route, {**wish, "encoding_format": "int8"})


async def test_many_rounded_vectors_come_in_order_and_in_pieces(user_api: Api) -> None:
    texts = [f"text {i}" for i in range(1200)]
    answer = await user_api(
        "POST", "/v1/embeddings", {"model": fake.MODEL_ID, "input": texts, "encoding_format": "int8"}
    )
    expected = np.rint(np.stack([fake.vector(text, DIM) for text in texts]) * 127)
    assert np.array_equal([item["embedding"] for item in answer["data"]], expected)
