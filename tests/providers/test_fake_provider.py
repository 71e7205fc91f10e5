"""The provider without a model: same text, same vector, everywhere."""

import asyncio
import time

import numpy as np
import pytest

from embedgate.core.errors import InputTooLong, UpstreamTimeout
from embedgate.core.types import Batch, Input
from embedgate.core.vectors import norms, shorten
from embedgate.providers import fake
from waiting import PATIENCE_S

(MODEL,) = fake.models()
(ROUTE,) = MODEL.routes


def soon() -> float:
    return time.monotonic() + PATIENCE_S


async def test_vectors_depend_on_the_text_alone_and_keep_its_place() -> None:
    texts: tuple[Input, ...] = ("a", "b", "a", "", (97,))
    reply = await fake.FakeProvider().embed(Batch(texts, 256), ROUTE, soon())
    again = await fake.FakeProvider().embed(Batch(texts[::-1], 256), ROUTE, soon())
    assert np.array_equal(reply.vectors, again.vectors[::-1])
    assert len(np.unique(reply.vectors, axis=0)) == 4
    assert np.allclose(norms(reply.vectors), 1, atol=1e-6)
    assert reply.vectors.dtype == np.float32
    assert reply.tokens == 1 + 1 + 1 + 1 + 1


def test_vectors_are_the_same_on_every_platform() -> None:
    assert fake.vector("embedgate", 8).tobytes().hex() == (
        "c370aabef35feabec9c43abe4b2e083d1ec0bdbe86e70d3fdc2ba53eac1d9f3e"
    )


@pytest.mark.parametrize("dim", [8, 255, 256, 4096])
def test_a_smaller_vector_is_the_shortened_larger_one(dim: int) -> None:
    assert dim in fake.DIMS
    longest = fake.vector("text", 4096)[np.newaxis]
    assert np.allclose(shorten(longest, dim)[0], fake.vector("text", dim), atol=1e-6)


async def test_an_input_over_the_length_is_named_by_its_position() -> None:
    with pytest.raises(InputTooLong) as caught:
        await fake.FakeProvider().embed(Batch(("short", "x" * 40_000), 256), ROUTE, soon())
    assert caught.value.index == 1


async def test_latency_is_kept_and_ends_at_the_deadline() -> None:
    provider = fake.FakeProvider(latency_s=0.05)
    started_s = time.monotonic()
    await asyncio.gather(*(provider.embed(Batch(("x",), 8), ROUTE, soon()) for _ in range(3)))
    assert 0.05 <= time.monotonic() - started_s < PATIENCE_S
    with pytest.raises(UpstreamTimeout):
        await provider.embed(Batch(("x",), 8), ROUTE, time.monotonic() + 0.01)
    await provider.aclose()
