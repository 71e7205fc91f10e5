"""Reader of sentence-transformers folders: the shape of the encoder, and how texts are prepared.

Reads only the small JSON files, no weights. An encoder that the graph builder cannot reproduce exactly is
refused with the reason.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from embedgate.core.errors import ConfigError

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"

Pooling = Literal["mean", "cls"]
_Parsed = TypeVar("_Parsed")


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
class ModelFolder:
    """A supported model folder: its encoder, and the author's settings for texts."""

    path: Path
    encoder: EncoderSpec
    max_input_tokens: int
    lowercases: bool
    query_prefix: str
    document_prefix: str


class _EncoderConfig(msgspec.Struct):
    """config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    vocab_size: int
    model_type: str = ""
    architectures: list[str] | None = None
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"
    layer_norm_eps: float = 1e-12
    is_decoder: bool = False


class _Module(msgspec.Struct):
    path: str
    type: str


class _PoolingConfig(msgspec.Struct):
    """1_Pooling/config.json."""

    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True


class _TextConfig(msgspec.Struct):
    """sentence_bert_config.json."""

    max_seq_length: int | None = None
    do_lower_case: bool = False


class _TokenizerConfig(msgspec.Struct):
    """tokenizer_config.json. A model without a limit writes 1e30, too large for an int."""

    model_max_length: float | None = None


class _Prompts(msgspec.Struct):
    """config_sentence_transformers.json."""

    prompts: dict[str, str | None] = {}


def read_model_folder(path: Path) -> ModelFolder:
    """Read the JSON files in `path`.

    Raises ConfigError naming the file and the value if it is not a supported encoder of the BERT family.
    """
    config = _read(path / "config.json", _EncoderConfig)
    if config is None:
        raise ConfigError(
            [f"{path} has no config.json: name a folder with {WEIGHTS_FILE}, config.json, tokenizer.json"]
        )
    _refuse_other_architectures(path, config)
    text = _read(path / "sentence_bert_config.json", _TextConfig) or _TextConfig()
    prompts = (_read(path / "config_sentence_transformers.json", _Prompts) or _Prompts()).prompts
    spec = EncoderSpec(
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        dim=config.hidden_size,
        intermediate_dim=config.intermediate_size,
        vocabulary_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        layer_norm_epsilon=config.layer_norm_eps,
        pooling=_pooling(path),
    )
    return ModelFolder(
        path=path,
        encoder=spec,
        max_input_tokens=text.max_seq_length or _tokenizer_limit(path, spec.max_positions),
        lowercases=text.do_lower_case,
        query_prefix=prompts.get("query") or "",
        document_prefix=prompts.get("document") or prompts.get("passage") or "",
    )


def _refuse_other_architectures(path: Path, config: _EncoderConfig) -> None:
    mistakes = []
    name = ", ".join(config.architectures or ()) or config.model_type or "unnamed"
    if config.model_type != "bert" or config.is_decoder:
        mistakes.append(f"its architecture is {name} (model_type {config.model_type!r}); only BERT encoders run here")
    if config.hidden_act != "gelu":
        mistakes.append(f"its hidden_act is {config.hidden_act!r}; only 'gelu' runs here")
    if config.position_embedding_type != "absolute":
        mistakes.append(f"its positions are {config.position_embedding_type!r}; only 'absolute' runs here")
    if config.num_attention_heads < 1 or config.hidden_size % config.num_attention_heads:
        mistakes.append(f"its {config.hidden_size} components do not split into {config.num_attention_heads} heads")
    if mistakes:
        raise ConfigError([f"{path / 'config.json'}: {mistake}" for mistake in mistakes])


def _pooling(path: Path) -> Pooling:
    """The pooling mode; mean over the tokens, as in sentence-transformers, if the folder gives none."""
    modules = _read(path / "modules.json", list[_Module]) or []
    kinds = {module.type.rpartition(".")[2]: module for module in modules}
    if unknown := sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"}):
        raise ConfigError([f"{path / 'modules.json'}: {', '.join(unknown)} cannot be run here"])
    file = path / (kinds["Pooling"].path if "Pooling" in kinds else "1_Pooling") / "config.json"
    config = _read(file, _PoolingConfig)
    if config is None:
        return "mean"
    modes = [name for name in config.__struct_fields__ if name.startswith("pooling_mode_") and getattr(config, name)]
    if not config.include_prompt:
        raise ConfigError([f"{file}: include_prompt false cannot be run here"])
    if modes == ["pooling_mode_mean_tokens"]:
        return "mean"
    if modes == ["pooling_mode_cls_token"]:
        return "cls"
    raise ConfigError([f"{file}: {' with '.join(modes) or 'no pooling mode'} cannot be run here; mean or cls can"])


def _tokenizer_limit(path: Path, max_positions: int) -> int:
    config = _read(path / "tokenizer_config.json", _TokenizerConfig)
    limit = config.model_max_length if config else None
    return int(min(limit or max_positions, max_positions))


def _read(file: Path, kind: type[_Parsed]) -> _Parsed | None:
    """The parsed file, None if it does not exist."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError([f"{file} cannot be read: {error.strerror or error}"]) from error
    except msgspec.MsgspecError as error:
        raise ConfigError([f"{file}: {error}"]) from error
