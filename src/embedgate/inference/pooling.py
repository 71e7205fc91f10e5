"""Pooling of token vectors to one vector per text, and the steps after it, as sentence-transformers computes them.

Pure functions over float32 arrays. A row of a result depends on its own tokens only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedgate.core.vectors import Vectors, normalise
from embedgate.inference.modules import Activation, PoolingMode

Mask = npt.NDArray[np.bool_]
TokenVectors = npt.NDArray[np.float32]

_ACTIVATIONS: Mapping[Activation, Callable[[Vectors], Vectors]] = {
    "Identity": lambda values: values,
    "Tanh": np.tanh,
    "ReLU": lambda values: np.maximum(values, 0),
    "Sigmoid": lambda values: (1 / (1 + np.exp(-values))).astype(np.float32, copy=False),
}


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A loaded dense layer. kernel: (n_in, n_out) float32. bias: (n_out,) float32."""

    kernel: Vectors
    bias: Vectors | None
    activation: Activation

    def apply(self, vectors: Vectors) -> Vectors:
        """The layer's output. vectors: (n, n_in). Returns (n, n_out) float32."""
        product = vectors @ self.kernel
        if self.bias is not None:
            product += self.bias
        return _ACTIVATIONS[self.activation](product)


def pool(tokens: TokenVectors, mask: Mask, modes: Sequence[PoolingMode]) -> Vectors:
    """The vectors of the modes side by side. tokens: (n, t, d); mask: (n, t), true where a token counts.

    A row whose mask has no token gives zeros, except for the first token, which is then that at place 0.
    Returns (n, d * modes) float32.
    """
    parts = [_POOLS[mode](tokens, mask) for mode in modes]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def finish(vectors: Vectors, steps: Sequence[DenseLayer | None]) -> Vectors:
    """The steps in their order, None for scaling to unit length, then unit length in any case."""
    for step in steps:
        vectors = normalise(vectors) if step is None else step.apply(vectors)
    return normalise(vectors)


def _sums(tokens: TokenVectors, weights: npt.NDArray[np.float32]) -> Vectors:
    sums: Vectors = (weights[:, np.newaxis, :] @ tokens)[:, 0, :]
    return sums


def _mean(tokens: TokenVectors, mask: Mask) -> Vectors:
    weights = mask.astype(np.float32)
    counts = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    mean: Vectors = _sums(tokens, weights) / counts
    return mean


def _mean_sqrt_len(tokens: TokenVectors, mask: Mask) -> Vectors:
    weights = mask.astype(np.float32)
    counts = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    mean: Vectors = _sums(tokens, weights) / np.sqrt(counts)
    return mean


def _weighted_mean(tokens: TokenVectors, mask: Mask) -> Vectors:
    weights = mask.astype(np.float32) * np.arange(1, mask.shape[1] + 1, dtype=np.float32)
    mean: Vectors = _sums(tokens, weights) / np.maximum(weights.sum(axis=1, keepdims=True), 1)
    return mean


def _max(tokens: TokenVectors, mask: Mask) -> Vectors:
    highest: Vectors = np.where(mask[:, :, np.newaxis], tokens, np.float32(-np.inf)).max(axis=1)
    highest[~mask.any(axis=1)] = 0
    return highest


def _first(tokens: TokenVectors, mask: Mask) -> Vectors:
    first: Vectors = tokens[np.arange(len(tokens)), mask.argmax(axis=1)]
    return first


def _last(tokens: TokenVectors, mask: Mask) -> Vectors:
    places = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    last: Vectors = tokens[np.arange(len(tokens)), places] * mask.any(axis=1, keepdims=True)
    return last


_POOLS: Mapping[PoolingMode, Callable[[TokenVectors, Mask], Vectors]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
