"""Outliers among texts: far from the centre of their cluster, or in a thinner neighbourhood than others."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.clustering import MOST_CLUSTERS, Clustering, cluster
from embedgate.toolkit.libraries import library
from embedgate.toolkit.prepared import Floats, Numbers, n_distinct, threads_for, unit_rows

Criterion = Literal["density", "distance", "both", "either"]

NEIGHBOURS = 20
DENSITY_SPREADS, DISTANCE_SPREADS = 3.0, 2.0
"""Usual spreads above the median from which a text counts. Distances to a centre end at about 1, so two are many."""

_LEAST_TEXTS = 5
_LEAST_SHARE = 0.03
"""Clusters with less of the texts, or with fewer than `_LEAST_TEXTS`, may consist of outliers and are no norm."""
_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution, times this, is its standard deviation."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where outliers begin: `median + spreads * spread`, both over all texts.

    spread: median absolute deviation times 1.4826, which the outliers themselves hardly move.
    """

    median: float
    spread: float
    spreads: float

    @property
    def value(self) -> float:
        """A text with a larger value is an outlier."""
        return self.median + self.spreads * self.spread


@dataclass(frozen=True, slots=True)
class Outliers:
    """What was found among n texts.

    distances: (n,) to the centre of the own cluster. densities: (n,) local outlier factor, about 1 where the
    neighbourhood of a text is as dense as that of its neighbours, more where it is thinner. positions: of the outliers,
    the most unusual first.
    """

    criterion: Criterion
    distances: Floats
    densities: Floats
    far: Threshold
    thin: Threshold
    labels: Numbers
    n_clusters: int
    n_neighbours: int
    positions: Sequence[int]

    def reasons(self, position: int) -> list[str]:
        """Why a text counts: `thin neighbourhood`, `far from its cluster`."""
        found = ["thin neighbourhood"] if self.densities[position] > self.thin.value else []
        return found + (["far from its cluster"] if self.distances[position] > self.far.value else [])


def find_outliers(
    vectors: Vectors,
    *,
    criterion: Criterion = "density",
    spreads: float | None = None,
    k: int | None = None,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> Outliers:
    """Find the texts whose vectors, (n, d), do not belong to the others. Equal input gives equal output.

    criterion: which of both measures counts. spreads: how many usual spreads above the median a text must lie; 3 for
    the density and 2 for the distance if None. k: number of clusters, chosen by silhouette if None. neighbours: of the
    local outlier factor; more where so many texts are equal.
    Raises InvalidInput for fewer than five texts, equal texts only, or what `cluster` refuses.
    """
    rows = unit_rows(vectors, "a search for outliers", least=_LEAST_TEXTS)
    if spreads is not None and not 0 < spreads < np.inf:
        raise InvalidInput(f"{spreads:g} spreads were asked for; give a number above 0.")
    if neighbours < 1:
        raise InvalidInput(f"{neighbours} neighbours were asked for; the least is 1.")
    if n_distinct(rows) == 1:
        raise InvalidInput(f"All {len(rows)} texts have the same vector: none is an outlier.")
    found = cluster(vectors, k=k, most=MOST_CLUSTERS, seed=seed)
    distances = _distances(rows, found)
    n_neighbours = min(max(neighbours, _most_equal(rows)), len(rows) - 1)
    with threads_for(rows):
        densities = _local_outlier_factors(rows, n_neighbours)
    far = _threshold(distances, DISTANCE_SPREADS if spreads is None else spreads)
    thin = _threshold(densities, DENSITY_SPREADS if spreads is None else spreads)
    is_far, is_thin = distances > far.value, densities > thin.value
    counts = {"density": is_thin, "distance": is_far, "both": is_thin & is_far, "either": is_thin | is_far}[criterion]
    score = distances if criterion == "distance" else densities
    positions = [int(at) for at in np.argsort(-score, kind="stable") if counts[at]]
    return Outliers(
        criterion, distances, densities, far, thin, found.labels, len(found.clusters), n_neighbours, positions
    )


def _distances(rows: Floats, found: Clustering) -> Floats:
    """(n,) distance to the centre of the own cluster; of texts in a small cluster, to the nearest of the large ones."""
    least = max(_LEAST_TEXTS, _LEAST_SHARE * len(rows))
    large = [each.number for each in found.clusters if each.size >= least] or [0]
    to_each = np.array([np.linalg.norm(rows - found.centres[number], axis=1) for number in large])
    distances: Floats = to_each.min(axis=0)
    for number, of_cluster in zip(large, to_each, strict=True):
        distances = np.where(found.labels == number, of_cluster, distances)
    return distances


def _most_equal(rows: Floats) -> int:
    """How often the most frequent vector occurs: with fewer neighbours than that, its density would be infinite."""
    return max(Counter(row.tobytes() for row in rows).values())


def _local_outlier_factors(rows: Floats, neighbours: int) -> Floats:
    model = library("sklearn.neighbors").LocalOutlierFactor(neighbours)
    with warnings.catch_warnings():
        # Of texts that are equal but for rounding: they have one another, and count as dense.
        warnings.filterwarnings("ignore", message="Duplicate values", category=UserWarning)
        model.fit(rows)
    return -np.asarray(model.negative_outlier_factor_, dtype=np.float64)


def _threshold(values: Floats, spreads: float) -> Threshold:
    median = float(np.median(values))
    return Threshold(median, _TO_SIGMA * float(np.median(np.abs(values - median))), spreads)
