"""Token counters of routes, behind the engine's `Tokenizers` port."""

import threading
from pathlib import Path

from embedgate.core.errors import DependencyMissing
from embedgate.core.models import Route
from embedgate.core.ports import TextCutter, TokenCounter, TokenDecoder
from embedgate.inference.cl100k import Cl100k, is_installed, load_cl100k
from embedgate.inference.cutting import Cutter
from embedgate.inference.runtime import LocalModels

_MAX_SPECIAL_TOKENS = 4  # more than any tokenizer we know puts around a text


class ByteBound:
    """Token counter without a tokenizer: an upper bound, since no token is shorter than a byte."""

    is_exact = False

    def count(self, text: str) -> int:
        """Bytes of the text in UTF-8, plus an allowance for special tokens."""
        return len(text.encode(errors="surrogatepass")) + _MAX_SPECIAL_TOKENS


class KnownTokenizers:
    """Implements the `Tokenizers` port. Each tokenizer is loaded when it is first needed, once."""

    def __init__(self, models: LocalModels, cl100k_file: Path | None) -> None:
        """cl100k_file: the rank file for tiktoken, None to use rs-bpe if it is installed."""
        self._models = models
        self._cl100k_file = cl100k_file
        self._cl100k: Cl100k | None = None
        self._is_cl100k_loaded = False
        self._lock = threading.Lock()

    def counter(self, route: Route) -> TokenCounter:
        """Exact for local models and, where an engine for it is installed, for cl100k_base; else a bound by bytes.

        Raises as the tokenizer's first loading does: DependencyMissing, ConfigError.
        """
        if route.tokenizer == "local":
            return self._models.tokenizer(route.upstream_model)
        if route.tokenizer == "tiktoken:cl100k_base":
            return self._load_cl100k() or ByteBound()
        return ByteBound()

    def can_cut(self, route: Route) -> bool:
        """Whether `cutter` has one for a route, without loading it."""
        if route.max_input_tokens <= 0:
            return False
        if route.tokenizer == "tiktoken:cl100k_base":
            return is_installed(self._cl100k_file)
        return self._twin(route) is not None

    def cutter(self, route: Route) -> TextCutter | None:
        """For OpenAI's models by cl100k_base, for others by the tokenizer of the same model on this machine."""
        if not self.can_cut(route):
            return None
        if route.tokenizer == "tiktoken:cl100k_base":
            cl100k = self._load_cl100k()
            return None if cl100k is None else Cutter(cl100k)
        name = self._twin(route)
        return None if name is None else Cutter(self._models.tokenizer(name))

    def _twin(self, route: Route) -> str | None:
        """The local model with a route's tokenizer."""
        if route.tokenizer == "local":
            return route.upstream_model
        return self._models.of_space(route.tokenizer.removeprefix("hf:")) if route.tokenizer.startswith("hf:") else None

    def decoder(self) -> TokenDecoder:
        """The decoder of cl100k_base. Raises DependencyMissing if none is installed."""
        decoder = self._load_cl100k()
        if decoder is None:
            raise DependencyMissing("token ids need a cl100k_base decoder: install embedgate[tokens]")
        return decoder

    def _load_cl100k(self) -> Cl100k | None:
        with self._lock:
            if not self._is_cl100k_loaded:
                self._cl100k = load_cl100k(self._cl100k_file)
                self._is_cl100k_loaded = True
            return self._cl100k
