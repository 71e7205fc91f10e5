"""Comparison of the vectors of a model's routes for the same texts, with a likely cause of differences.

Makes no calls and knows no provider. Whether a route is wrong is measured; the cause is a guess from the pattern.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from embedgate.core.vectors import Vectors, normalise, norms

State = Literal["reference", "same", "wrong", "failed"]
_Mask = npt.NDArray[np.bool_]

_EXACT_PRECISIONS = frozenset({"f32", "f16", "bf16"})
_LEAST_IF_EXACT = 0.999
"""bfloat16 engines stay at 0.9999 of float32; engines that compute in int8 reach down to 0.97."""
_LEAST_IF_QUANTISED = 0.98
_LEAST_IF_SLIGHT = 0.95
"""Least similarity that lower precision explains; a missing prefix leaves 0.96 of a long text and 0.3 of a word."""
_LEAST_IF_RELATED = 0.3
"""Mean similarity. The same weights with CLS instead of mean pooling keep 0.36 to 0.58, other models almost none."""
_STANDS_OUT = 10
"""A group alone is at fault if its worst distance is this many times that of every other vector."""
_LENGTH_TOLERANCE = 0.01
_INT8_VALUES = 255
_INT8_SHARE = 0.75

_QUERIES, _DOCUMENTS = 0, 1

_ROUNDED = "precision: its vectors are rounded to int8; have the host answer with floats"
_QUANTISED = (
    "precision: all its vectors are slightly off, as of quantised weights; have the host run a more precise build"
)


@dataclass(frozen=True, slots=True)
class Probe:
    """A text that every route embeds. `kind` is what it tests."""

    kind: Literal["word", "question", "long", "unicode", "code"]
    text: str


_LONG_TOKENS = 256
_LONG = Probe(
    "long",
    "The harbour town woke slowly under a thin layer of fog. Fishing boats were already on their way back, with the "
    "gulls above them, and along the quay the first stalls were being put up for the market. Nobody took notice of the "
    "woman who stepped off the night train with a single suitcase and a letter in her coat. She asked the baker for "
    "the way to the old observatory, bought two rolls, and set out uphill. The path led through vineyards, past a "
    "chapel without a roof, and ended at an iron gate that had rusted open. Inside, the telescope still pointed at the "
    "same patch of sky that her grandfather had measured for thirty years. His notebooks lay on the desk: columns of "
    "figures, dates, the temperature of the mirror, now and then a remark about clouds. In the last of them he had "
    "worked out the orbit of a comet that nobody else had ever reported, and given the night on which it would return. "
    "That night was tomorrow.",
)
_SHORT = (
    Probe("word", "reset"),
    Probe("question", "How do I reset my password?"),
    Probe("unicode", "Größe, naïveté, Привет мир, 数学は楽しい, العربية 🎲"),
    Probe(
        "code", "def add(a: int, b: int) -> int:\n    if a < 0:\n        a = -a\n    return a + b  # never overflows\n"
    ),
)


def probes(max_input_tokens: int) -> tuple[Probe, ...]:
    """The texts to compare routes by. max_input_tokens: of the route that takes the least."""
    return (*_SHORT, _LONG) if max_input_tokens >= _LONG_TOKENS else _SHORT


@dataclass(frozen=True, slots=True)
class Sample:
    """Vectors of one route: `queries` and `documents`, each (n, dim) float32, a row for each probe.

    `precision` is the declared one. `is_own` says that the model runs in this process.
    """

    model: str
    provider: str
    precision: str
    is_own: bool
    queries: Vectors
    documents: Vectors


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on one route. `similarity` is the least cosine with the reference over all probes, None if there is none;
    `explanation` is the likely cause, or why the route is the reference.
    """

    model: str
    provider: str
    state: State
    similarity: float | None
    explanation: str


def judge(samples: Sequence[Sample], asked: Sequence[Probe]) -> list[Verdict]:
    """One verdict for each sample, in order. asked: the probes, as every sample has them.

    The reference is the model in this process, else the most precise route; of several, the one that agrees best
    with the others.
    """
    if not samples:
        return []
    reference, reason = _reference(samples)
    return [
        Verdict(sample.model, sample.provider, "reference", None, reason)
        if sample is reference
        else _verdict(sample, reference, asked)
        for sample in samples
    ]


def changed(first: Sample, now: Sample, asked: Sequence[Probe]) -> str:
    """How a route's vectors differ from its earlier ones, beyond numerical noise; empty if they do not."""
    return _verdict(now, first, asked).explanation


