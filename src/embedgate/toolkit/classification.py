"""Classification without training: a text belongs to the label whose vector is nearest, or to none of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.prepared import Floats, Numbers, unit_rows
from embedgate.toolkit.scores import Scores

NONE_OF_THESE = "none of these"
NONE = -1

_LOSERS_SHARE = 75
"""Percentage of losing scores that lie below the automatic threshold. With described labels it left out 8 of 10
strangers among 300 messages, and 12 of the others; 90 left out all ten, and 45."""
_FEW_CONFUSED = 0.1
"""Share of a label's texts that went to another one, from which its description is to be blamed."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label, and the texts that stand for it: its name, a description, or examples."""

    name: str
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Classification:
    """The labels of n texts.

    scores: (n, k) cosine to each label. chosen: (n,) position of the best label, -1 for none of these. margins: (n,)
    how much better the best score is than the next. min_score: scores below it count as none of these.
    likeness: (k, k) cosines between labels.
    """

    names: Sequence[str]
    scores: Floats
    chosen: Numbers
    margins: Floats
    min_score: float
    is_automatic: bool
    likeness: Floats

    def name_of(self, position: int) -> str:
        """The label of a text, or `none of these`."""
        at = int(self.chosen[position])
        return NONE_OF_THESE if at == NONE else self.names[at]


@dataclass(frozen=True, slots=True)
class Confusion:
    """A label whose texts went to another one: n of its `of`. given: may be `none of these`."""

    truth: str
    given: str
    n: int
    of: int


def described(name: str, description: str | None = None) -> Label:
    """A label by its name and a description. Both together make a better target than either alone."""
    return Label(name, [f"{name}: {description}" if description else name])


def by_examples(pairs: Sequence[tuple[str, str]]) -> list[Label]:
    """Labels out of pairs of label and example, in the order in which they are first met."""
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        found.setdefault(name, []).append(text)
    return [Label(name, texts) for name, texts in found.items()]


def classify(
    vectors: Vectors, labels: Sequence[Label], label_vectors: Vectors, *, min_score: float | None = None
) -> Classification:
    """Give each text the label whose vector has the highest cosine to its own. vectors: (n, d).

    label_vectors: (m, d), of the texts of all labels in order; a label stands where the mean of its unit vectors is.
    min_score: a best score below it is none of these; if None, three of four scores of labels that lost are below it,
    so that a text that fits no label better than texts fit wrong ones has none. -1 lets every text have a label.
    Raises InvalidInput for fewer than two labels, two of the same name, or vectors of another number or size.
    """
    _check(labels, label_vectors, vectors)
    rows = unit_rows(vectors, "classification", least=1)
    of_texts = unit_rows(label_vectors, "classification", least=1)
    sizes = [len(label.texts) for label in labels]
    ends = np.cumsum(sizes)
    means = np.array([of_texts[end - size : end].mean(axis=0) for size, end in zip(sizes, ends, strict=True)])
    targets = unit_rows(means.astype(np.float64), "classification", least=1)
    scores = rows @ targets.T
    ordered = np.sort(scores, axis=1)
    threshold = float(np.percentile(ordered[:, :-1], _LOSERS_SHARE)) if min_score is None else min_score
    chosen = np.where(ordered[:, -1] < threshold, NONE, scores.argmax(axis=1)).astype(np.intp)
    names = [label.name for label in labels]
    margins = ordered[:, -1] - ordered[:, -2]
    return Classification(names, scores, chosen, margins, threshold, min_score is None, targets @ targets.T)


def _check(labels: Sequence[Label], label_vectors: Vectors, vectors: Vectors) -> None:
    names = [label.name for label in labels]
    if len(names) < 2:
        raise InvalidInput(f"Classification takes at least 2 labels; there {'is' if names else 'are'} {len(names)}.")
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InvalidInput(f"There is more than one label {double!r}.")
    if NONE_OF_THESE in names:
        raise InvalidInput(f"{NONE_OF_THESE!r} is what a text has that fits no label; give the others.")
    n_texts = sum(len(label.texts) for label in labels)
    if n_texts != len(label_vectors):
        raise InvalidInput(f"The labels have {n_texts} texts, and there are {len(label_vectors)} vectors of them.")
    if vectors.shape[1:] != label_vectors.shape[1:]:
        raise InvalidInput(f"Vectors of texts have the shape {vectors.shape}, those of labels {label_vectors.shape}.")


def confusions(scores: Scores) -> list[Confusion]:
    """Labels to describe better: those of which a tenth or more went to one other label, the largest numbers first."""
    found = []
    for at, name in enumerate(scores.names):
        support = scores.classes[at].support
        for to, other in enumerate(scores.names):
            n = int(scores.confusion[at, to])
            if to != at and name != NONE_OF_THESE and n > 1 and n >= _FEW_CONFUSED * support:
                found.append(Confusion(name, other, n, support))
    return sorted(found, key=lambda each: -each.n)
