"""Static embeddings: the vector of a text is the mean of its tokens' rows in a table, at unit length.

The table of WordLlama is read without that package's code. No attention, padding or batches: a text takes a few
microseconds, most of them in its tokenizer.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors, normalise
from embedgate.inference.batching import Rows, cut_in_order
from embedgate.inference.tensors import Tensors
from embedgate.inference.tokenizer import TokenRow

_RUN_TOKENS = 4096  # about a millisecond, during which the GIL is mostly held


class StaticTable:
    """Static embedding table. `embed` may be called from any thread; it uses one core."""

    def __init__(self, weights_file: Path, *, n_rows: int, dim: int) -> None:
        """Read the tensor `embedding.weight`, (n_rows, dim), into memory as float32.

        Raises ConfigError if the file is damaged or of another shape, DependencyMissing without safetensors.
        """
        self._table = Tensors(weights_file).get("embedding.weight", n_rows, dim)
        self.dim = dim

    def cut(self, lengths: Sequence[int]) -> list[Rows]:
        """Split into runs, in order; without padding there is no need to sort."""
        return cut_in_order(lengths, _RUN_TOKENS)

    def embed(self, rows: Sequence[TokenRow], n_prompt_tokens: int = 0) -> Vectors:  # noqa: ARG002 - it has no prompt
        """Embed one run. Returns (n, dim) float32, unit rows, in order.

        Raises InvalidInput with the position of a row without any token.
        """
        sums: Vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        for position, row in enumerate(rows):
            if not len(row):
                raise InvalidInput("has no token that this model knows.", index=position)
            # A loop: 390,000 texts a second, where one gather and `np.add.reduceat` make 80,000.
            self._table[row].sum(axis=0, out=sums[position])
        return normalise(sums)
