"""Cutting by meaning: at the places where neighbouring sentences drift apart, found with an embedder."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedgate.core.ports import Embedder
from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit.embedding import embed_all
from embedgate.toolkit.outline import STUCK, Cut, Outline, sentences
from embedgate.toolkit.tokens import MeasuredText

_NEIGHBOURS = 3
"""Sentences on each side that are compared: one alone says little."""
_DEVIATIONS = 1.0
"""How far above the mean drift, in standard deviations, a place must be to be cut at even if both sides fit."""
_LEVELS = 16
"""Strengths of cuts: the strongest are taken first, those of one level together."""
_LEAST_TOKENS = 8
"""What has fewer goes with what follows: a word or two have no meaning to compare."""


class Drifts(NamedTuple):
    """Cuts as strong as the drift there, and the places where it is large enough to cut in any case."""

    cuts: list[Cut]
    always: list[int]


def drifts(found: Outline, measured: MeasuredText, embedder: Embedder, room: int) -> Drifts:
    """The drift at every place where a sentence, an item or a block begins.

    room: most tokens that are embedded at once. The drift is 1 minus the cosine between the mean vectors of up to three
    sentences before and after. Raises what the embedder raises.
    """
    places = _places(found, measured)
    if len(places) < 2:
        return Drifts([], [])
    texts = [_beginning(measured, start, end, room) for start, end in pairwise([*places, len(measured.text)])]
    drift = drift_of(normalise(embed_all(embedder, texts, "document")))
    order = np.argsort(np.argsort(drift, kind="stable"), kind="stable")
    cuts = [Cut(place, 1 + int(rank) * _LEVELS // len(drift)) for place, rank in zip(places[1:], order, strict=True)]
    threshold = drift.mean() + _DEVIATIONS * drift.std()
    padded = np.concatenate([[-np.inf], drift, [-np.inf]])
    is_peak = (drift > threshold) & (drift >= padded[:-2]) & (drift >= padded[2:])
    return Drifts(cuts, [place for place, is_cut in zip(places[1:], is_peak, strict=True) if is_cut])


def drift_of(vectors: Vectors) -> npt.NDArray[np.float64]:
    """The drift between each text and the next, (n - 1,). vectors: (n, d), rows of unit length."""
    sums = np.concatenate([np.zeros((1, vectors.shape[1])), np.cumsum(vectors, axis=0, dtype=np.float64)])
    at = np.arange(1, len(vectors))
    before = sums[at] - sums[np.maximum(at - _NEIGHBOURS, 0)]
    after = sums[np.minimum(at + _NEIGHBOURS, len(vectors))] - sums[at]
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosines: npt.NDArray[np.float64] = np.vecdot(before, after) / np.where(lengths == 0, 1, lengths)
    return 1 - cosines


def _beginning(measured: MeasuredText, start: int, end: int, room: int) -> str:
    """A unit, or as much of it as the embedder takes."""
    if measured.tokens(start, end) > room:
        end = max(measured.farthest(start, room), start + room)
    return measured.text[start:end]


def _places(found: Outline, measured: MeasuredText) -> list[int]:
    """Where units begin that are compared: sentences, items, blocks; headings go with what they head."""
    text = measured.text
    starts = {cut.offset for cut in found.cuts if cut.strength != STUCK} | set(sentences(text, 0, len(text)))
    places = [0]
    for start in sorted(starts):
        if start and measured.tokens(places[-1], start) >= _LEAST_TOKENS:
            places.append(start)
    return places
