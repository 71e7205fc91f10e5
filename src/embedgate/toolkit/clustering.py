"""Clusters of texts: k-means with k chosen by silhouette or given, or HDBSCAN, which finds out how many there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.keywords import keywords
from embedgate.toolkit.libraries import library
from embedgate.toolkit.prepared import Floats, Numbers, check_texts, n_distinct, threads_for, unit_rows

Method = Literal["kmeans", "hdbscan"]

MOST_CLUSTERS = 12
"""The largest k that is tried."""
MIN_SIZE = 5
COMPONENTS = 5
NOISE = -1
"""Number of what HDBSCAN puts into no cluster."""

_STARTS = 5
_SILHOUETTE_TEXTS = 5_000
"""Texts that a silhouette is computed of: its work and memory grow with the square."""
_N_NEAREST = 3
_ALIKE = 0.9
"""Cosine from which a typical text says nothing that another one has not said."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster. nearest: positions of the texts nearest to its centre, near duplicates left out.

    keywords: empty without texts.
    """

    number: int
    size: int
    nearest: Sequence[int]
    keywords: Sequence[str]


@dataclass(frozen=True, slots=True)
class Clustering:
    """Result of a clustering; cluster 0 is the largest.

    labels: (n,) number of each text's cluster, -1 for noise. centres: (k, d), means of the vectors at unit length.
    distances: (n,) Euclidean, to the centre of the own cluster, of noise to the nearest one. silhouette: the mean of
    all texts in clusters, -1 to 1; None for one cluster. tried: each k and its silhouette where k was chosen.
    """

    method: Method
    labels: Numbers
    centres: Floats
    distances: Floats
    silhouette: float | None
    tried: Sequence[tuple[int, float]]
    clusters: Sequence[Cluster]

    @property
    def n_noise(self) -> int:
        """Texts in no cluster."""
        return int(np.count_nonzero(self.labels == NOISE))


def cluster(
    vectors: Vectors,
    texts: Sequence[str] | None = None,
    *,
    method: Method = "kmeans",
    k: int | None = None,
    most: int = MOST_CLUSTERS,
    min_size: int = MIN_SIZE,
    components: int = COMPONENTS,
    seed: int = 0,
) -> Clustering:
    """Find groups of vectors, (n, d), whose directions are alike. Equal input gives equal output.

    k: of k-means; if None, that of 2 to `most` whose silhouette is highest. min_size, components: of HDBSCAN, the
    smallest cluster, and how many principal components it sees (0: the vectors themselves, in whose many dimensions it
    finds little).
    Raises InvalidInput for fewer than two texts, equal texts only, or more clusters than different texts.
    """
    rows = unit_rows(vectors, "clustering")
    if texts is not None:
        check_texts(texts, len(rows), "clustering")
    different = n_distinct(rows)
    if different == 1:
        raise InvalidInput(f"All {len(rows)} texts have the same vector: there is nothing to cluster.")
    tried: list[tuple[int, float]] = []
    with threads_for(rows):
        if method == "hdbscan":
            labels = _by_density(rows, min_size, components)
        elif k is not None:
            _check_k(k, different, len(rows))
            labels = _by_centres(rows, k, seed)
        else:
            labels, tried = _best(rows, min(most, different), seed)
        labels = _largest_first(labels)
        return _described(rows, labels, texts, method, tried, seed)


def _check_k(k: int, different: int, n: int) -> None:
    if k < 1:
        raise InvalidInput(f"{k} clusters were asked for; the least is 1.")
    if k > different:
        raise InvalidInput(
            f"{k} clusters were asked for, and {n} texts have {different} different vectors: ask for fewer."
        )


def _by_centres(rows: Floats, k: int, seed: int) -> Numbers:
    model = library("sklearn.cluster").KMeans(k, n_init=_STARTS, random_state=seed)
    return np.asarray(model.fit_predict(rows), dtype=np.intp)


def _best(rows: Floats, most: int, seed: int) -> tuple[Numbers, list[tuple[int, float]]]:
    """The clustering of the highest silhouette; of equal ones, that with fewer clusters."""
    if most == len(rows):
        most -= 1  # clusters of one text each have no silhouette
    if most < 2:
        return np.arange(len(rows), dtype=np.intp), []
    found = {k: _by_centres(rows, k, seed) for k in range(2, most + 1)}
    tried = [(k, score) for k, labels in found.items() if (score := _silhouette(rows, labels, seed)) is not None]
    best = max(tried, key=lambda each: (each[1], -each[0]))
    return found[best[0]], tried


def _by_density(rows: Floats, min_size: int, components: int) -> Numbers:
    if min_size < 2:
        raise InvalidInput(f"The smallest cluster cannot have {min_size} texts; the least is 2.")
    if min_size > len(rows):
        raise InvalidInput(f"The smallest cluster cannot have {min_size} texts: there are {len(rows)}.")
    seen = rows
    if 0 < components < min(rows.shape):
        seen = library("sklearn.decomposition").PCA(components, svd_solver="full").fit_transform(rows)
    model = library("sklearn.cluster").HDBSCAN(min_cluster_size=min_size, copy=True)
    return np.asarray(model.fit_predict(seen), dtype=np.intp)


def _silhouette(rows: Floats, labels: Numbers, seed: int) -> float | None:
    inside = labels != NOISE
    rows, labels = rows[inside], labels[inside]
    if not 2 <= len(np.unique(labels)) < len(rows):
        return None
    size = _SILHOUETTE_TEXTS if len(rows) > _SILHOUETTE_TEXTS else None
    return float(library("sklearn.metrics").silhouette_score(rows, labels, sample_size=size, random_state=seed))


def _largest_first(labels: Numbers) -> Numbers:
    """The same groups, numbered by their size, of equal ones by their first text."""
    numbers, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = [at for at in np.lexsort((first, -sizes)) if numbers[at] != NOISE]
    new = {int(numbers[at]): number for number, at in enumerate(order)}
    return np.array([new.get(int(label), NOISE) for label in labels], dtype=np.intp)


def _described(
    rows: Floats,
    labels: Numbers,
    texts: Sequence[str] | None,
    method: Method,
    tried: list[tuple[int, float]],
    seed: int,
) -> Clustering:
    k = int(labels.max()) + 1
    centres = np.array([rows[labels == number].mean(axis=0) for number in range(k)]).reshape(k, rows.shape[1])
    distances = to_centres(rows, centres, labels)
    found = keywords(texts, labels) if texts is not None else {}
    clusters = []
    for number in range(k):
        members = np.flatnonzero(labels == number)
        nearest = _typical(rows, members[np.argsort(distances[members], kind="stable")])
        clusters.append(Cluster(number, len(members), nearest, found.get(number, ())))
    return Clustering(method, labels, centres, distances, _silhouette(rows, labels, seed), tried, clusters)


def _typical(rows: Floats, by_distance: Numbers) -> list[int]:
    """The first few, without near duplicates of one another."""
    found: list[int] = []
    for position in by_distance.tolist():
        if all(rows[position] @ rows[other] < _ALIKE for other in found):
            found.append(position)
        if len(found) == _N_NEAREST:
            break
    return found


def to_centres(rows: Floats, centres: Floats, labels: Numbers) -> Floats:
    """(n,) distance of each row to the centre of its label; of noise, to the nearest one. Infinite without centres."""
    distances = np.full(len(rows), np.inf)
    for number, centre in enumerate(centres):
        chosen = (labels == number) | (labels == NOISE)
        distances[chosen] = np.minimum(distances[chosen], np.linalg.norm(rows[chosen] - centre, axis=1))
    return distances
