"""What a model cannot do is refused by name before a provider is asked."""

import dataclasses

import pytest

from doubles import Bench, ScriptedProvider, model
from embedgate.core.errors import UnsupportedOption
from embedgate.core.models import Model
from embedgate.core.types import EmbedRequest

EVERY_ROUNDING = ("int8", "uint8", "binary", "ubinary")


def bench_of(*models: Model) -> Bench:
    return Bench(models, {"a": ScriptedProvider(), "b": ScriptedProvider(space="t")})


async def refused(bench: Bench, request: EmbedRequest) -> UnsupportedOption:
    """The refusal of a request, which must have cost nothing."""
    with pytest.raises(UnsupportedOption) as caught:
        await bench.embed(request)
    assert [provider.batches for provider in bench.providers.values()] == [[], []]
    assert bench.memory.entries == []
    return caught.value


@pytest.mark.parametrize("quantisation", EVERY_ROUNDING)
async def test_vectors_whose_length_counts_are_not_rounded(quantisation: str) -> None:
    bench = bench_of(dataclasses.replace(model("a"), is_normalised=False))
    error = await refused(bench, EmbedRequest("acme/m", ("x",), quantisation=quantisation))  # type: ignore[arg-type]
    assert error.param == "encoding_format"
    assert f"encoding_format {quantisation} is not possible with acme/m" in error.message


@pytest.mark.parametrize("quantisation", EVERY_ROUNDING)
async def test_only_sizes_of_whole_bytes_are_packed(quantisation: str) -> None:
    bench = bench_of(model("a"))
    odd = EmbedRequest("acme/m", ("x",), dim=6, quantisation=quantisation)  # type: ignore[arg-type]
    if quantisation in ("binary", "ubinary"):
        assert "its vectors have 6" in (await refused(bench, odd)).message
    else:
        assert (await bench.embed(odd)).vectors.shape == (1, 6)
    whole = EmbedRequest("acme/m", ("x",), quantisation=quantisation)  # type: ignore[arg-type]
    assert (await bench.embed(whole)).vectors.shape == (1, 8)


async def test_a_fallback_that_cannot_be_rounded_is_refused_at_once() -> None:
    other = dataclasses.replace(model("b", name="acme/other", space="t"), is_normalised=False)
    request = EmbedRequest(
        "acme/m", ("x",), fallback_model="acme/other", allow_space_change=True, quantisation="binary"
    )
    assert "acme/other" in (await refused(bench_of(model("a"), other), request)).message
