"""Outliers: the numbers of scikit-learn, thresholds by their formula, planted texts that are found."""

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.clustering import cluster
from embedgate.toolkit.outliers import find_outliers


def crowd(n: int = 60, dim: int = 12, n_outliers: int = 3) -> Vectors:
    """Two groups of texts, and then some that belong to none."""
    random = np.random.default_rng(3)
    members = np.eye(dim)[np.arange(n) % 2] + 0.15 * random.standard_normal((n, dim))
    strangers = np.eye(dim)[5 : 5 + n_outliers] + 0.05 * random.standard_normal((n_outliers, dim))
    return np.concatenate([members, strangers]).astype(np.float32)


def test_densities_and_distances_are_those_of_scikit_learn() -> None:
    vectors = crowd()
    found = find_outliers(vectors, k=2, neighbours=10)
    rows = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    reference = LocalOutlierFactor(10).fit(rows)
    np.testing.assert_allclose(found.densities, -reference.negative_outlier_factor_, atol=1e-9)
    np.testing.assert_allclose(found.distances, cluster(vectors, k=2).distances, atol=1e-9)


@pytest.mark.parametrize("criterion", ["density", "distance", "both", "either"])
def test_texts_that_belong_to_no_group_are_found_first(criterion: str) -> None:
    found = find_outliers(crowd(), criterion=criterion, k=2)  # type: ignore[arg-type]  # one of its literals
    assert set(found.positions[:3]) == {60, 61, 62}
    assert found.reasons(60) == ["thin neighbourhood", "far from its cluster"]
    score = found.distances if criterion == "distance" else found.densities
    assert list(score[found.positions]) == sorted(score[found.positions], reverse=True)


def test_a_threshold_is_so_many_spreads_above_the_median() -> None:
    found = find_outliers(crowd(), spreads=4, k=2)
    for threshold, values in ((found.thin, found.densities), (found.far, found.distances)):
        spread = 1.4826 * np.median(abs(values - np.median(values)))
        assert threshold.value == pytest.approx(np.median(values) + 4 * spread, abs=1e-12)
    assert set(found.positions) == set(np.flatnonzero(found.densities > found.thin.value))


def test_a_cluster_of_few_is_no_norm() -> None:
    found = find_outliers(crowd(), criterion="distance", k=5)
    assert {60, 61, 62} <= set(found.positions)


def test_many_equal_texts_are_no_outliers() -> None:
    vectors = np.concatenate([np.repeat(crowd()[:1], 30, axis=0), crowd()])
    found = find_outliers(vectors, k=2)
    assert found.n_neighbours == 31
    assert np.isfinite(found.densities).all()
    assert {90, 91, 92} <= set(found.positions)
    assert not set(range(30)) & set(found.positions)


@pytest.mark.parametrize(
    ("vectors", "options", "said"),
    [
        (np.eye(4), {}, "at least 5 texts; there are 4"),
        (np.ones((6, 3)), {}, "All 6 texts have the same vector"),
        (np.eye(6), {"k": 7}, "ask for fewer"),
        (np.eye(6), {"spreads": 0.0}, "above 0"),
        (np.eye(6), {"neighbours": 0}, "the least is 1"),
    ],
)
def test_what_has_no_outliers_is_refused(vectors: Vectors, options: dict, said: str) -> None:  # type: ignore[type-arg]  # options of any kind
    with pytest.raises(InvalidInput, match=said):
        find_outliers(vectors, **options)
