"""Reader of model folders: which weights are run and how, the author's limits, and how texts are prepared.

Reads only the small JSON files, no weights. An encoder that cannot be run exactly as its author meant is refused with
the reason.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from embedgate.core.errors import ConfigError
from embedgate.inference.folder_files import FolderFiles
from embedgate.inference.modules import MAX_DIM, Dense, Modules, read_modules

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
ONNX_FILES = ("onnx/model.onnx", "model.onnx", "onnx/model_quantized.onnx", "model_quantized.onnx")
"""ONNX files as hubs publish them, in the order in which they are looked for."""

Pooling = Literal["mean", "cls"]

_DEFAULT_POSITIONS = 512  # of a model whose files give no limit; most encoders have as many or more
# These count positions from the id after that of the padding.
_OFFSET_POSITIONS = {
    "camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Specification of a BERT encoder and its pooling: all that the graph depends on."""

    n_layers: int
    n_heads: int
    dim: int
    intermediate_dim: int
    vocabulary_size: int
    max_positions: int
    layer_norm_epsilon: float
    pooling: Pooling


@dataclass(frozen=True, slots=True)
class Padding:
    """How texts of a run are made equally long, and where their positions begin."""

    id: int | None
    token: str | None
    side: Literal["left", "right"]
    first_position: int


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A supported model folder: its encoder, and the author's settings for texts.

    `weights` is the file that is run. `encoder` is the specification of a BERT encoder from safetensors; None for an
    ONNX file. `dim` is the length of the vectors, `hidden_dim` that of the encoder's.
    """

    path: Path
    weights: str
    encoder: EncoderSpec | None
    modules: Modules
    hidden_dim: int
    vocabulary_size: int | None
    max_positions: int
    padding: Padding
    max_input_tokens: int
    lowercases: bool
    query_prefix: str
    document_prefix: str

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.modules.dim(self.hidden_dim)


class _Config(msgspec.Struct):
    """config.json, of any architecture; several name the length of their vectors otherwise."""

    hidden_size: int | None = None
    dim: int | None = None
    d_model: int | None = None
    n_embd: int | None = None
    max_position_embeddings: int | None = None
    n_positions: int | None = None
    vocab_size: int | None = None
    pad_token_id: int | None = None
    model_type: str = ""
    architectures: list[str] | None = None
    is_decoder: bool = False
    is_encoder_decoder: bool = False
    vision_config: Any = None
    image_size: Any = None

    @property
    def name(self) -> str:
        """What the architecture is called."""
        return ", ".join(self.architectures or ()) or self.model_type or "unnamed"

    @property
    def kind(self) -> str:
        """What the model is if it does not encode texts; else empty."""
        names = self.architectures or []
        if self.vision_config is not None or self.image_size is not None:
            return "a model of images"
        if self.is_encoder_decoder and not any(name.endswith("EncoderModel") for name in names):
            return "an encoder-decoder"
        if self.is_decoder or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
            return "decoder-only"
        return ""


class _EncoderConfig(msgspec.Struct):
    """config.json of a BERT encoder."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    vocab_size: int
    model_type: str = ""
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"
    layer_norm_eps: float = 1e-12
    is_decoder: bool = False


class _TextConfig(msgspec.Struct):
    """sentence_bert_config.json."""

    max_seq_length: int | None = None
    do_lower_case: bool = False


class _AddedToken(msgspec.Struct):
    content: str


class _TokenizerConfig(msgspec.Struct):
    """tokenizer_config.json. A model without a limit writes 1e30, too large for an int."""

    model_max_length: float | None = None
    padding_side: Literal["left", "right"] = "right"
    pad_token: str | _AddedToken | None = None


class _Prompts(msgspec.Struct):
    """config_sentence_transformers.json."""

    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None

    def prefix(self, *names: str) -> str:
        """The first prefix that has one of these names; the default one if the author gave none of the names."""
        default = None if any(name in self.prompts for name in names) else self.default_prompt_name
        return next(filter(None, (self.prompts.get(name) for name in (*names, default or ""))), "")


def read_model_folder(path: Path, weights: str | None = None) -> ModelFolder:
    """Read the JSON files in `path`. weights: the file to run; if absent, safetensors of a BERT encoder, else ONNX.

    Raises ConfigError naming the file and the value if it is not a supported encoder.
    """
    files = FolderFiles(path)
    config = files.json("config.json", _Config)
    if config is None:
        raise ConfigError(
            [f"{path} has no config.json: name a folder with it, tokenizer.json, and {WEIGHTS_FILE} or an ONNX file"]
        )
    tokenizer = files.json("tokenizer_config.json", _TokenizerConfig) or _TokenizerConfig()
    text = files.json("sentence_bert_config.json", _TextConfig) or _TextConfig()
    prompts = files.json("config_sentence_transformers.json", _Prompts) or _Prompts()
    modules = read_modules(files)
    weights, encoder = _weights(files, config, modules, weights)
    padding = _padding(config, tokenizer)
    max_positions = encoder.max_positions if encoder else _positions(config, padding)
    return ModelFolder(
        path=path,
        weights=weights,
        encoder=encoder,
        modules=modules,
        hidden_dim=encoder.dim if encoder else _hidden_dim(files, config),
        vocabulary_size=config.vocab_size,
        max_positions=max_positions,
        padding=padding,
        max_input_tokens=text.max_seq_length or int(min(tokenizer.model_max_length or max_positions, max_positions)),
        lowercases=text.do_lower_case,
        query_prefix=prompts.prefix("query"),
        document_prefix=prompts.prefix("document", "passage"),
    )


