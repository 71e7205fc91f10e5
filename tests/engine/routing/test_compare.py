"""What is said of routes whose vectors differ in known ways. Real models are compared in test_cli_models_verify.py."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from embedgate.core.vectors import Vectors, normalise
from embedgate.engine.routing import compare
from embedgate.engine.routing.compare import Sample, Verdict, judge, probes

ASKED = probes(512)
KINDS: list[str] = [probe.kind for probe in ASKED]


def random_vectors(seed: int, dim: int = 384) -> Vectors:
    return normalise(np.random.default_rng(seed).standard_normal((len(ASKED), dim)).astype(np.float32))


def off(vectors: Vectors, distance: float, seed: int = 99) -> Vectors:
    """Vectors whose cosine with those given is 1 - distance."""
    noise = random_vectors(seed, vectors.shape[1])
    noise = normalise(noise - np.vecdot(noise, vectors)[:, np.newaxis] * vectors)
    cosine = 1 - distance
    turned: Vectors = (cosine * vectors + np.sqrt(1 - cosine**2) * noise).astype(np.float32)
    return turned


RIGHT = Sample("a/model", "right", "f32", False, random_vectors(1), random_vectors(2))
OWN = replace(RIGHT, model="local/model", provider="local", is_own=True)


def changed(change: Callable[[Vectors], Vectors], precision: str = "f32") -> Sample:
    queries, documents = change(RIGHT.queries), change(RIGHT.documents)
    return Sample("a/model", "tried", precision, False, queries, documents)


def tried(sample: Sample) -> Verdict:
    """What is said of a sample beside the local model."""
    reference, verdict = judge([OWN, sample], ASKED)
    assert (reference.provider, reference.state) == ("local", "reference")
    return verdict


@pytest.mark.parametrize("distance", [0.0, 2e-4])
def test_what_a_16_bit_engine_changes_is_the_same(distance: float) -> None:
    verdict = tried(changed(lambda vectors: off(vectors, distance)))
    assert (verdict.state, verdict.explanation) == ("same", "")
    assert verdict.similarity == pytest.approx(1 - distance, abs=1e-5)
    assert verdict.similarity is not None
    assert verdict.similarity <= 1


def test_a_declared_quantisation_may_differ_more_but_not_without_end() -> None:
    assert tried(changed(lambda vectors: off(vectors, 0.008))).explanation.startswith("precision")
    assert tried(changed(lambda vectors: off(vectors, 0.008), "gguf")).state == "same"
    assert tried(changed(lambda vectors: off(vectors, 0.04), "gguf")).explanation.startswith("precision")
    assert tried(changed(lambda vectors: off(vectors, 0.5), "gguf")).explanation.startswith("pooling")


@pytest.mark.parametrize("scale", ["of the vector", "of one"])
def test_vectors_rounded_to_int8_are_seen_however_near_they_are(scale: str) -> None:
    def rounded(vectors: Vectors) -> Vectors:
        step = np.abs(vectors).max(axis=1, keepdims=True) / 127 if scale == "of the vector" else 1 / 127
        return normalise((np.round(vectors / step) * step).astype(np.float32))

    verdict = tried(changed(rounded))
    assert (verdict.state, "rounded to int8" in verdict.explanation) == ("wrong", True)
    assert tried(changed(rounded, "int8")).state == "same"
    both = [changed(rounded), replace(changed(rounded), provider="second")]
    assert [verdict.state for verdict in judge(both, ASKED)] == ["reference", "same"]


def test_vectors_rounded_to_16_bits_are_not_taken_for_int8() -> None:
    def to_bfloat16(vectors: Vectors) -> Vectors:
        return ((vectors.view(np.uint32) + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)

    for dim in (128, 384, 1024, 3072):
        right = replace(OWN, queries=random_vectors(1, dim), documents=random_vectors(2, dim))
        for rounded in (to_bfloat16, lambda vectors: vectors.astype(np.float16).astype(np.float32)):
            queries, documents = rounded(right.queries), rounded(right.documents)
            sample = replace(right, is_own=False, queries=queries, documents=documents)
            assert judge([right, sample], ASKED)[1].state == "same"


def test_one_type_alone_points_at_its_prefix() -> None:
    query_off = replace(RIGHT, queries=off(RIGHT.queries, 0.1))
    document_off = replace(RIGHT, documents=off(RIGHT.documents, 0.1))
    assert tried(query_off).explanation.startswith("prefix: only its query vectors differ")
    assert tried(document_off).explanation.startswith("prefix: only its document vectors differ")


@pytest.mark.parametrize(("kind", "blame"), [("long", "length"), ("unicode", "text"), ("code", "text")])
def test_one_kind_of_text_alone_is_named(kind: str, blame: str) -> None:
    def one_off(vectors: Vectors) -> Vectors:
        turned = vectors.copy()
        row = KINDS.index(kind)
        turned[row] = off(vectors, 0.05)[row]
        return turned

    assert tried(changed(one_off)).explanation.startswith(blame)


def test_strangers_are_another_model() -> None:
    assert tried(changed(lambda vectors: random_vectors(7))).explanation.startswith("another model")
    of_another_size = replace(RIGHT, queries=random_vectors(1, 256), documents=random_vectors(2, 256))
    verdict = tried(of_another_size)
    assert (verdict.state, verdict.similarity) == ("wrong", None)
    assert "vectors of 256 instead of 384" in verdict.explanation


def test_another_length_is_told() -> None:
    verdict = tried(changed(lambda vectors: vectors * 3))
    assert verdict.explanation.startswith("normalisation: its vectors are 3 times")


def test_without_a_local_model_the_majority_is_right() -> None:
    wrong = replace(changed(lambda vectors: off(vectors, 0.3)), provider="wrong")
    verdicts = judge([wrong, RIGHT, replace(RIGHT, provider="second")], ASKED)
    assert [verdict.state for verdict in verdicts] == ["wrong", "reference", "same"]


def test_a_quantised_route_is_no_reference_for_precise_ones() -> None:
    build = replace(changed(lambda vectors: off(vectors, 0.005), "gguf"), provider="build")
    verdicts = judge([build, replace(build, provider="other build"), RIGHT], ASKED)
    assert [verdict.state for verdict in verdicts] == ["same", "same", "reference"]


def test_of_two_equals_neither_is_said_to_be_right() -> None:
    reference, verdict = judge([RIGHT, changed(lambda vectors: off(vectors, 0.3))], ASKED)
    assert "either may be wrong" in reference.explanation
    assert verdict.state == "wrong"


def test_nothing_is_said_of_a_route_alone() -> None:
    assert judge([], ASKED) == []
    (verdict,) = judge([RIGHT], ASKED)
    assert (verdict.state, verdict.explanation) == ("reference", "nothing to compare with")


def test_short_models_are_not_asked_for_the_long_text() -> None:
    assert "long" in [probe.kind for probe in probes(256)]
    assert "long" not in [probe.kind for probe in probes(255)]


def test_a_route_is_measured_by_its_own_past() -> None:
    again = changed(lambda vectors: off(vectors, 2e-4))
    assert compare.changed(RIGHT, again, ASKED) == ""
    assert compare.changed(RIGHT, changed(lambda vectors: random_vectors(7)), ASKED).startswith("another model")
    shorter = changed(lambda vectors: random_vectors(1, 256))
    assert compare.changed(RIGHT, shorter, ASKED).startswith("vectors of 256 instead of 384")
