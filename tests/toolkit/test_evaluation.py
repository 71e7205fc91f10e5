"""Evaluation: measures beside ir-measures, encodings beside brute force, verdicts that can be trusted."""

from collections.abc import Sequence

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, P, R, nDCG
from sklearn.metrics import ndcg_score

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit import ranking
from embedgate.toolkit.evaluation import Encoding, Evaluation, Source, evaluate
from embedgate.toolkit.search_time import ms_per_million
from embedgate.toolkit.verdicts import conclusions, curve_png


def unit(n: int, dim: int, seed: int) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def pairs(n: int, noise: float, dim: int = 32) -> tuple[Vectors, Vectors, list[list[int]]]:
    """Questions near their right text."""
    texts = unit(n, dim, 1)
    return texts, texts + noise * unit(n, dim, 2), [[at] for at in range(n)]


def test_measures_are_those_of_a_metric_library() -> None:
    random = np.random.default_rng(3)
    scores = random.standard_normal((25, 40))
    relevant = [random.choice(40, size=int(random.integers(1, 15)), replace=False).tolist() for _ in range(25)]
    hits = ranking.is_relevant(ranking.rankings(scores), relevant)
    n_relevant = np.array([len(each) for each in relevant], dtype=np.float64)
    own = {
        **{R @ k: ranking.recall(hits, n_relevant, k) for k in ranking.DEPTHS},
        **{P @ k: ranking.precision(hits, k) for k in ranking.DEPTHS},
        RR: ranking.reciprocal_rank(hits),
        nDCG @ 10: ranking.ndcg(hits, n_relevant),
    }
    judged = {str(at): {str(text): 1 for text in each} for at, each in enumerate(relevant)}
    run = {str(at): {str(text): float(score) for text, score in enumerate(row)} for at, row in enumerate(scores)}
    for result in ir_measures.iter_calc(list(own), judged, run):
        assert own[result.measure][int(result.query_id)] == pytest.approx(result.value, abs=1e-9)
    truth = np.array([[float(text in each) for text in range(40)] for each in relevant])
    assert ranking.ndcg(hits, n_relevant).mean() == pytest.approx(ndcg_score(truth, scores, k=10), abs=1e-9)


def test_a_question_without_a_hit_has_no_reciprocal_rank() -> None:
    assert ranking.reciprocal_rank(np.array([[0.0, 0.0], [0.0, 1.0]])).tolist() == [0, 0.5]


def test_an_interval_is_that_of_resampled_means() -> None:
    values = np.random.default_rng(1).random((200, 2))
    means = ranking.bootstrap_means(values, seed=4)
    low, high = ranking.interval(means[:, 0])
    assert low < values[:, 0].mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * values[:, 0].std() / np.sqrt(200), rel=0.1)
    np.testing.assert_array_equal(means, ranking.bootstrap_means(values, seed=4))


def test_a_search_takes_time_in_every_encoding() -> None:
    found = evaluate([Source("m", unit(5, 16, 1))], dims=[8])
    assert all(np.isfinite(each.ms_per_search) and each.ms_per_search > 0 for each in found.settings)
    with pytest.raises(InvalidInput, match="int4 is not one of float32, int8, binary"):
        ms_per_million(unit(5, 16, 1), "int4")


@pytest.mark.parametrize("n", [10, 50, 300])
def test_what_is_said_of_a_loss_depends_on_how_many_questions_show_it(n: int) -> None:
    """One question in twenty loses its text: 10 and 50 questions are too few, 300 tell."""
    texts = np.eye(n, dtype=np.float32)
    texts = np.concatenate([np.ones((n, 1), np.float32), texts], axis=1)
    questions = texts.copy()
    lost = np.arange(n) % 20 == 3
    questions[lost] = np.roll(texts, 1, axis=0)[lost] + 0.9 * texts[lost]
    good, bad = Source("good", texts, texts), Source("bad", texts, questions)
    found = evaluate([good, bad], relevant=[[at] for at in range(n)], dims=[], encodings=["float32"])
    (between,) = found.between_models
    assert between.verdict == {10: "too few to tell", 50: "too few to tell", 300: "worse"}[n]
    low, high = between.difference_interval
    assert low <= between.difference <= high <= 0


@pytest.mark.parametrize("encoding", ["float32", "int8", "binary"])
def test_every_setting_ranks_as_brute_force_does(encoding: Encoding) -> None:
    texts, questions, relevant = pairs(40, 2.0)
    found = evaluate([Source("m", texts, questions)], relevant=relevant, dims=[16], encodings=[encoding])
    setting = next(each for each in found.settings if (each.dim, each.encoding) == (16, encoding))
    ranks = []
    for question in range(40):
        scores = [_score(questions[question, :16], text[:16], encoding) for text in texts]
        ranks.append(1 + sum(
            score > scores[question] or (score == scores[question] and at < question) for at, score in enumerate(scores)
        ))  # fmt: skip
    assert setting.means["MRR"] == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-9)
    assert setting.means["recall@5"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]), abs=1e-9)
    assert setting.bytes_per_million == 16_000_000 * {"float32": 4, "int8": 1, "binary": 0.125}[encoding]


def _score(first: Vectors, second: Vectors, encoding: Encoding) -> float:
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    if encoding == "binary":
        return float(np.sum((first > 0) == (second > 0)))
    if encoding == "int8":
        return float(np.rint(first * 127) @ np.rint(second * 127))
    return float(first @ second)


