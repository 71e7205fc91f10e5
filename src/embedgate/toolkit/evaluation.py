"""Which model, how many dimensions, which encoding: each measured on one's own questions, labels or texts.

Vectors are cut and encoded here, from those of full size, so that every setting sees the same ones.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedgate.core.errors import InvalidInput
from embedgate.core.quantise import BITS_PER_NUMBER, to_int8, to_ubinary
from embedgate.core.vectors import Vectors, normalise, shorten
from embedgate.toolkit import ranking
from embedgate.toolkit.prepared import Floats, Numbers, check_rows
from embedgate.toolkit.search_time import ms_per_million

Kind = Literal["pairs", "labels", "neighbours"]
Encoding = Literal["float32", "int8", "binary"]
Verdict = Literal["reference", "no difference", "worse", "better", "too few to tell"]

MAIN = "nDCG@10"
"""The measure that settings are compared by."""
ENCODINGS: tuple[Encoding, ...] = ("float32", "int8", "binary")
TOLERABLE = 0.05
"""A loss that must be ruled out for "no difference" to mean something."""

_BITS: Mapping[Encoding, int] = {"float32": 32, "int8": 8, "binary": 1}
_AT = {"pairs": "recall", "labels": "precision", "neighbours": "agreement"}
_MOST = ranking.DEPTHS[-1]
_BLOCK = 512
_RULE_OF_THREE = 3
"""With n questions and no difference among them, up to 3 / n of all questions may differ (95 %)."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model's vectors at full size: of the texts (n, d), of the questions (q, d) or None if the texts are asked with.

    ms_per_text: to embed one text by itself. dollars_per_million: tokens. Both for the table; None if not known.
    """

    model: str
    texts: Vectors
    questions: Vectors | None = None
    ms_per_text: float | None = None
    dollars_per_million: float | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One model, size and encoding, and what was measured of it.

    means, intervals: by measure, with a 95 % bootstrap interval over the questions. difference: of the mean of nDCG@10
    to that of the reference, with an interval over the same draws. possible_loss: what is not ruled out at 95 %.
    """

    model: str
    dim: int
    full_dim: int
    encoding: Encoding
    bytes_per_million: int
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    difference: float
    difference_interval: tuple[float, float]
    possible_loss: float
    verdict: Verdict
    ms_per_text: float | None
    ms_per_search: float
    """Of a million such vectors, every one compared, with NumPy on one core."""
    dollars_per_million: float | None

    @property
    def size(self) -> float:
        """Bytes of a vector as a share of those at full size as float32."""
        return self.bytes_per_million / (self.full_dim * 4_000_000)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All settings, in the order of models, sizes and encodings; the reference of each model is its full size.

    between_models: the full size of each further model against that of the first.
    """

    kind: Kind
    n_questions: int
    n_texts: int
    measures: Sequence[str]
    settings: Sequence[Setting]
    between_models: Sequence[Setting]


@dataclass(frozen=True, slots=True)
class _Measured:
    source: Source
    dim: int
    encoding: Encoding
    ms_per_search: float
    values: Floats
    """(q, measures)"""


def evaluate(
    sources: Sequence[Source],
    *,
    relevant: Sequence[Collection[int]] | None = None,
    labels: Sequence[str | None] | None = None,
    dims: Sequence[int] | None = None,
    encodings: Sequence[Encoding] = ENCODINGS,
    seed: int = 0,
) -> Evaluation:
    """Measure every model at every size in every encoding, on the same questions.

    relevant: for each question, the positions of the right texts: recall@1/5/10, MRR, nDCG@10. labels: for each text,
    None if it has none; every text asks for those of its label, itself left out: precision@1/5/10. Neither: every text
    asks for the neighbours that it has at full size: agreement@1/5/10. dims: sizes besides a model's own; a half and a
    quarter if None. Questions and texts are encoded alike.
    Raises InvalidInput for nothing to compare, too few texts, or a size that a model or an encoding does not have.
    """
    kind = _kind(sources, relevant, labels)
    if kind == "labels":
        relevant, asking = _of_labels(labels or [])
    else:
        asking = np.arange(len(sources[0].texts if sources[0].questions is None else sources[0].questions))
    measures = (*(f"{_AT[kind]}@{depth}" for depth in ranking.DEPTHS), "MRR", MAIN)
    measured = [
        each
        for source in sources
        for each in _of_source(source, kind, relevant, asking, _sizes(source, dims), encodings)
    ]
    means = ranking.bootstrap_means(np.concatenate([each.values for each in measured], axis=1), seed=seed)
    per_setting = means.reshape(len(means), len(measured), len(measures))
    settings, between = [], []
    first = 0
    for at, each in enumerate(measured):
        if each.source is not measured[first].source:
            first = at
            between.append(_setting(measured, per_setting, at, 0, measures))
        settings.append(_setting(measured, per_setting, at, first, measures))
    return Evaluation(kind, len(asking), len(sources[0].texts), measures, settings, between)


def _kind(
    sources: Sequence[Source], relevant: Sequence[Collection[int]] | None, labels: Sequence[str | None] | None
) -> Kind:
    """What is measured, after all vectors and questions have been checked."""
    if not sources or (relevant is not None and labels is not None):
        raise InvalidInput("An evaluation takes at least one model, and questions or labels, not both.")
    models = [source.model for source in sources]
    double = next((model for model in models if models.count(model) > 1), None)
    if double is not None:
        raise InvalidInput(f"The model {double} is named twice.")
    n = len(sources[0].texts)
    for source in sources:
        check_rows(source.texts, "an evaluation", least=3)
        asked = source.texts if source.questions is None else source.questions
        check_rows(asked, "an evaluation", least=1)
        if len(source.texts) != n or (relevant is not None and len(asked) != len(relevant)):
            raise InvalidInput(f"{source.model} has vectors of another number of texts or questions.")
    if relevant is not None:
        if not all(relevant):
            raise InvalidInput("A question has no right text.")
        return "pairs"
    if labels is not None and len(labels) != n:
        raise InvalidInput(f"There are {len(labels)} labels for {n} texts.")
    return "neighbours" if labels is None else "labels"


def _of_labels(labels: Sequence[str | None]) -> tuple[list[list[int]], Numbers]:
    """For each text whose label others have too, the positions of these; and the positions of such texts."""
    members: dict[str, list[int]] = {}
    for at, label in enumerate(labels):
        if label is not None:
            members.setdefault(label, []).append(at)
    asking = sorted(at for found in members.values() if len(found) > 1 for at in found)
    if len(members) < 2 or not asking:
        raise InvalidInput(
            f"There are {len(members)} labels; an evaluation takes two or more, one of them on two texts."
        )
    of = {at: found for found in members.values() for at in found}
    return [[other for other in of[at] if other != at] for at in asking], np.array(asking)


def _sizes(source: Source, dims: Sequence[int] | None) -> list[int]:
    """The full size, and the smaller ones that are wanted, largest first."""
    full = source.texts.shape[1]
    wanted = [full // part // 8 * 8 for part in (2, 4) if full // part >= 8] if dims is None else list(dims)
    if any(dim < 1 or dim > full for dim in wanted):
        raise InvalidInput(
            f"{source.model} has {full} dimensions; sizes are 1 to {full}, not {', '.join(map(str, wanted))}."
        )
    return sorted({full, *wanted}, reverse=True)


def _of_source(
    source: Source,
    kind: Kind,
    relevant: Sequence[Collection[int]] | None,
    asking: Numbers,
    dims: Sequence[int],
    encodings: Sequence[Encoding],
) -> list[_Measured]:
    """Every size and encoding of one model, the reference first."""
    wanted: list[tuple[int, Encoding]] = [(dims[0], "float32")]
    wanted += [pair for dim in dims for encoding in encodings if (pair := (dim, encoding)) not in wanted]
    full = _Encoded(source, *wanted[0])
    found = []
    for dim, encoding in wanted:
        encoded = full if encoding == "float32" and dim == dims[0] else _Encoded(source, dim, encoding)
        values = []
        for start in range(0, len(asking), _BLOCK):
            block = asking[start : start + _BLOCK]
            order = encoded.order(block)
            if kind == "neighbours":
                nearest = order if encoded is full else full.order(block)
                values.append(_agreement(order, nearest[:, :_MOST]))
            else:
                values.append(_measures(order, (relevant or [])[start : start + len(block)], kind))
        takes_ms = ms_per_million(source.texts[:, :dim], encoding)
        found.append(_Measured(source, dim, encoding, takes_ms, np.concatenate(values)))
    return found


class _Encoded:
    """Vectors of a model in one size and encoding."""

    def __init__(self, source: Source, dim: int, encoding: Encoding) -> None:
        if encoding == "binary" and dim % BITS_PER_NUMBER:
            raise InvalidInput(f"binary takes a size that is a multiple of {BITS_PER_NUMBER}, not {dim}.")
        self._texts = _encoded(source.texts, dim, encoding)
        self._questions = None if source.questions is None else _encoded(source.questions, dim, encoding)

    def order(self, asking: Numbers) -> Numbers:
        """The texts by similarity to each question, (q, n); without itself where a text asks, (q, n - 1)."""
        if self._questions is not None:
            return ranking.rankings((self._questions[asking] @ self._texts.T).astype(np.float64))
        scores = (self._texts[asking] @ self._texts.T).astype(np.float64)
        scores[np.arange(len(asking)), asking] = -np.inf
        return ranking.rankings(scores)[:, :-1]


def _encoded(vectors: Vectors, dim: int, encoding: Encoding) -> Vectors:
    """Vectors whose products rank as the encoding does: whole numbers for int8, plus and minus one for bits."""
    rows = normalise(np.ascontiguousarray(vectors, dtype=np.float32))
    if dim < rows.shape[1]:
        rows = shorten(rows, dim)
    if encoding == "int8":
        return to_int8(rows).astype(np.float32)
    if encoding == "binary":
        return np.unpackbits(to_ubinary(rows), axis=1).astype(np.float32) * 2 - 1
    return rows


def _measures(order: Numbers, relevant: Sequence[Collection[int]], kind: Kind) -> Floats:
    """Every measure of every question, (q, measures)."""
    hits = ranking.is_relevant(order, relevant)
    n_relevant = np.array([len(set(each)) for each in relevant], dtype=np.float64)
    at = [
        ranking.recall(hits, n_relevant, depth) if kind == "pairs" else ranking.precision(hits, depth)
        for depth in ranking.DEPTHS
    ]
    return np.stack([*at, ranking.reciprocal_rank(hits), ranking.ndcg(hits, n_relevant)], axis=1)


def _agreement(order: Numbers, nearest: Numbers) -> Floats:
    """How many of the first at full size are among the first; the rank of its nearest; nDCG of its ten."""
    at = []
    for depth in ranking.DEPTHS:
        k = min(depth, nearest.shape[1])
        at.append(ranking.precision(ranking.is_relevant(order, nearest[:, :k].tolist()), k))
    first = ranking.reciprocal_rank(ranking.is_relevant(order, nearest[:, :1].tolist()))
    hits = ranking.is_relevant(order, nearest.tolist())
    return np.stack([*at, first, ranking.ndcg(hits, np.full(len(order), float(nearest.shape[1])))], axis=1)


def _setting(measured: Sequence[_Measured], means: Floats, at: int, reference: int, measures: Sequence[str]) -> Setting:
    each, base = measured[at], measured[reference]
    difference = float((each.values[:, -1] - base.values[:, -1]).mean())
    low, high = ranking.interval(means[:, at, -1] - means[:, reference, -1])
    possible_loss = max(-low, _RULE_OF_THREE / len(each.values))
    verdict: Verdict = "no difference" if possible_loss <= TOLERABLE else "too few to tell"
    if at == reference:
        verdict = "reference"
    elif high < 0 or low > 0:
        verdict = "worse" if high < 0 else "better"
    return Setting(
        each.source.model,
        each.dim,
        each.source.texts.shape[1],
        each.encoding,
        each.dim * _BITS[each.encoding] * 125_000,
        {name: float(value) for name, value in zip(measures, each.values.mean(axis=0), strict=True)},
        {name: ranking.interval(means[:, at, column]) for column, name in enumerate(measures)},
        difference,
        (low, high),
        possible_loss,
        verdict,
        each.source.ms_per_text,
        each.ms_per_search,
        each.source.dollars_per_million,
    )
