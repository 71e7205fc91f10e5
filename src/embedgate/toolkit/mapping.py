"""Maps of texts: two coordinates for each, its nearest neighbours, and a table that other viewers open."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.libraries import library
from embedgate.toolkit.prepared import Floats, Numbers, n_distinct, threads_for, unit_rows
from embedgate.toolkit.records import Record, Scalar
from embedgate.toolkit.writing import metadata_columns, typed_column

Layout = Literal["tsne", "pca"]

NEIGHBOURS = 10
_PERPLEXITY = 30
_LEAST_FOR_TSNE = 8
"""Below it, neighbourhoods mean nothing, and principal components show the same."""
_EXACT = 5_000
"""Texts up to which the neighbours of t-SNE are exact; the search for more is by an index, with the same seed."""
_BLOCK = 1_024


@dataclass(frozen=True, slots=True)
class Map:
    """Coordinates of n texts, (n, 2), and the k nearest neighbours of each: positions (n, k) and cosines (n, k).

    explained: share of the variance that is seen, of principal components; None for t-SNE.
    """

    layout: Layout
    coordinates: Floats
    neighbours: Numbers
    cosines: Floats
    explained: float | None


def make_map(
    vectors: Vectors,
    *,
    layout: Layout = "tsne",
    neighbours: int = NEIGHBOURS,
    perplexity: float = _PERPLEXITY,
    seed: int = 0,
) -> Map:
    """Lay texts out in two dimensions, so that similar ones are near. vectors: (n, d). Equal input gives equal output.

    tsne: shows which texts are together; distances between far groups mean little. pca: the two directions in which the
    vectors differ most, for fewer than eight texts always. perplexity: of t-SNE, about how many neighbours count.
    Raises InvalidInput for fewer than two texts, or equal texts only.
    """
    rows = unit_rows(vectors, "a map")
    if n_distinct(rows) == 1:
        raise InvalidInput(f"All {len(rows)} texts have the same vector: a map would be one point.")
    if perplexity < 1:
        raise InvalidInput(f"perplexity is {perplexity:g}; the least is 1.")
    nearest, cosines = nearest_neighbours(rows, min(neighbours, len(rows) - 1))
    coordinates, explained = _principal(rows)
    if layout == "pca" or len(rows) < _LEAST_FOR_TSNE:
        return Map("pca", coordinates, nearest, cosines, explained)
    with threads_for(rows):
        return Map("tsne", _tsne(rows, coordinates, perplexity, seed), nearest, cosines, None)


def nearest_neighbours(rows: Floats, k: int) -> tuple[Numbers, Floats]:
    """The `k` other rows of the highest cosine, best first, and these cosines; both (n, k). rows: (n, d), unit length.

    Of equal ones, the first in order. Computed in blocks: memory grows with n, not with its square.
    """
    nearest = np.empty((len(rows), k), dtype=np.intp)
    cosines = np.empty((len(rows), k))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK] @ rows.T
        at = np.arange(len(block))
        block[at, start + at] = -np.inf
        nearest[start : start + _BLOCK] = np.argsort(-block, axis=1, kind="stable")[:, :k]
        cosines[start : start + _BLOCK] = np.take_along_axis(block, nearest[start : start + _BLOCK], axis=1)
    return nearest, cosines


def _principal(rows: Floats) -> tuple[Floats, float]:
    """The first two principal components, (n, 2), each with its largest number positive; and the variance they show."""
    centred = rows - rows.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    found = np.zeros((len(rows), 2))
    shown = centred @ axes[:, ::-1][:, :2]
    found[:, : shown.shape[1]] = shown
    at = np.abs(found).argmax(axis=0)
    found *= np.where(found[at, [0, 1]] < 0, -1, 1)
    return found, float(values[::-1][:2].sum() / values.sum())


def _tsne(rows: Floats, start: Floats, perplexity: float, seed: int) -> Floats:
    """By openTSNE, from the principal components: groups keep their places from run to run."""
    model = library("openTSNE").TSNE(
        perplexity=min(perplexity, (len(rows) - 1) / 3),
        metric="cosine",
        neighbors="exact" if len(rows) <= _EXACT else "annoy",
        initialization=start / start[:, 0].std() * 1e-4,
        negative_gradient_method="bh" if len(rows) <= _EXACT else "fft",
        n_jobs=1,  # more threads add up in another order, and the map would differ from run to run
        random_state=seed,
    )
    return np.asarray(model.fit(rows), dtype=np.float64)


def map_table(found: Map, records: Sequence[Record], groups: Sequence[Scalar] | None = None) -> Any:
    """A map as an Arrow table: id, text, x, y, group, the metadata, and `neighbors`: `ids` and `distances` of each.

    ids are row numbers, counted from 0, distances 1 minus the cosine. Embedding Atlas reads `neighbors`; any reader of
    Parquet opens the rest.
    """
    arrow = library("pyarrow")
    k = found.neighbours.shape[1]
    columns = {
        "id": arrow.array([record.id for record in records], arrow.string()),
        "text": arrow.array([record.text for record in records], arrow.string()),
        "x": arrow.array(found.coordinates[:, 0]),
        "y": arrow.array(found.coordinates[:, 1]),
    }
    if groups is not None:
        columns["group"] = arrow.array([None if group is None else str(group) for group in groups], arrow.string())
    for name, kind in metadata_columns(records).items():
        if name not in columns:
            columns[name] = typed_column([record.metadata.get(name) for record in records], kind)
    offsets = arrow.array(np.arange(len(records) + 1, dtype=np.int32) * k)
    columns["neighbors"] = arrow.StructArray.from_arrays(
        [
            arrow.ListArray.from_arrays(offsets, arrow.array(found.neighbours.ravel().astype(np.int64))),
            arrow.ListArray.from_arrays(offsets, arrow.array(1 - found.cosines.ravel())),
        ],
        ["ids", "distances"],
    )
    return arrow.table(columns)
