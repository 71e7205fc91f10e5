"""Registry of local models and their loaders: two built-in models, and the user's model folders.

Building the list reads the small JSON files of the user's folders; weights are read when a loader is called.
"""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embedgate.core.errors import ConfigError, DependencyMissing
from embedgate.core.models import DimRange
from embedgate.core.vectors import Vectors
from embedgate.inference.batching import Rows
from embedgate.inference.encoder import Encoder
from embedgate.inference.graph import GRAPH_VERSION, build_graph
from embedgate.inference.kept import keep
from embedgate.inference.model_folder import TOKENIZER_FILE, WEIGHTS_FILE, ModelFolder, read_model_folder
from embedgate.inference.static import StaticTable
from embedgate.inference.tokenizer import Tokenizer, TokenRow
from embedgate.inference.weights import MINILM, WORDLLAMA, digest_file, file_version, verify
from embedgate.settings import LocalModelSettings, LocalSettings

MINILM_NAME = "all-minilm-l6-v2"
WORDLLAMA_NAME = "wordllama-256"

_WORDLLAMA_ROWS, _WORDLLAMA_DIM = 32_000, 256
# A static table has no position limit; this one bounds the work of one input.
_WORDLLAMA_MAX_TOKENS = 32_768
_ENGINE_MODULES = ("onnx", "onnxruntime", "safetensors", "tokenizers")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST_PREFIX = 12


class Engine(Protocol):
    """Inference engine of one loaded model. Thread-safe."""

    dim: int

    def cut(self, lengths: Sequence[int]) -> list[Rows]:
        """Split texts of these token counts into runs: positions of each run, every position in exactly one."""
        ...

    def embed(self, rows: Sequence[TokenRow]) -> Vectors:
        """Embed one run. Returns (n, dim) float32, rows of unit length, in order."""
        ...


