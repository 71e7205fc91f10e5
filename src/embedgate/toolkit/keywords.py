"""Keywords of groups of texts by class-based TF-IDF: words that are frequent in one group and rare in others."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from embedgate.toolkit.libraries import library
from embedgate.toolkit.prepared import Numbers

_WORD = re.compile(r"[^\W\d_]{3,}")
_TOO_COMMON = 0.5
"""Words in more than this share of the texts are left out, in whatever language they are."""
_LEAST_TEXTS = 3


def words(text: str) -> list[str]:
    """The words of a text: runs of at least three letters, without case."""
    return [word.lower() for word in _WORD.findall(text)]


def keywords(texts: Sequence[str], labels: Numbers, n: int = 6) -> dict[int, list[str]]:
    """The `n` words of the highest class-based TF-IDF of each group, best first. labels: (n,) group of each text.

    The weight of a word in a group is tf * log(1 + A / f): its share of the group's words, the mean number of words in
    a group, and how often the word occurs in all. Common English words, words in more than half of the texts, and those
    that only one text of a large group has, are left out.
    """
    common = library("sklearn.feature_extraction.text").ENGLISH_STOP_WORDS
    n_texts_with: Counter[str] = Counter()
    counts: dict[int, Counter[str]] = {int(label): Counter() for label in labels}
    spread: dict[int, Counter[str]] = {label: Counter() for label in counts}
    sizes = Counter(int(label) for label in labels)
    for text, label in zip(texts, labels, strict=True):
        found = [word for word in words(text) if word not in common]
        counts[int(label)].update(found)
        spread[int(label)].update(set(found))
        n_texts_with.update(set(found))
    too_common = {word for word, seen in n_texts_with.items() if seen > max(2, _TOO_COMMON * len(texts))}
    totals: Counter[str] = Counter()
    for of_group in counts.values():
        for word in too_common:
            of_group.pop(word, None)
        totals.update(of_group)
    mean = sum(totals.values()) / len(counts)
    best = {}
    for label, of_group in counts.items():
        n_words = sum(of_group.values())
        weights = {
            word: seen / n_words * math.log(1 + mean / totals[word])
            for word, seen in of_group.items()
            if spread[label][word] > 1 or sizes[label] < _LEAST_TEXTS
        }
        best[label] = sorted(weights, key=lambda word: (-weights[word], word))[:n]
    return best
