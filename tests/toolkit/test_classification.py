"""Labels of texts: scores beside scikit-learn, none of these, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support
from sklearn.metrics.pairwise import cosine_similarity

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.classification import (
    NONE_OF_THESE,
    Confusion,
    Label,
    by_examples,
    classify,
    confusions,
    described,
)
from embedgate.toolkit.scores import score

LABELS = [Label("a", ["one", "two", "three"]), Label("b", ["four"]), Label("c", ["five", "six"])]


def vectors(n: int, seed: int, dim: int = 6) -> Vectors:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def test_scores_are_cosines_to_the_mean_of_each_labels_texts() -> None:
    texts, of_labels = vectors(40, 1), vectors(6, 2)
    found = classify(texts, LABELS, of_labels)
    unit = of_labels.astype(np.float64) / np.linalg.norm(of_labels.astype(np.float64), axis=1, keepdims=True)
    means = np.array([unit[:3].mean(axis=0), unit[3], unit[4:].mean(axis=0)])
    reference = cosine_similarity(texts.astype(np.float64), means)
    np.testing.assert_allclose(found.scores, reference, atol=1e-9)
    np.testing.assert_allclose(found.likeness, cosine_similarity(means), atol=1e-9)
    ordered = np.sort(reference, axis=1)
    np.testing.assert_allclose(found.margins, ordered[:, 2] - ordered[:, 1], atol=1e-9)
    assert found.min_score == pytest.approx(np.percentile(ordered[:, :2], 75), abs=1e-9)
    assert found.is_automatic
    expected = np.where(ordered[:, 2] < found.min_score, -1, reference.argmax(axis=1))
    np.testing.assert_array_equal(found.chosen, expected)
    assert {found.name_of(at) for at in range(40)} == {"a", "b", "c", NONE_OF_THESE}


def test_a_threshold_of_minus_one_leaves_no_text_without_a_label() -> None:
    found = classify(vectors(40, 1), LABELS, vectors(6, 2), min_score=-1)
    assert (found.chosen >= 0).all()
    assert not found.is_automatic
    assert (classify(vectors(40, 1), LABELS, vectors(6, 2), min_score=1).chosen == -1).all()


def test_labels_come_from_names_descriptions_and_examples() -> None:
    assert described("a").texts == ["a"]
    assert described("a", "what it is").texts == ["a: what it is"]
    assert by_examples([("b", "one"), ("a", "two"), ("b", "three")]) == [
        Label("b", ["one", "three"]),
        Label("a", ["two"]),
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_scores_against_true_labels_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    truth, chosen = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    names = list("abcd")
    found = score(truth, chosen, names)
    np.testing.assert_array_equal(found.confusion, confusion_matrix(truth, chosen, labels=names))
    assert found.accuracy == pytest.approx(accuracy_score(truth, chosen), abs=1e-9)
    macro = f1_score(truth, chosen, labels=names, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(macro, abs=1e-9)
    reference = precision_recall_fscore_support(truth, chosen, labels=names, zero_division=0)
    for each, *expected in zip(found.classes, *reference, strict=True):
        assert [each.precision, each.recall, each.f1, each.support] == pytest.approx(expected, abs=1e-9)


def test_labels_that_lose_a_tenth_to_another_are_named() -> None:
    truth = ["a"] * 20 + ["b"] * 5 + [NONE_OF_THESE] * 5
    chosen = ["a"] * 15 + ["b"] * 4 + [NONE_OF_THESE] + ["b"] * 3 + [NONE_OF_THESE] * 2 + ["a"] * 5
    found = confusions(score(truth, chosen, ["a", "b", NONE_OF_THESE]))
    assert found == [Confusion("a", "b", 4, 20), Confusion("b", NONE_OF_THESE, 2, 5)]


@pytest.mark.parametrize(
    ("labels", "n", "dim", "said"),
    [
        ([], 0, 6, "at least 2 labels; there are 0"),
        (LABELS[:1], 3, 6, "at least 2 labels; there is 1"),
        ([LABELS[1], LABELS[1]], 2, 6, "more than one label 'b'"),
        ([LABELS[1], Label(NONE_OF_THESE, ["x"])], 2, 6, "give the others"),
        (LABELS, 5, 6, "6 texts, and there are 5 vectors"),
        (LABELS, 6, 5, "have the shape"),
    ],
)
def test_what_cannot_be_classified_is_refused(labels: list[Label], n: int, dim: int, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        classify(vectors(4, 1), labels, vectors(n, 2, dim))


def test_scores_of_labels_that_are_not_known_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"Unknown labels: x. Known are a, b"):
        score(["a", "x"], ["a", "b"], ["a", "b"])
    with pytest.raises(InvalidInput, match="1 true labels for 2 texts"):
        score(["a"], ["a", "b"], ["a", "b"])