def _reference(samples: Sequence[Sample]) -> tuple[Sample, str]:
    """The reference sample, and why."""
    own = next((sample for sample in samples if sample.is_own), None)
    if own is not None:
        return own, "runs in the gateway itself"
    precise = [sample for sample in samples if _is_precise(sample)] or list(samples)
    agreement = [_agreement(sample, precise) for sample in precise]
    found = precise[agreement.index(max(agreement))]
    if len(samples) == 1:
        return found, "nothing to compare with"
    if len(precise) == 1:
        return found, "the only route of full precision"
    if len(precise) == 2:
        return found, "the first of two equals: if they differ, either may be wrong"
    return found, "agrees best with the others"


def _is_precise(sample: Sample) -> bool:
    return sample.precision in _EXACT_PRECISIONS and not _is_int8(sample)


def _agreement(sample: Sample, others: Sequence[Sample]) -> float:
    """The median of the least similarity with each one, itself included."""
    return float(np.median([_similarity(sample, other).min() if _fits(sample, other) else -1 for other in others]))


def _fits(one: Sample, other: Sample) -> bool:
    return one.queries.shape == other.queries.shape


def _similarity(one: Sample, other: Sample) -> npt.NDArray[np.float32]:
    """Cosines, (2, n): a row for queries, one for documents."""
    pairs = ((one.queries, other.queries), (one.documents, other.documents))
    return np.stack([np.vecdot(normalise(left), normalise(right)) for left, right in pairs])


def _verdict(sample: Sample, reference: Sample, asked: Sequence[Probe]) -> Verdict:
    if not _fits(sample, reference):
        sizes = f"vectors of {sample.queries.shape[1]} instead of {reference.queries.shape[1]}: another model or size"
        return Verdict(sample.model, sample.provider, "wrong", None, sizes)
    similarity = _similarity(sample, reference)
    are_exact = {sample.precision, reference.precision} <= _EXACT_PRECISIONS
    allowed = _LEAST_IF_EXACT if are_exact else _LEAST_IF_QUANTISED
    least = float(similarity.min())
    if least < allowed:
        fault = f"{_guess(sample, similarity, asked)} (at least {allowed} is expected)"
    else:
        fault = _fault_of_near(sample, reference)
    return Verdict(sample.model, sample.provider, "wrong" if fault else "same", min(least, 1.0), fault)


def _fault_of_near(sample: Sample, reference: Sample) -> str:
    """The fault of vectors whose directions are right; empty if there is none."""
    # Where the reference is rounded too, the model has no other vectors.
    if sample.precision in _EXACT_PRECISIONS and _is_int8(sample) and not _is_int8(reference):
        return _ROUNDED
    ratio = norms(sample.documents) / norms(reference.documents)
    if np.abs(ratio - 1).max() > _LENGTH_TOLERANCE:
        return f"normalisation: its vectors are {ratio.mean():.3g} times as long as the reference's"
    return ""


def _guess(sample: Sample, similarity: npt.NDArray[np.float32], asked: Sequence[Probe]) -> str:
    """The most likely cause of the differences."""
    distances = 1 - similarity
    for group, blame in _groups(asked):
        if group.any() and distances[group].max() > _STANDS_OUT * distances[~group].max():
            return blame
    if similarity.min() >= _LEAST_IF_SLIGHT:
        return _ROUNDED if _is_int8(sample) else _QUANTISED
    if similarity.mean() < _LEAST_IF_RELATED:
        return "another model: nothing is alike; look at the name that the host is asked for"
    return (
        "pooling: queries and documents are both far off, though related; look at mean and CLS pooling, "
        "then at the prefixes of both types and at the revision of the weights"
    )


def _groups(asked: Sequence[Probe]) -> Iterator[tuple[_Mask, str]]:
    """Each cause with the vectors, as a mask (2, n), that it alone makes wrong."""
    shape = (2, len(asked))
    kinds = np.array([probe.kind for probe in asked])
    for row, name in ((_QUERIES, "query"), (_DOCUMENTS, "document")):
        mask = np.zeros(shape, dtype=np.bool_)
        mask[row] = True
        yield (
            mask,
            f"prefix: only its {name} vectors differ; look at {name}_prefix and {name}_input_type in the catalogue, "
            "and at what the host prepends by itself",
        )
    for kind, blame in (
        ("long", "length: only the long text differs; the host cuts it, so lower max_input_tokens or raise its limit"),
        ("unicode", "text: only other scripts differ; the host changes accents or encoding, or has another tokenizer"),
        ("code", "text: only code differs; the host changes line breaks or spaces"),
    ):
        yield np.broadcast_to(kinds == kind, shape), blame


def _is_int8(sample: Sample) -> bool:
    """Whether the vectors are rounded to int8: few distinct components, for its 255 values and for their length.

    Scaling keeps equal components equal, so this shows even where the rounding is too fine to change the cosine.
    """
    rows = [*sample.queries, *sample.documents]
    return all(len(np.unique(row)) <= min(_INT8_VALUES, _INT8_SHARE * len(row)) for row in rows)
