"""Clusters: the numbers of scikit-learn, groups that are there, keywords by the formula, and what is refused."""

import math
from collections import Counter

import numpy as np
import pytest
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.metrics import adjusted_rand_score, silhouette_samples

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.clustering import cluster
from embedgate.toolkit.keywords import keywords

SIZES = (40, 25, 15)


def groups(sizes: tuple[int, ...] = SIZES, dim: int = 16, spread: float = 0.25) -> tuple[Vectors, list[int]]:
    """Vectors around one axis per group, of any length."""
    random = np.random.default_rng(5)
    labels = [group for group, size in enumerate(sizes) for _ in range(size)]
    vectors = np.eye(dim)[labels] + spread * random.standard_normal((len(labels), dim))
    return (vectors * random.uniform(0.5, 2, (len(labels), 1))).astype(np.float32), labels


def axes(n: int) -> Vectors:
    return np.eye(n, dtype=np.float32)


def unit(vectors: Vectors) -> np.ndarray:
    rows = vectors.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1)[:, np.newaxis]
    return rows


def test_k_means_is_that_of_scikit_learn() -> None:
    vectors, _ = groups()
    found = cluster(vectors, k=4, seed=3)
    reference = KMeans(4, n_init=5, random_state=3).fit(unit(vectors))
    assert adjusted_rand_score(reference.labels_, found.labels) == 1
    order = [reference.labels_[found.labels == number][0] for number in range(4)]
    np.testing.assert_allclose(found.centres, reference.cluster_centers_[order], atol=1e-9)
    distances = np.take_along_axis(reference.transform(unit(vectors)), reference.labels_[:, np.newaxis], 1)[:, 0]
    np.testing.assert_allclose(found.distances, distances, atol=1e-9)
    assert found.silhouette == pytest.approx(silhouette_samples(unit(vectors), reference.labels_).mean(), abs=1e-9)


def test_k_is_that_of_the_highest_silhouette_and_the_largest_cluster_is_first() -> None:
    vectors, labels = groups()
    found = cluster(vectors, most=6)
    assert adjusted_rand_score(labels, found.labels) == 1
    assert [each.size for each in found.clusters] == list(SIZES)
    best = max(found.tried, key=lambda each: each[1])
    assert best[0] == 3
    assert best[1] == found.silhouette
    again = cluster(vectors, most=6)
    np.testing.assert_array_equal(found.centres, again.centres)


@pytest.mark.parametrize("components", [0, 4])
def test_hdbscan_is_that_of_scikit_learn(components: int) -> None:
    vectors, labels = groups(spread=0.1)
    found = cluster(vectors, method="hdbscan", components=components)
    seen = PCA(components, svd_solver="full").fit_transform(unit(vectors)) if components else unit(vectors)
    reference = HDBSCAN(min_cluster_size=5, copy=True).fit_predict(seen)
    assert adjusted_rand_score(reference, found.labels) == 1
    assert found.n_noise == np.count_nonzero(reference == -1)
    assert adjusted_rand_score(labels, found.labels) > 0.8
    assert np.isfinite(found.distances).all()


def test_where_nothing_is_dense_all_is_noise() -> None:
    random = np.random.default_rng(1).standard_normal((30, 64)).astype(np.float32)
    found = cluster(random, method="hdbscan", min_size=20)
    assert (found.n_noise, list(found.clusters), found.silhouette) == (30, [], None)


def test_the_most_typical_texts_are_those_nearest_to_the_centre_but_no_duplicates() -> None:
    vectors, _ = groups(spread=0.5)
    vectors = np.concatenate([vectors, vectors[:1], vectors[:1]])
    found = cluster(vectors, k=3)
    for each in found.clusters:
        members = np.flatnonzero(found.labels == each.number)
        assert found.distances[each.nearest[0]] == found.distances[members].min()
        assert {0, len(vectors) - 2, len(vectors) - 1} & set(each.nearest) in (set(), {0})


def test_keywords_have_the_highest_class_based_tf_idf() -> None:
    random = np.random.default_rng(2)
    vocabulary = ["parcel", "late", "courier", "invoice", "tax", "refund", "login", "password", "crash", "the", "and"]
    labels = np.arange(60) % 3
    texts = [" ".join(random.choice(np.roll(vocabulary[:9], 3 * label)[:6], 2)) + " the and" for label in labels]
    docs = [Counter(" ".join(np.array(texts)[labels == group]).split()) for group in range(3)]
    docs = [Counter({word: n for word, n in doc.items() if word not in ENGLISH_STOP_WORDS}) for doc in docs]
    mean = sum(doc.total() for doc in docs) / 3
    for group, doc in enumerate(docs):
        weights = {w: n / doc.total() * math.log(1 + mean / sum(each[w] for each in docs)) for w, n in doc.items()}
        assert keywords(texts, labels, 4)[group] == sorted(weights, key=lambda word: (-weights[word], word))[:4]


def test_keywords_are_no_words_of_most_texts_nor_of_one_text() -> None:
    texts = ["parcel late", "parcel late now", "parcel slow", "invoice wrong"]
    assert keywords(texts, np.array([0, 0, 0, 1])) == {0: ["late"], 1: ["invoice", "wrong"]}
    assert keywords(["Über Straße", "straße"], np.array([0, 0])) == {0: ["straße", "über"]}
    assert keywords(["1 2", "3"], np.array([0, 1])) == {0: [], 1: []}


@pytest.mark.parametrize(
    ("vectors", "options", "said"),
    [
        (np.ones((1, 4)), {}, "at least 2 texts; there is 1"),
        (np.ones((3, 4)), {}, "All 3 texts have the same vector"),
        (np.eye(3), {"k": 4}, "4 clusters were asked for, and 3 texts have 3 different vectors"),
        (np.eye(3), {"k": 0}, "the least is 1"),
        (np.eye(3), {"method": "hdbscan", "min_size": 9}, "there are 3"),
        (np.eye(3), {"method": "hdbscan", "min_size": 1}, "the least is 2"),
        (np.zeros((3, 4)), {}, "text 1 is zero"),
        (np.full((3, 4), np.nan), {}, "text 1 is zero or not finite"),
        (np.ones(4), {}, "as an array"),
        (np.eye(3), {"texts": ["a"]}, "1 texts for 3 vectors"),
    ],
)
def test_what_cannot_be_clustered_is_refused(vectors: Vectors, options: dict, said: str) -> None:  # type: ignore[type-arg]  # options of any kind
    with pytest.raises(InvalidInput, match=said):
        cluster(vectors.astype(np.float32), **options)


def test_few_texts_have_clusters() -> None:
    assert [each.size for each in cluster(axes(2)).clusters] == [1, 1]
    assert len(cluster(axes(3)).clusters) == 2
    assert len(cluster(axes(3), k=1).clusters) == 1
