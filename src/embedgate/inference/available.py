"""Registry of local models and their loaders: two built-in models, the user's model folders, and pulled models.

Building the list reads the small JSON files of the user's folders; weights are read when a loader is called.
"""

import importlib.util
from pathlib import Path

from embedgate.core.errors import ConfigError, DependencyMissing
from embedgate.core.models import DimRange
from embedgate.inference.engine import AvailableModel, Engine
from embedgate.inference.folder_models import NAME, encoder, from_folder, pulled_entries
from embedgate.inference.model_folder import TOKENIZER_FILE, WEIGHTS_FILE, read_model_folder
from embedgate.inference.static import StaticTable
from embedgate.inference.tokenizer import Tokenizer
from embedgate.inference.weights import MINILM, WORDLLAMA
from embedgate.settings import LocalSettings

MINILM_NAME = "all-minilm-l6-v2"
WORDLLAMA_NAME = "wordllama-256"
NAME_RULE = "a name is up to 64 of a-z, 0-9, '.', '_', '-', and not that of a built-in model"

_WORDLLAMA_ROWS, _WORDLLAMA_DIM = 32_000, 256
# A static table has no position limit; this one bounds the work of one input.
_WORDLLAMA_MAX_TOKENS = 32_768
_ENGINE_MODULES = ("onnx", "onnxruntime", "safetensors", "tokenizers")


def available_models(settings: LocalSettings, data_dir: Path) -> list[AvailableModel]:
    """The built-in models, installed or not, then the user's, in the order of the settings, then the pulled ones.

    data_dir: prepared graphs are kept in its folder `models`.
    Raises ConfigError with every mistake in the user's models, DependencyMissing if they lack the engine.
    """
    known = [_minilm(settings, data_dir), _wordllama()]
    if settings.models and not has_engine():
        raise DependencyMissing("local.models need the local engine: install embedgate[local]")
    mistakes: list[str] = []
    # A model of the settings stands for itself; the pulled one of the same name is then not read.
    pulled = {name: entry for name, entry in pulled_entries(data_dir).items() if name not in settings.models}
    for name, entry in {**settings.models, **(pulled if has_engine() else {})}.items():
        place = f"pulled model {name}" if name in pulled else f"local.models.{name}"
        if not is_free_name(name):
            mistakes.append(f"{place}: {NAME_RULE}")
            continue
        try:
            known.append(from_folder(name, entry, settings, data_dir))
        except ConfigError as error:
            mistakes += [f"{place}: {mistake}" for mistake in error.mistakes]
    if mistakes:
        raise ConfigError(mistakes)
    return known


def _minilm(settings: LocalSettings, data_dir: Path) -> AvailableModel:
    def load_engine() -> Engine:
        folder = read_model_folder(MINILM.verified_folder() / "model")
        return encoder(MINILM_NAME, folder, MINILM.digests[f"model/{WEIGHTS_FILE}"], settings, data_dir)

    return AvailableModel(
        name=MINILM_NAME,
        space="sentence-transformers/all-MiniLM-L6-v2",
        dims=DimRange(384, 384, 384),
        is_matryoshka=False,
        max_input_tokens=256,
        query_prefix="",
        document_prefix="",
        is_installed=has_engine() and MINILM.folder() is not None,
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
        is_installed=has_engine() and WORDLLAMA.folder() is not None,
        revision=WORDLLAMA.revision,
        load_tokenizer=load_tokenizer,
        load_engine=load_engine,
    )


def is_free_name(name: str) -> bool:
    """Whether a model of the user's may be called so: see `NAME_RULE`."""
    return NAME.fullmatch(name) is not None and name not in (MINILM_NAME, WORDLLAMA_NAME)


def has_engine() -> bool:
    """Whether the extra is installed that runs models."""
    return all(importlib.util.find_spec(module) for module in _ENGINE_MODULES)