def test_texts_ask_for_those_of_their_label() -> None:
    texts = np.repeat(np.eye(8, dtype=np.float32)[:2], 4, axis=0) + 0.01 * unit(8, 8, 1)
    found = evaluate([Source("m", np.concatenate([texts, unit(1, 8, 9)]))], labels=["a"] * 4 + ["b"] * 4 + ["c"])
    assert (found.kind, found.n_questions, found.n_texts) == ("labels", 8, 9)
    assert found.settings[0].means["precision@1"] == 1
    assert found.settings[0].means["precision@5"] == pytest.approx(3 / 5)


def test_texts_without_a_label_are_found_and_ask_nothing() -> None:
    texts = np.repeat(np.eye(8, dtype=np.float32)[:2], 4, axis=0) + 0.01 * unit(8, 8, 1)
    found = evaluate([Source("m", texts)], labels=["a", "a", "a", None, "b", "b", "b", None])
    assert (found.n_questions, found.n_texts) == (6, 8)
    assert found.settings[0].means["precision@5"] == pytest.approx(2 / 5)
    with pytest.raises(InvalidInput, match="There are 1 labels"):
        evaluate([Source("m", texts)], labels=["a", "a"] + [None] * 6)


def test_texts_alone_are_measured_by_the_neighbours_that_stay() -> None:
    texts = unit(60, 32, 3)
    found = evaluate([Source("m", texts)], dims=[16], encodings=["float32"])
    full, half = found.settings
    assert list(full.means.values()) == pytest.approx([1.0] * 5)
    kept = []
    for at in range(60):
        near = [set(np.argsort(-np.delete(_cosines(texts[:, :dim], at), at), kind="stable")[:10]) for dim in (32, 16)]
        kept.append(len(near[0] & near[1]) / 10)
    assert half.means["agreement@10"] == pytest.approx(np.mean(kept), abs=1e-9)
    (sentence,) = conclusions(found)
    assert sentence.startswith(f"16 of 32 as float32 keeps {np.mean(kept) * 10:.1f} of the 10 nearest neighbours")
    assert sentence.endswith("No smaller setting keeps nine.")


def _cosines(texts: Vectors, at: int) -> np.ndarray:
    rows = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    return np.asarray(rows @ rows[at])


def of(n: int, noise: float = 0.1, dims: Sequence[int] = (64,)) -> Evaluation:
    texts, questions, relevant = pairs(n, noise, 128)
    return evaluate([Source("m", texts, questions)], relevant=relevant, dims=dims, encodings=["float32"])


def test_a_smaller_size_that_loses_nothing_is_named_with_its_space() -> None:
    found = of(100)
    assert [each.verdict for each in found.settings] == ["reference", "no difference"]
    assert conclusions(found) == [
        "64 of 128 as float32: no difference that these 100 questions show, half the space "
        "(nDCG@10 +0.000, +0.000 to +0.000)."
    ]


def test_few_questions_do_not_prove_that_there_is_no_difference() -> None:
    found = of(20)
    assert found.settings[1].verdict == "too few to tell"
    assert conclusions(found) == [
        "Too few questions to tell about 64 of 128 as float32: with 20, a loss of 0.15 is not ruled out. Ask about 180."
    ]


def test_a_size_that_loses_is_worse() -> None:
    found = of(100, noise=1.5, dims=(8,))
    assert [each.verdict for each in found.settings] == ["reference", "worse"]
    assert conclusions(found)[0].startswith("Every smaller setting is worse; 8 of 128 as float32 loses least")


def test_models_are_compared_at_full_size() -> None:
    texts, questions, relevant = pairs(100, 1.5)
    good, bad = Source("good", texts, texts + 0.1 * unit(100, 32, 4)), Source("bad", texts, questions)
    found = evaluate([bad, good], relevant=relevant, dims=[], encodings=["float32"])
    assert [each.verdict for each in found.between_models] == ["better"]
    assert conclusions(found)[-1].startswith("good against bad: better in these 100 questions (nDCG@10 +")
    assert conclusions(evaluate([good, bad], relevant=relevant, dims=[], encodings=["float32"]))[-1].startswith(
        "bad against good: worse"
    )
    few = evaluate(
        [Source("a", texts[:9], texts[:9]), Source("b", texts[:9], texts[:9])], relevant=relevant[:9], dims=[]
    )
    assert "b against a: Too few questions to tell" in conclusions(few)[-1]


def test_a_curve_is_a_picture() -> None:
    assert curve_png(of(20))[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dims": [99]}, "m has 32 dimensions; sizes are 1 to 32, not 99"),
        ({"dims": [0]}, "not 0"),
        ({"dims": [12], "encodings": ["binary"]}, "multiple of 8, not 12"),
        ({"labels": ["a"] * 30}, "There are 1 labels"),
        ({"labels": ["a"] * 3}, "3 labels for 30 texts"),
        ({"relevant": [[0]] * 3}, "another number"),
        ({"relevant": [[]] * 30}, "no right text"),
        ({"relevant": [[0]] * 30, "labels": ["a"] * 30}, "not both"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(options: dict, said: str) -> None:  # type: ignore[type-arg]  # options of any kind
    with pytest.raises(InvalidInput, match=said):
        evaluate([Source("m", unit(30, 32, 1))], **options)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 3 texts; there are 2"):
        evaluate([Source("m", unit(2, 8, 1))])
    with pytest.raises(InvalidInput, match="at least one model"):
        evaluate([])
    with pytest.raises(InvalidInput, match="m is named twice"):
        evaluate([Source("m", unit(5, 8, 1)), Source("m", unit(5, 8, 1))])
