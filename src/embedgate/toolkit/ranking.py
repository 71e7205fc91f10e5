"""How good rankings are: recall, precision, reciprocal rank, nDCG, each for every question; bootstrap intervals."""

from collections.abc import Collection, Sequence

import numpy as np

from embedgate.toolkit.prepared import Floats, Numbers

DEPTHS = (1, 5, 10)
RESAMPLES = 2_000


def rankings(scores: Floats) -> Numbers:
    """Positions by falling score, (q, n); of equal scores, the first position first. scores: (q, n)."""
    return np.argsort(-scores, axis=1, kind="stable")


def is_relevant(order: Numbers, relevant: Sequence[Collection[int]]) -> Floats:
    """1 where the text at that rank is relevant to the question, else 0: (q, n). order: (q, n)."""
    found = np.zeros(order.shape)
    for row, (ranked, wanted) in enumerate(zip(order, relevant, strict=True)):
        found[row] = np.isin(ranked, list(wanted))
    return found


def recall(hits: Floats, n_relevant: Floats, depth: int) -> Floats:
    """Share of the relevant texts among the first `depth`, (q,)."""
    found: Floats = hits[:, :depth].sum(axis=1) / n_relevant
    return found


def precision(hits: Floats, depth: int) -> Floats:
    """Share of relevant texts among the first `depth`, (q,)."""
    found: Floats = hits[:, :depth].sum(axis=1) / depth
    return found


def reciprocal_rank(hits: Floats) -> Floats:
    """1 divided by the rank of the first relevant text, (q,); 0 without one."""
    first = hits.argmax(axis=1)
    return np.where(hits.any(axis=1), 1 / (first + 1), 0.0)


def ndcg(hits: Floats, n_relevant: Floats, depth: int = 10) -> Floats:
    """Normalised discounted cumulative gain of the first `depth`, (q,): a relevant text gains 1 / log2(rank + 1)."""
    gains = 1 / np.log2(np.arange(2, depth + 2))
    ideal = np.cumsum(gains)[np.minimum(n_relevant.astype(np.intp), depth) - 1]
    shown = hits[:, :depth]
    found: Floats = (shown * gains[: shown.shape[1]]).sum(axis=1) / ideal
    return found


def bootstrap_means(values: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """Means of questions drawn with replacement, (resamples, m). values: (q, m): the same draw for all columns."""
    random = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    for at in range(resamples):
        means[at] = values[random.integers(len(values), size=len(values))].mean(axis=0)
    return means


def interval(means: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrapped means, (resamples,)."""
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
