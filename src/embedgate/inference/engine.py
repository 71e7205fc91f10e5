"""Records of a local model for the runtime: its facts, the loaders of tokenizer and engine, the engine's protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from embedgate.core.models import DimRange
from embedgate.core.vectors import Vectors
from embedgate.inference.batching import Rows
from embedgate.inference.tokenizer import Tokenizer, TokenRow


class Engine(Protocol):
    """Inference engine of one loaded model. Thread-safe."""

    dim: int

    def cut(self, lengths: Sequence[int]) -> list[Rows]:
        """Split texts of these token counts into runs: positions of each run, every position in exactly one."""
        ...

    def embed(self, rows: Sequence[TokenRow], n_prompt_tokens: int = 0) -> Vectors:
        """Embed one run. Returns (n, dim) float32, rows of unit length, in order.

        n_prompt_tokens: tokens at the start of each row that are a prefix which the model does not pool.
        """
        ...


@dataclass(frozen=True, slots=True)
class AvailableModel:
    """An available model. Its loaders may take seconds and raise ConfigError or DependencyMissing.

    `revision` stands for its files. The loaders refuse files that were changed since it was made.
    `pools_prefix`: whether the tokens of a prefix count in the vector like all others.
    """

    name: str
    space: str
    dims: DimRange
    is_matryoshka: bool
    max_input_tokens: int
    query_prefix: str
    document_prefix: str
    is_installed: bool
    revision: str
    load_tokenizer: Callable[[], Tokenizer]
    load_engine: Callable[[], Engine]
    pools_prefix: bool = True
