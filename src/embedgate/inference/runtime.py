"""Runtime of local models: their catalogue records, and lazy loading of each, once.

Runs on the caller's thread. Loading is thread-safe.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from embedgate.core.errors import InputTooLong, UnknownModel
from embedgate.core.models import BatchLimits, Model, Price, Route, Truncate
from embedgate.core.types import InputType
from embedgate.inference.available import available_models
from embedgate.inference.engine import AvailableModel, Engine
from embedgate.inference.tokenizer import Tokenizer, TokenRow
from embedgate.observe import events
from embedgate.settings import LocalSettings

PROVIDER = "local"

_MAX_PARALLEL = 64  # requests take turns by micro-batch, so many may be in flight; each holds its own tokens
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model, ready to run.

    `n_prompt_tokens`: by input type, the tokens of a prefix that the model does not pool; none if it pools all.
    """

    name: str
    max_input_tokens: int
    tokenizer: Tokenizer
    engine: Engine
    n_prompt_tokens: Mapping[InputType, int] = field(default_factory=dict)

    def fit(self, texts: Sequence[str], truncate: Truncate) -> tuple[list[TokenRow], list[int]]:
        """The ids of each text, truncated to the model's limit if `truncate` allows it, and the positions of those cut.

        Raises InputTooLong with the position of the first over-long text if it does not.
        """
        rows = self.tokenizer.encode(texts)
        over = [position for position, row in enumerate(rows) if len(row) > self.max_input_tokens]
        if not over:
            return rows, []
        if truncate == "none":
            raise InputTooLong.measured(over[0], len(rows[over[0]]), self.max_input_tokens)
        for position in over:
            rows[position] = self.tokenizer.cut(rows[position], self.max_input_tokens, truncate)
        return rows, over


class LocalModels:
    """Every local model that is installed or configured, by name: `all-minilm-l6-v2`, without `local/`."""

    def __init__(self, settings: LocalSettings, data_dir: Path) -> None:
        """data_dir: prepared graphs are kept there. No model is loaded yet.

        Raises ConfigError with every mistake in `settings.models`, DependencyMissing if they lack the engine.
        """
        self._known = {known.name: known for known in available_models(settings, data_dir)}
        self._tokenizers = {name: _Lazy(known.load_tokenizer) for name, known in self._known.items()}
        self._models = {name: _Lazy(partial(self._load, known)) for name, known in self._known.items()}

    def models(self) -> tuple[Model, ...]:
        """Catalogue records of the models that can run here, ids `local/<name>`."""
        return tuple(_record(known) for known in self._known.values() if known.is_installed)

    def of_space(self, space: str) -> str | None:
        """The name of the model that can run here and gives the vectors of a space; None without one."""
        return next((known.name for known in self._known.values() if known.is_installed and known.space == space), None)

    def tokenizer(self, name: str) -> Tokenizer:
        """The model's tokenizer, loaded if needed; the weights are not read.

        Raises UnknownModel, ConfigError or DependencyMissing.
        """
        return self._find(self._tokenizers, name).value()

    def load(self, name: str) -> LoadedModel:
        """The model, loaded if needed, which takes from half a second to several.

        Raises UnknownModel, ConfigError or DependencyMissing.
        """
        return self._find(self._models, name).value()

    def loaded(self, name: str) -> LoadedModel | None:
        """The model if it is loaded, without waiting. Raises UnknownModel."""
        return self._find(self._models, name).loaded

    def unload(self) -> None:
        """Unload every model; running calls keep theirs until they end."""
        for name in self._known:
            self._tokenizers[name].forget()
            self._models[name].forget()

    def _find(self, table: "dict[str, _Lazy[_Loaded]]", name: str) -> "_Lazy[_Loaded]":
        once = table.get(name)
        if once is None:
            raise UnknownModel(f"There is no local model {name!r}; there are {', '.join(table)}.", param="model")
        return once

    def _load(self, known: AvailableModel) -> LoadedModel:
        started_s = time.monotonic()
        tokenizer = self.tokenizer(known.name)
        model = LoadedModel(
            known.name, known.max_input_tokens, tokenizer, known.load_engine(), _prompt_tokens(known, tokenizer)
        )
        _give_back_memory()
        load_ms = round((time.monotonic() - started_s) * 1000, 1)
        events.MODEL_LOADED.emit(model=f"{PROVIDER}/{known.name}", dim=model.engine.dim, load_ms=load_ms)
        return model


def _prompt_tokens(known: AvailableModel, tokenizer: Tokenizer) -> Mapping[InputType, int]:
    if known.pools_prefix:
        return {}
    prefixes: dict[InputType, str] = {"query": known.query_prefix, "document": known.document_prefix}
    return {kind: tokenizer.count_prompt(prefix) for kind, prefix in prefixes.items() if prefix}


def _give_back_memory() -> None:
    """Give free memory back to the system, where the C library can: loading leaves 20 MB or more that is not used."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


class _Lazy(Generic[_Loaded]):
    """Lazy value, made on first use by one thread while the others wait. A failure is not cached."""

    def __init__(self, make: Callable[[], _Loaded]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self.loaded: _Loaded | None = None

    def value(self) -> _Loaded:
        if self.loaded is not None:
            return self.loaded
        with self._lock:
            if self.loaded is None:
                self.loaded = self._make()
            return self.loaded

    def forget(self) -> None:
        with self._lock:
            self.loaded = None


def _record(known: AvailableModel) -> Model:
    route = Route(
        provider=PROVIDER,
        upstream_model=known.name,
        dims=known.dims,
        max_input_tokens=known.max_input_tokens,
        tokenizer="local",
        limits=BatchLimits(max_parallel=_MAX_PARALLEL),
        price=Price(0, source="runs on this machine"),
        query_prefix=known.query_prefix or None,
        document_prefix=known.document_prefix or None,
        accepts_truncate=True,
        promises_unit_length=True,
    )
    return Model(
        id=f"{PROVIDER}/{known.name}",
        action="embedding",
        routes=(route,),
        space=known.space,
        dims=known.dims,
        is_matryoshka=known.is_matryoshka,
        is_normalised=True,
        max_input_tokens=known.max_input_tokens,
        revision=known.revision,
    )
