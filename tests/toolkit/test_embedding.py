"""Many texts through one embedder: order, bounds, several calls at a time, faulty texts."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from embedgate.core.errors import GatewayRefused, InvalidInput, UpstreamFailed
from embedgate.core.ports import CallLimits, Embedder
from embedgate.core.types import InputType
from embedgate.core.vectors import Vectors
from embedgate.toolkit.embedding import embed_all, embed_in_parts
from waiting import PATIENCE_S

TEXTS = [f"text {number}" for number in range(100)]


class Lengths(Embedder):
    """One number per text, the text's own; `bad` texts are refused."""

    def __init__(self, limits: CallLimits, bad: Sequence[str] = ()) -> None:
        self.limits = limits
        self.bad = bad
        self.calls: list[Sequence[str]] = []

    @property
    def call_limits(self) -> CallLimits:
        return self.limits

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        self.calls.append(texts)
        for position, text in enumerate(texts):
            if text in self.bad:
                raise InvalidInput("is bad", index=position)
        return np.array([[float(text.split()[1])] for text in texts], dtype=np.float32)


def test_an_embedder_needs_one_method() -> None:
    class Mine(Embedder):
        def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
            return np.ones((len(texts), 3), dtype=np.float32)

    mine = Mine()
    assert (mine.model, mine.space, mine.dim) == ("Mine", "Mine", 3)
    assert embed_all(mine, ["a", "b"]).shape == (2, 3)
    assert embed_all(mine, []).shape == (0, 3)


@pytest.mark.parametrize("parallel", [1, 4])
def test_parts_come_in_order_within_the_limits(parallel: int) -> None:
    embedder = Lengths(CallLimits(max_inputs=7, parallel=parallel))
    seen: list[tuple[int, int]] = []
    vectors = embed_all(embedder, TEXTS, on_progress=lambda done, n: seen.append((done, n)))
    np.testing.assert_array_equal(vectors[:, 0], np.arange(100))
    assert max(map(len, embedder.calls)) == 7
    assert seen[-1] == (100, 100)


def test_as_many_calls_run_at_a_time_as_are_allowed_and_few_are_ahead() -> None:
    together = threading.Barrier(4)
    started: list[int] = []

    class Slow(Lengths):
        def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
            started.append(len(started))
            if len(started) <= 4:
                together.wait(PATIENCE_S)  # returns only when four calls wait here
            return super().embed(texts)

    parts = embed_in_parts(Slow(CallLimits(max_inputs=1, parallel=4)), TEXTS)
    assert next(parts).positions == range(1)
    parts.close()  # type: ignore[attr-defined]
    assert len(started) <= 4 + 2 * 4


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_faulty_text_is_named_by_its_place_among_all(parallel: int) -> None:
    embedder = Lengths(CallLimits(max_inputs=7, parallel=parallel), bad=["text 50"])
    with pytest.raises(InvalidInput) as failed:
        embed_all(embedder, TEXTS)
    assert failed.value.index == 50


@pytest.mark.parametrize("parallel", [1, 4])
def test_faulty_texts_are_left_out_and_found_by_halving(parallel: int) -> None:
    bad = ["text 0", "text 33", "text 34", "text 99"]
    embedder = Lengths(CallLimits(max_inputs=64, parallel=parallel), bad=bad)
    parts = list(embed_in_parts(embedder, TEXTS, on_error="skip"))
    kept = [position for part in parts for position in part.positions]
    assert kept == [number for number in range(100) if number not in (0, 33, 34, 99)]
    np.testing.assert_array_equal(np.concatenate([part.vectors for part in parts])[:, 0], kept)
    assert [(each.position, each.reason) for part in parts for each in part.left_out] == [
        (0, "is bad"), (33, "is bad"), (34, "is bad"), (99, "is bad"),
    ]  # fmt: skip
    assert len(embedder.calls) < 50


@pytest.mark.parametrize(
    "error",
    [
        UpstreamFailed("gone"),
        GatewayRefused("no such key", status=401, code="invalid_api_key"),
        GatewayRefused("no", status=400, code="invalid_dimensions"),
    ],
)
def test_what_no_text_is_at_fault_for_stops_even_if_faulty_texts_are_left_out(error: Exception) -> None:
    class Failing(Lengths):
        def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
            self.calls.append(texts)
            raise error

    failing = Failing(CallLimits())
    with pytest.raises(type(error)):
        list(embed_in_parts(failing, TEXTS, on_error="skip"))
    assert len(failing.calls) == 1


def test_a_gateways_refusal_of_a_text_is_reported_without_the_name_of_the_field() -> None:
    class Refusing(Lengths):
        def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
            if "text 1" in texts:
                position = texts.index("text 1")
                message = f"input[{position}] has 300 tokens"
                raise GatewayRefused(message, status=400, code="context_length_exceeded")
            return super().embed(texts)

    (part,) = embed_in_parts(Refusing(CallLimits()), TEXTS[:3], on_error="skip")
    assert list(part.positions) == [0, 2]
    assert [(each.position, each.reason) for each in part.left_out] == [(1, "has 300 tokens")]
