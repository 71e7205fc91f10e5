"""The local models as a provider: order, exact tokens, turns between requests, deadlines, shutdown."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from embedgate.core.errors import InputTooLong, InternalError, InvalidInput, UpstreamFailed, UpstreamTimeout
from embedgate.core.models import DimRange, Route, Truncate
from embedgate.core.types import Batch
from embedgate.core.vectors import norms
from embedgate.inference.runtime import LocalModels
from embedgate.inference.weights import MINILM, WORDLLAMA
from embedgate.providers.local import LocalProvider
from embedgate.settings import LocalModelSettings, LocalSettings

pytest.importorskip("onnx", reason="the extra embedgate[local] is not installed")
pytest.importorskip("onnxruntime", reason="the extra embedgate[local] is not installed")
if MINILM.folder() is None or WORDLLAMA.folder() is None:
    pytest.skip("the extras embedgate[minilm,wordllama] are not installed", allow_module_level=True)

MINILM_ROUTE = Route("local", "all-minilm-l6-v2", DimRange(384, 384, 384), 256, "local")
WORDLLAMA_ROUTE = Route("local", "wordllama-256", DimRange(256, 64, 256), 32_768, "local")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest_asyncio.fixture
async def provider(data_dir: Path) -> AsyncIterator[LocalProvider]:
    provider = LocalProvider(LocalModels(LocalSettings(), data_dir))
    yield provider
    await provider.aclose()


def _batch(*texts: str, truncate: Truncate = "none") -> Batch:
    return Batch(texts, expected_dim=384, truncate=truncate)


def _deadline(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


async def test_vectors_come_in_the_order_of_the_inputs_with_exact_tokens(provider: LocalProvider) -> None:
    texts = [f"number {n} " * (n * 7 % 20 + 1) for n in range(60)]
    reply = await provider.embed(_batch(*texts), MINILM_ROUTE, _deadline())
    alone = [await provider.embed(_batch(text), MINILM_ROUTE, _deadline()) for text in texts]
    np.testing.assert_allclose(reply.vectors, np.concatenate([one.vectors for one in alone]), atol=1e-6)
    assert reply.tokens == sum(one.tokens or 0 for one in alone) == sum(2 * (n * 7 % 20 + 1) + 2 for n in range(60))
    assert reply.vectors.shape == (60, 384)
    assert reply.vectors.dtype == np.float32
    np.testing.assert_allclose(norms(reply.vectors), 1, atol=1e-6)


async def test_first_over_long_input_is_named_with_tokens_seen_and_allowed(provider: LocalProvider) -> None:
    texts = ["fine " * 200] * 100 + ["long " * 255, "long " * 300]
    with pytest.raises(
        InputTooLong, match=r"input\[100\] has 257 tokens.* 256 tokens.*\"truncate\": \"end\""
    ) as caught:
        await provider.embed(_batch(*texts), MINILM_ROUTE, _deadline())
    assert caught.value.index == 100


async def test_over_long_input_is_cut_at_the_side_asked_for_and_reported(provider: LocalProvider) -> None:
    head, tail = "first " * 254, "last " * 254
    whole = await provider.embed(_batch(head, tail), MINILM_ROUTE, _deadline())
    sides: tuple[tuple[Truncate, int], ...] = (("end", 0), ("start", 1))
    for truncate, row in sides:
        batch = _batch("short", head + tail, truncate=truncate)
        reply = await provider.embed(batch, MINILM_ROUTE, _deadline())
        assert reply.truncated == (1,)
        assert reply.tokens == 3 + 256
        np.testing.assert_allclose(reply.vectors[1], whole.vectors[row], atol=1e-6)


async def test_text_without_a_token_is_named_by_its_position(provider: LocalProvider) -> None:
    texts = ["a text of some length " * 300] * 4 + ["", "fine"]
    with pytest.raises(InvalidInput, match=r"input\[4\]") as caught:
        await provider.embed(_batch(*texts), WORDLLAMA_ROUTE, _deadline())
    assert caught.value.index == 4


async def test_small_request_does_not_wait_for_the_whole_of_a_large_one(provider: LocalProvider) -> None:
    large = asyncio.create_task(provider.embed(_batch(*["a middling text " * 20] * 150), MINILM_ROUTE, _deadline()))
    ticks = 0
    while ticks < 3:  # the loop is free while the large one runs
        await asyncio.sleep(0.001)
        ticks += 1
    await provider.embed(_batch("a short one"), MINILM_ROUTE, _deadline())
    assert not large.done()
    assert (await large).vectors.shape == (150, 384)


async def test_deadline_ends_a_request_between_two_runs(provider: LocalProvider) -> None:
    await provider.embed(_batch("loads the model"), MINILM_ROUTE, _deadline())
    started_s = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        await provider.embed(_batch(*["a middling text " * 20] * 2000), MINILM_ROUTE, _deadline(0.2))
    with pytest.raises(UpstreamTimeout):
        await provider.embed(_batch("too late"), MINILM_ROUTE, _deadline(-1.0))
    assert time.monotonic() - started_s < 20  # the whole of it would take longer


async def test_cancelled_request_asks_for_no_further_runs(provider: LocalProvider) -> None:
    large = asyncio.create_task(provider.embed(_batch(*["a middling text " * 20] * 2000), MINILM_ROUTE, _deadline()))
    await provider.embed(_batch("a short one"), MINILM_ROUTE, _deadline())
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    async with asyncio.timeout(20):  # the whole of it would take longer
        await provider.aclose()


async def test_shutdown_lets_calls_in_flight_end_and_refuses_new_ones(data_dir: Path) -> None:
    models = LocalModels(LocalSettings(), data_dir)
    provider = LocalProvider(models)
    running = asyncio.create_task(provider.embed(_batch(*["some text"] * 100), MINILM_ROUTE, _deadline()))
    await asyncio.sleep(0)
    await provider.aclose()
    assert running.done()
    assert (await running).vectors.shape == (100, 384)
    assert models.loaded("all-minilm-l6-v2") is None
    with pytest.raises(UpstreamFailed):
        await provider.embed(_batch("late"), MINILM_ROUTE, _deadline())


async def test_model_that_cannot_be_loaded_is_our_own_fault(data_dir: Path, tmp_path: Path) -> None:
    minilm = MINILM.folder()
    assert minilm is not None
    entry = LocalModelSettings(path=minilm / "model", sha256="0" * 64)
    provider = LocalProvider(LocalModels(LocalSettings(models={"mine": entry}), data_dir))
    route = Route("local", "mine", DimRange(384, 384, 384), 256, "local")
    with pytest.raises(InternalError, match="SHA-256"):
        await provider.embed(_batch("text"), route, _deadline())
    await provider.aclose()