def _weights(
    files: FolderFiles, config: _Config, modules: Modules, weights: str | None
) -> tuple[str, EncoderSpec | None]:
    """The file to run, and the specification of the encoder if it is one of safetensors."""
    onnx = next((name for name in ONNX_FILES if files.has(name)), None) if weights is None else weights
    if weights is not None and not weights.endswith((".onnx", ".safetensors")):
        raise ConfigError([f"{files.path / weights}: only files of safetensors and ONNX are run"])
    if weights == WEIGHTS_FILE or (weights is None and (onnx is None or files.has(WEIGHTS_FILE))):
        try:
            return WEIGHTS_FILE, _encoder(files, config, modules)
        except ConfigError as error:
            if onnx is None or weights is not None:
                raise ConfigError([f"{mistake}{_onnx_hint(onnx)}" for mistake in error.mistakes]) from error
    elif onnx is not None and onnx.endswith(".safetensors"):
        raise ConfigError([f"{files.path / onnx}: of safetensors only {WEIGHTS_FILE} is run"])
    if config.kind:
        place = files.path / "config.json"
        raise ConfigError(
            [f"{place}: its architecture is {config.name}, {config.kind}; only encoders of texts run here"]
        )
    return str(onnx), None


def _onnx_hint(onnx: str | None) -> str:
    return (
        "" if onnx is not None and onnx != WEIGHTS_FILE else f". With an ONNX file beside it ({ONNX_FILES[0]}) it may"
    )


def _encoder(files: FolderFiles, config: _Config, modules: Modules) -> EncoderSpec:
    """The specification of a BERT encoder in safetensors. Raises ConfigError for any other."""
    path = files.path / "config.json"
    if config.model_type != "bert" or config.is_decoder or config.kind:
        kind = f", {config.kind}" if config.kind else ""
        raise ConfigError(
            [
                f"{path}: its architecture is {config.name} (model_type {config.model_type!r}){kind}; "
                f"only BERT encoders run here from {WEIGHTS_FILE}"
            ]
        )
    bert = files.json("config.json", _EncoderConfig)
    if bert is None:
        raise ConfigError([f"{path} was deleted meanwhile"])
    mistakes = []
    if bert.hidden_act != "gelu":
        mistakes.append(f"its hidden_act is {bert.hidden_act!r}; only 'gelu' runs here")
    if bert.position_embedding_type != "absolute":
        mistakes.append(f"its positions are {bert.position_embedding_type!r}; only 'absolute' runs here")
    if bert.num_attention_heads < 1 or bert.hidden_size % bert.num_attention_heads:
        mistakes.append(f"its {bert.hidden_size} components do not split into {bert.num_attention_heads} heads")
    if mistakes:
        raise ConfigError([f"{path}: {mistake}" for mistake in mistakes])
    return EncoderSpec(
        n_layers=bert.num_hidden_layers,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        intermediate_dim=bert.intermediate_size,
        vocabulary_size=bert.vocab_size,
        max_positions=bert.max_position_embeddings,
        layer_norm_epsilon=bert.layer_norm_eps,
        pooling=_graph_pooling(files, modules),
    )


def _graph_pooling(files: FolderFiles, modules: Modules) -> Pooling:
    """The pooling that the graph of a BERT encoder has inside. Raises ConfigError for any other."""
    file = files.path / modules.pooling_file
    if any(isinstance(step, Dense) for step in modules.steps):
        raise ConfigError([f"{files.path / 'modules.json'}: Dense cannot be run here from {WEIGHTS_FILE}"])
    if not modules.pools_prompt:
        raise ConfigError([f"{file}: include_prompt false cannot be run here from {WEIGHTS_FILE}"])
    if modules.pooling == ("mean",):
        return "mean"
    if modules.pooling == ("cls",):
        return "cls"
    raise ConfigError([f"{file}: {modules.flags()} cannot be run here from {WEIGHTS_FILE}; mean or cls can"])


def _hidden_dim(files: FolderFiles, config: _Config) -> int:
    found = config.hidden_size or config.dim or config.d_model or config.n_embd
    if found is None or not 0 < found <= MAX_DIM:
        raise ConfigError(
            [f"{files.path / 'config.json'}: hidden_size is {found}; it must be the length of the vectors"]
        )
    return found


def _positions(config: _Config, padding: Padding) -> int:
    found = config.max_position_embeddings or config.n_positions or _DEFAULT_POSITIONS
    return max(found - padding.first_position, 1)


def _padding(config: _Config, tokenizer: _TokenizerConfig) -> Padding:
    token = tokenizer.pad_token.content if isinstance(tokenizer.pad_token, _AddedToken) else tokenizer.pad_token
    first = 0
    if config.model_type in _OFFSET_POSITIONS:
        first = (1 if config.pad_token_id is None else config.pad_token_id) + 1
    return Padding(config.pad_token_id, token, tokenizer.padding_side, first)
