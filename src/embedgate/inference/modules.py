"""Modules of sentence-transformers behind the encoder, as a folder's files name them: pooling, dense, normalise.

`modules.json` lists them in their order. What cannot be run here is refused by its name.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from embedgate.core.errors import ConfigError
from embedgate.inference.folder_files import FolderFiles

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
Activation = Literal["Identity", "Tanh", "ReLU", "Sigmoid"]

DENSE_WEIGHTS = "model.safetensors"
MAX_DIM = 65_536
"""Components of a vector, far more than any model has; above, a file is taken for damaged."""

# In the order in which sentence-transformers joins the vectors of several modes.
_MODES_BY_FLAG: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_KNOWN = {"Transformer", "Pooling", "Normalize", "Dense", "Dropout"}  # dropout does nothing outside of training


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense layer. `folder` holds its weights, in a file of safetensors."""

    folder: str
    n_in: int
    n_out: int
    has_bias: bool
    activation: Activation


@dataclass(frozen=True, slots=True)
class Normalise:
    """Scaling to unit length."""


@dataclass(frozen=True, slots=True)
class Modules:
    """What follows the encoder: the vectors of the pooling modes side by side, then the steps.

    `pools_prompt`: whether the tokens of a prefix count for the pooling.
    """

    pooling: tuple[PoolingMode, ...]
    pools_prompt: bool
    steps: tuple[Dense | Normalise, ...]
    pooling_file: str

    def dim(self, hidden_dim: int) -> int:
        """Length of the vectors, from the length of the encoder's."""
        dense = [step.n_out for step in self.steps if isinstance(step, Dense)]
        return dense[-1] if dense else hidden_dim * len(self.pooling)

    def flags(self) -> str:
        """The pooling modes as the older format of their file names them."""
        names = {mode: flag for flag, mode in _MODES_BY_FLAG.items()}
        return " with ".join(names[mode] for mode in self.pooling)


class _Module(msgspec.Struct):
    path: str
    type: str


class _PoolingConfig(msgspec.Struct):
    """1_Pooling/config.json, in its older format with a flag for each mode or the newer one with `pooling_mode`."""

    pooling_mode: PoolingMode | list[PoolingMode] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True

    def modes(self) -> tuple[PoolingMode, ...]:
        """The modes, in the order in which their vectors are joined."""
        if isinstance(self.pooling_mode, str):
            return (self.pooling_mode,)
        if self.pooling_mode is not None:
            return tuple(self.pooling_mode)
        return tuple(mode for flag, mode in _MODES_BY_FLAG.items() if getattr(self, flag))


class _DenseConfig(msgspec.Struct):
    """2_Dense/config.json."""

    in_features: int
    out_features: int
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    module_input_name: str = "sentence_embedding"
    module_output_name: str | None = None
    use_residual: bool = False


def read_modules(files: FolderFiles) -> Modules:
    """Read the modules of a folder: the mean over the tokens, as in sentence-transformers, if it names none.

    Raises ConfigError naming the file and what cannot be run.
    """
    listed = files.json("modules.json", list[_Module]) or []
    file = files.path / "modules.json"
    kinds = [(module.type.rpartition(".")[2], module) for module in listed]
    if unknown := sorted({kind for kind, _ in kinds} - _KNOWN):
        raise ConfigError([f"{file}: {', '.join(unknown)} cannot be run here"])
    order = [kind for kind, _ in kinds if kind != "Dropout"]
    if listed and (order[:1] != ["Transformer"] or order.count("Transformer") > 1 or order.count("Pooling") > 1):
        raise ConfigError([f"{file}: {', '.join(order)}; one Transformer comes first, then at most one Pooling"])
    if "Pooling" in order and order[1] != "Pooling":
        raise ConfigError([f"{file}: {order[1]} before the pooling cannot be run here"])
    places = {kind: module.path for kind, module in kinds}
    pooling_file = f"{places.get('Pooling', '1_Pooling')}/config.json"
    pooling, pools_prompt = _read_pooling(files, pooling_file)
    steps: list[Dense | Normalise] = []
    for kind, module in kinds:
        if kind == "Dense":
            steps.append(_read_dense(files, module.path))
        elif kind == "Normalize":
            steps.append(Normalise())
    return Modules(pooling, pools_prompt, tuple(steps), pooling_file)


def _read_pooling(files: FolderFiles, name: str) -> tuple[tuple[PoolingMode, ...], bool]:
    config = files.json(name, _PoolingConfig)
    if config is None:
        return ("mean",), True
    modes = config.modes()
    if not modes or len(modes) > len(get_args(PoolingMode)):
        raise ConfigError([f"{files.path / name}: no pooling mode is set"])
    return modes, config.include_prompt


def _read_dense(files: FolderFiles, folder: str) -> Dense:
    name = f"{folder}/config.json"
    place = files.path / name
    config = files.json(name, _DenseConfig, may_lead_out=False)
    if config is None:
        raise ConfigError([f"{place} does not exist, though modules.json names it"])
    activation = config.activation_function.rpartition(".")[2]
    known = {each: each for each in get_args(Activation)}
    mistakes = []
    if activation not in known:
        mistakes.append(f"activation_function {activation} cannot be run here; {', '.join(known)} can")
    if config.use_residual:
        mistakes.append("use_residual cannot be run here")
    if {config.module_input_name, config.module_output_name or config.module_input_name} != {"sentence_embedding"}:
        mistakes.append("only a layer over sentence_embedding can be run here")
    if not (0 < config.in_features <= MAX_DIM and 0 < config.out_features <= MAX_DIM):
        mistakes.append(f"in_features and out_features are {config.in_features} and {config.out_features}")
    if not mistakes and not files.has(f"{folder}/{DENSE_WEIGHTS}"):
        mistakes.append(f"{DENSE_WEIGHTS} is not beside it; a file of pickles is not read")
    if mistakes:
        raise ConfigError([f"{place}: {mistake}" for mistake in mistakes])
    return Dense(folder, config.in_features, config.out_features, config.bias, known[activation])
