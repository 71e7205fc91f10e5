"""Scores of a classification against true labels: accuracy, precision, recall and F1 per class, confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedgate.core.errors import InvalidInput
from embedgate.toolkit.prepared import Numbers


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How well one class is found. support: texts that truly belong to it. A share without texts to count is 0."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of n texts.

    classes: in the order of `names`. macro_f1: the mean over the classes. confusion: (k, k) counts, true class by row,
    given class by column.
    """

    names: Sequence[str]
    accuracy: float
    macro_f1: float
    classes: Sequence[ClassScore]
    confusion: Numbers


def score(truth: Sequence[str], given: Sequence[str], names: Sequence[str]) -> Scores:
    """Compare the classes that texts were given with the true ones. names: all classes, in the order of the result.

    Raises InvalidInput if there are no texts, as many true as given ones are not there, or a class is not in `names`.
    """
    if not truth or len(truth) != len(given):
        raise InvalidInput(f"There are {len(truth)} true labels for {len(given)} texts.")
    number = {name: at for at, name in enumerate(names)}
    unknown = sorted({*truth, *given} - number.keys())
    if unknown:
        raise InvalidInput(f"Unknown labels: {', '.join(unknown)}. Known are {', '.join(names)}.")
    confusion = np.zeros((len(names), len(names)), dtype=np.intp)
    np.add.at(confusion, ([number[name] for name in truth], [number[name] for name in given]), 1)
    classes = []
    for at, name in enumerate(names):
        right, n_true, n_given = int(confusion[at, at]), int(confusion[at].sum()), int(confusion[:, at].sum())
        f1 = 2 * right / (n_true + n_given) if n_true + n_given else 0.0
        classes.append(ClassScore(name, _share(right, n_given), _share(right, n_true), f1, n_true))
    accuracy = float(np.trace(confusion)) / len(truth)
    return Scores(names, accuracy, sum(each.f1 for each in classes) / len(classes), classes, confusion)


def _share(n: int, of: int) -> float:
    return n / of if of else 0.0