@dataclass(frozen=True, slots=True)
class AvailableModel:
    """An available model. Its loaders may take seconds and raise ConfigError or DependencyMissing.

    `revision` stands for its files. The loaders refuse files that were changed since it was made.
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


def available_models(settings: LocalSettings, data_dir: Path) -> list[AvailableModel]:
    """The built-in models, installed or not, then the user's, in the order of the settings.

    data_dir: prepared graphs are kept in its folder `models`.
    Raises ConfigError with every mistake in the user's models, DependencyMissing if they lack the engine.
    """
    known = [_minilm(settings, data_dir), _wordllama()]
    if settings.models and not _has_engine():
        raise DependencyMissing("local.models need the local engine: install embedgate[local]")
    mistakes: list[str] = []
    for name, entry in settings.models.items():
        if not _NAME.fullmatch(name) or name in (MINILM_NAME, WORDLLAMA_NAME):
            mistakes.append(
                f"local.models.{name}: a name is up to 64 of a-z, 0-9, '.', '_', '-', and not that of a built-in model"
            )
            continue
        try:
            known.append(_from_folder(name, entry, settings, data_dir))
        except ConfigError as error:
            mistakes += [f"local.models.{name}: {mistake}" for mistake in error.mistakes]
    if mistakes:
        raise ConfigError(mistakes)
    return known


def _minilm(settings: LocalSettings, data_dir: Path) -> AvailableModel:
    def load_engine() -> Engine:
        folder = read_model_folder(MINILM.verified_folder() / "model")
        return _encoder(MINILM_NAME, folder, MINILM.digests[f"model/{WEIGHTS_FILE}"], settings, data_dir)

    return AvailableModel(
        name=MINILM_NAME,
        space="sentence-transformers/all-MiniLM-L6-v2",
        dims=DimRange(384, 384, 384),
        is_matryoshka=False,
        max_input_tokens=256,
        query_prefix="",
        document_prefix="",
        is_installed=_has_engine() and MINILM.folder() is not None,
        revision=MINILM.revision,
        load_tokenizer=lambda: Tokenizer(MINILM.file(f"model/{TOKENIZER_FILE}")),
        load_engine=load_engine,
    )


def _wordllama() -> AvailableModel:
    def load_tokenizer() -> Tokenizer:
        file = WORDLLAMA.file("tokenizers/l2_supercat_tokenizer_config.json")
        return Tokenizer(file, adds_special_tokens=False)

    def load_engine() -> Engine:
        file = WORDLLAMA.file("weights/l2_supercat_256.safetensors")
        return StaticTable(file, n_rows=_WORDLLAMA_ROWS, dim=_WORDLLAMA_DIM)

    return AvailableModel(
        name=WORDLLAMA_NAME,
        space="wordllama/l2-supercat-256",
        dims=DimRange(_WORDLLAMA_DIM, 64, _WORDLLAMA_DIM, allowed=(64, 128, _WORDLLAMA_DIM)),
        is_matryoshka=True,
        max_input_tokens=_WORDLLAMA_MAX_TOKENS,
        query_prefix="",
        document_prefix="",
        is_installed=_has_engine() and WORDLLAMA.folder() is not None,
        revision=WORDLLAMA.revision,
        load_tokenizer=load_tokenizer,
        load_engine=load_engine,
    )


def _from_folder(name: str, entry: LocalModelSettings, settings: LocalSettings, data_dir: Path) -> AvailableModel:
    folder = read_model_folder(entry.path.expanduser())
    for file in (WEIGHTS_FILE, TOKENIZER_FILE):
        if not (folder.path / file).is_file():
            raise ConfigError([f"{folder.path} has no {file}"])
    max_input_tokens = entry.max_input_tokens or folder.max_input_tokens
    if max_input_tokens > folder.encoder.max_positions:
        raise ConfigError(
            [f"max_input_tokens is {max_input_tokens}; the model has {folder.encoder.max_positions} positions"]
        )

    weights, tokenizer_file = folder.path / WEIGHTS_FILE, folder.path / TOKENIZER_FILE
    weights_version, tokenizer_digest = file_version(weights), digest_file(tokenizer_file)

    def load_tokenizer() -> Tokenizer:
        verify(tokenizer_file, tokenizer_digest)
        tokenizer = Tokenizer(tokenizer_file, lowercases=folder.lowercases)
        _check_fit(name, tokenizer, folder, max_input_tokens)
        return tokenizer

    def load_engine() -> Engine:
        if entry.sha256 is not None:
            verify(weights, entry.sha256)
        engine = _encoder(name, folder, entry.sha256 or digest_file(weights), settings, data_dir)
        if entry.sha256 is None and file_version(weights) != weights_version:
            raise ConfigError([f"model file {weights} was changed since the start: start again to use it"])
        return engine

    dim = folder.encoder.dim
    return AvailableModel(
        name=name,
        space=entry.space or f"local/{name}",
        dims=DimRange(dim, dim, dim),
        is_matryoshka=False,
        max_input_tokens=max_input_tokens,
        query_prefix=folder.query_prefix if entry.query_prefix is None else entry.query_prefix,
        document_prefix=folder.document_prefix if entry.document_prefix is None else entry.document_prefix,
        is_installed=True,
        # Weights without a digest in the settings are too large to be read at every start, before they are needed.
        revision=f"{entry.sha256 or weights_version} {tokenizer_digest} {folder.lowercases} {folder.encoder}",
        load_tokenizer=load_tokenizer,
        load_engine=load_engine,
    )


def _check_fit(name: str, tokenizer: Tokenizer, folder: ModelFolder, max_input_tokens: int) -> None:
    if tokenizer.vocabulary_size > folder.encoder.vocabulary_size:
        raise ConfigError(
            [
                f"local.models.{name}: {TOKENIZER_FILE} has {tokenizer.vocabulary_size} tokens, "
                f"the weights {folder.encoder.vocabulary_size}; they belong to different models"
            ]
        )
    if max_input_tokens <= tokenizer.n_special_tokens:
        raise ConfigError(
            [
                f"local.models.{name}: max_input_tokens is {max_input_tokens}, "
                f"of which {tokenizer.n_special_tokens} are special tokens; allow more"
            ]
        )


def _encoder(name: str, folder: ModelFolder, sha256: str, settings: LocalSettings, data_dir: Path) -> Encoder:
    # The same weights with another pooling or number of heads give another graph.
    identity = hashlib.sha256(f"{sha256} {folder.encoder}".encode()).hexdigest()[:_DIGEST_PREFIX]
    file = data_dir / "models" / f"{name}-{identity}-{GRAPH_VERSION}.onnx"
    keep(file, lambda: build_graph(folder.path / WEIGHTS_FILE, folder.encoder))
    return Encoder(file, threads=settings.threads, micro_batch_tokens=settings.micro_batch_tokens)


def _has_engine() -> bool:
    return all(importlib.util.find_spec(module) for module in _ENGINE_MODULES)
