"""Models in folders: those of the settings, and those that `embedgate models pull` has put into the data folder.

Reading a folder opens its small files only; weights are read when a loader is called.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from embedgate.core.errors import ConfigError
from embedgate.core.models import DimRange
from embedgate.inference.encoder import Encoder
from embedgate.inference.engine import AvailableModel, Engine
from embedgate.inference.folder_files import MAX_JSON_BYTES, FolderFiles
from embedgate.inference.graph import GRAPH_VERSION, build_graph
from embedgate.inference.kept import keep
from embedgate.inference.manifest import MANIFEST_FILE, PULLED_FOLDER, Manifest, check_files, read_manifest
from embedgate.inference.model_folder import ONNX_FILES, TOKENIZER_FILE, WEIGHTS_FILE, ModelFolder, read_model_folder
from embedgate.inference.modules import DENSE_WEIGHTS, Dense
from embedgate.inference.onnx_encoder import OnnxEncoder
from embedgate.inference.onnx_file import beside, read_onnx_file
from embedgate.inference.tokenizer import Tokenizer
from embedgate.inference.trial import Tried, try_once
from embedgate.inference.weights import check_digest, digest_file, file_version, verify
from embedgate.settings import LocalModelSettings, LocalSettings

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What a local model may be called."""

_DIGEST_PREFIX = 12


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A folder that was read, and what its loaders need."""

    name: str
    entry: LocalModelSettings
    settings: LocalSettings
    data_dir: Path
    folder: ModelFolder
    manifest: Manifest | None
    tokenizer_digest: str
    weights_version: str
    max_input_tokens: int

    @property
    def files(self) -> FolderFiles:
        return FolderFiles(self.folder.path)

    @property
    def revision(self) -> str:
        """What stands for all files: a change of any that counts changes it."""
        if self.manifest is not None:
            weights = f"{self.manifest.commit} {self.manifest.digest}"
        else:
            # Weights without a digest in the settings are too large to be read at every start, before they are needed.
            weights = self.entry.sha256 or self.weights_version
        folder = self.folder
        how = folder.encoder or f"{folder.weights} {folder.modules} {folder.padding} {self._dense_digests()}"
        return f"{weights} {self.tokenizer_digest} {folder.lowercases} {how}"

    def _dense_digests(self) -> str:
        names = [f"{step.folder}/{DENSE_WEIGHTS}" for step in self.folder.modules.steps if isinstance(step, Dense)]
        return " ".join(digest_file(self.folder.path / name) for name in names)

    def load_tokenizer(self) -> Tokenizer:
        file = self.folder.path / TOKENIZER_FILE
        verify(file, self.tokenizer_digest)
        tokenizer = Tokenizer(file, lowercases=self.folder.lowercases)
        _check_fit(self.name, tokenizer, self.folder, self.max_input_tokens)
        return tokenizer

    def load_engine(self) -> Engine:
        if self.manifest is not None:
            check_files(self.folder.path, self.manifest, is_all=True)
        return self._load_graph() if self.folder.encoder is not None else self._load_onnx()

    def _load_graph(self) -> Engine:
        weights, pinned = self.folder.path / WEIGHTS_FILE, self.entry.sha256
        self.files.file(WEIGHTS_FILE, self.settings.max_model_bytes, may_lead_out=True)
        if pinned is not None:
            verify(weights, pinned)
        engine = encoder(self.name, self.folder, pinned or digest_file(weights), self.settings, self.data_dir)
        self._refuse_changed()
        return engine

    def _load_onnx(self) -> Engine:
        folder, settings = self.folder, self.settings
        file = read_onnx_file(self.files, folder.weights, settings.max_model_bytes)
        if self.entry.sha256 is not None:
            check_digest(folder.path / folder.weights, file.sha256, self.entry.sha256)
        pad_id = self.load_tokenizer().padding_id(folder.padding.token, folder.padding.id)
        tried = Tried(str(folder.path.resolve()), folder.weights, pad_id, settings.max_model_bytes)
        try_once(tried, self.data_dir / "models" / f"{file.sha256}.tried")
        engine = OnnxEncoder(
            file, folder, pad_id, threads=settings.threads, micro_batch_tokens=settings.micro_batch_tokens
        )
        self._refuse_changed()
        return engine

    def _refuse_changed(self) -> None:
        is_pinned = self.entry.sha256 is not None or self.manifest is not None
        if not is_pinned and _weights_version(self.files, self.folder.weights) != self.weights_version:
            place = self.folder.path / self.folder.weights
            raise ConfigError([f"model file {place} was changed since the start: start again to use it"])


def from_folder(name: str, entry: LocalModelSettings, settings: LocalSettings, data_dir: Path) -> AvailableModel:
    """The model in the folder that `entry` names. Raises ConfigError naming the file at fault."""
    folder = read_model_folder(entry.path.expanduser(), entry.file)
    manifest = read_manifest(folder.path)
    if manifest is not None:
        check_files(folder.path, manifest, is_all=False)
    files = FolderFiles(folder.path)
    for file in (folder.weights, TOKENIZER_FILE):
        if not files.has(file):
            or_onnx = f", and no ONNX file ({', '.join(ONNX_FILES)})" if file == WEIGHTS_FILE and not entry.file else ""
            raise ConfigError([f"{folder.path} has no {file}{or_onnx}"])
    tokenizer_file = files.file(TOKENIZER_FILE, MAX_JSON_BYTES, may_lead_out=True)
    max_input_tokens = entry.max_input_tokens or folder.max_input_tokens
    if max_input_tokens > folder.max_positions:
        raise ConfigError([f"max_input_tokens is {max_input_tokens}; the model has {folder.max_positions} positions"])
    prepared = _Prepared(
        name=name,
        entry=entry,
        settings=settings,
        data_dir=data_dir,
        folder=folder,
        manifest=manifest,
        tokenizer_digest=digest_file(tokenizer_file),
        weights_version=_weights_version(files, folder.weights),
        max_input_tokens=max_input_tokens,
    )
    return AvailableModel(
        name=name,
        space=entry.space or f"local/{name}",
        dims=DimRange(folder.dim, folder.dim, folder.dim),
        is_matryoshka=False,
        max_input_tokens=max_input_tokens,
        query_prefix=folder.query_prefix if entry.query_prefix is None else entry.query_prefix,
        document_prefix=folder.document_prefix if entry.document_prefix is None else entry.document_prefix,
        is_installed=True,
        revision=prepared.revision,
        load_tokenizer=prepared.load_tokenizer,
        load_engine=prepared.load_engine,
        pools_prefix=folder.modules.pools_prompt,
    )


def pulled_entries(data_dir: Path) -> dict[str, LocalModelSettings]:
    """The models that were pulled into the data folder, by name, each as the settings would have it."""
    parent = data_dir / PULLED_FOLDER
    try:
        folders = sorted(path for path in parent.iterdir() if NAME.fullmatch(path.name))
    except OSError:
        return {}
    return {path.name: LocalModelSettings(path=path) for path in folders if (path / MANIFEST_FILE).is_file()}


def encoder(name: str, folder: ModelFolder, sha256: str, settings: LocalSettings, data_dir: Path) -> Encoder:
    """The engine of a BERT encoder from safetensors, prepared for this machine. sha256: of the weights."""
    spec = folder.encoder
    if spec is None:
        raise ConfigError([f"{folder.path / folder.weights} is not run from {WEIGHTS_FILE}"])
    # The same weights with another pooling or number of heads give another graph.
    identity = hashlib.sha256(f"{sha256} {spec}".encode()).hexdigest()[:_DIGEST_PREFIX]
    file = data_dir / "models" / f"{name}-{identity}-{GRAPH_VERSION}.onnx"
    keep(file, lambda: build_graph(folder.path / WEIGHTS_FILE, spec))
    return Encoder(file, threads=settings.threads, micro_batch_tokens=settings.micro_batch_tokens)


def _weights_version(files: FolderFiles, weights: str) -> str:
    names = [weights] if weights == WEIGHTS_FILE else beside(files, weights)
    return " ".join(file_version(files.path / name) for name in names)


def _check_fit(name: str, tokenizer: Tokenizer, folder: ModelFolder, max_input_tokens: int) -> None:
    if folder.vocabulary_size is not None and tokenizer.vocabulary_size > folder.vocabulary_size:
        raise ConfigError(
            [
                f"local.models.{name}: {TOKENIZER_FILE} has {tokenizer.vocabulary_size} tokens, "
                f"the weights {folder.vocabulary_size}; they belong to different models"
            ]
        )
    if max_input_tokens <= tokenizer.n_special_tokens:
        raise ConfigError(
            [
                f"local.models.{name}: max_input_tokens is {max_input_tokens}, "
                f"of which {tokenizer.n_special_tokens} are special tokens; allow more"
            ]
        )
