"""Encoder of any architecture from an ONNX file, on onnxruntime: feeds the inputs that the graph names, and pools.

The graph's own vectors of texts are used where it has them (`sentence_embedding`), else its vectors of tokens. Runs on
the CPU. A row never depends on its neighbours: where padding or a common scale would make it so, texts run in groups
of equal length, or alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedgate.core.errors import ConfigError, InternalError, InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.inference.batching import MAX_WASTED_TOKENS, Rows, cut_by_length
from embedgate.inference.encoder import session_options
from embedgate.inference.extras import import_extra
from embedgate.inference.folder_files import FolderFiles
from embedgate.inference.model_folder import ModelFolder
from embedgate.inference.modules import DENSE_WEIGHTS, Dense
from embedgate.inference.onnx_file import OnnxFile
from embedgate.inference.pooling import DenseLayer, finish, pool
from embedgate.inference.tensors import Tensors
from embedgate.inference.tokenizer import TokenRow

_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
_TEXT_OUTPUT = "sentence_embedding"
_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
_INTEGERS: Mapping[str, type[np.int64] | type[np.int32]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FLOATS = {"tensor(float)", "tensor(float16)", "tensor(double)"}
# Inputs that say what kind of model it is. A name begins with one of these.
_OTHER_KINDS = {
    "pixel_values": "a model of images",
    "input_features": "a model of sounds",
    "decoder_input_ids": "an encoder-decoder",
    "encoder_hidden_states": "the decoder of an encoder-decoder",
    "past_key_values": "a decoder",
}


class OnnxEncoder:
    """One loaded graph with the modules behind it. `embed` may be called from any thread."""

    def __init__(
        self, file: OnnxFile, folder: ModelFolder, pad_id: int, *, threads: int, micro_batch_tokens: int
    ) -> None:
        """pad_id: the token that fills up shorter texts. threads, micro_batch_tokens: as of `Encoder`.

        Raises ConfigError naming the file if it is no encoder of texts or does not fit its folder, DependencyMissing.
        """
        self._place = folder.path / file.name
        self._folder = folder
        self._pad_id = pad_id
        self._steps = [_dense(folder.path, step) if isinstance(step, Dense) else None for step in folder.modules.steps]
        self._session = _session(self._place, file, threads)
        self._types = _inputs(self._place, self._session.get_inputs())
        self._output, self._is_pooled = _output(self._place, self._session.get_outputs(), folder)
        if self._is_pooled and not folder.modules.pools_prompt:
            raise ConfigError([f"{self._place} pools by itself; include_prompt false cannot be run with it"])
        # Padding at the left moves positions; a common scale mixes texts.
        self._max_padded_tokens = 1 if file.is_dynamic else micro_batch_tokens
        self._max_wasted_tokens = 0 if folder.padding.side == "left" else MAX_WASTED_TOKENS
        self.dim = folder.dim

    def cut(self, lengths: Sequence[int]) -> list[Rows]:
        """Split texts of these token counts into micro-batches: positions of each."""
        return cut_by_length(lengths, self._max_padded_tokens, self._max_wasted_tokens)

    def embed(self, rows: Sequence[TokenRow], n_prompt_tokens: int = 0) -> Vectors:
        """Embed one micro-batch. Returns (n, dim) float32, unit rows, in order.

        n_prompt_tokens: tokens at the start of each row that are left out of the pooling.
        Raises InvalidInput with the position of a row without any token, InternalError if the graph fails.
        """
        empty = next((position for position, row in enumerate(rows) if not len(row)), None)
        if empty is not None:
            raise InvalidInput("has no token that this model knows.", index=empty)
        ids, mask = self._padded(rows)
        try:
            found = self._session.run([self._output], self._feed(ids, mask))[0]
        except Exception as error:  # onnxruntime has a class for each of its codes, without a common one
            raise InternalError(f"{self._place} failed: {error}") from error
        values = np.asarray(found, dtype=np.float32)
        expected = (len(rows), self.dim) if self._is_pooled else (*ids.shape, self._folder.hidden_dim)
        if values.shape != expected:
            raise InternalError(f"{self._place} gave {self._output} of shape {values.shape}, not {expected}")
        if self._is_pooled:
            vectors = finish(values, ())
        else:
            pooled = pool(values, _without_prompt(mask, n_prompt_tokens), self._folder.modules.pooling)
            vectors = finish(pooled, self._steps)
        if not np.isfinite(vectors).all():
            raise InternalError(f"{self._place} gave numbers that are not finite")
        return np.ascontiguousarray(vectors)

    def _padded(self, rows: Sequence[TokenRow]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._pad_id, dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=np.bool_)
        for place, marks, row in zip(ids, mask, rows, strict=True):
            span = slice(longest - len(row), None) if self._folder.padding.side == "left" else slice(len(row))
            place[span] = row
            marks[span] = True
        return ids, mask

    def _feed(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[Any]]:
        first = self._folder.padding.first_position
        positions = np.where(mask, mask.cumsum(axis=1) - 1 + first, max(first - 1, 0))
        values = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
            "position_ids": positions,
        }
        return {name: values[name].astype(kind) for name, kind in self._types.items()}


def _without_prompt(mask: npt.NDArray[np.bool_], n_prompt_tokens: int) -> npt.NDArray[np.bool_]:
    if not n_prompt_tokens:
        return mask
    counted: npt.NDArray[np.bool_] = mask & (mask.cumsum(axis=1) > n_prompt_tokens)
    return counted


def _session(place: Path, file: OnnxFile, threads: int) -> Any:
    onnxruntime = import_extra("onnxruntime", "local")
    options = session_options(threads)
    if file.external:
        # Given from memory, they are not mapped, and no other file can be put in their place meanwhile.
        buffers = list(file.external.values())
        options.add_external_initializers_from_files_in_memory(list(file.external), buffers, list(map(len, buffers)))
    try:
        return onnxruntime.InferenceSession(
            file.content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime has a class for each of its codes, without a common one
        raise ConfigError([f"{place} cannot be loaded: {_first_line(error)}"]) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:500]


def _inputs(place: Path, inputs: Sequence[Any]) -> dict[str, type[np.int64] | type[np.int32]]:
    """The type of each input. Raises ConfigError for inputs that are not an encoder's."""
    names = [each.name for each in inputs]
    for beginning, kind in _OTHER_KINDS.items():
        if any(name.startswith(beginning) for name in names):
            raise ConfigError([f"{place} is {kind} (it takes {beginning}); only encoders of texts run here"])
    if unknown := [name for name in names if name not in _INPUTS]:
        raise ConfigError([f"{place} takes {', '.join(unknown[:5])}; only {', '.join(sorted(_INPUTS))} can be given"])
    if missing := [name for name in ("input_ids", "attention_mask") if name not in names]:
        raise ConfigError([f"{place} does not take {' and '.join(missing)}; it takes {', '.join(names) or 'nothing'}"])
    for each in inputs:
        if each.type not in _INTEGERS or len(each.shape) != 2:
            raise ConfigError(
                [f"{place}: {each.name} is {each.type} of {len(each.shape)} axes; it must be integers of 2"]
            )
        if fixed := [size for size in each.shape if isinstance(size, int)]:
            raise ConfigError([f"{place}: {each.name} has a fixed size of {fixed[0]}; export it with dynamic axes"])
    return {each.name: _INTEGERS[each.type] for each in inputs}


def _output(place: Path, outputs: Sequence[Any], folder: ModelFolder) -> tuple[str, bool]:
    """The output to use, and whether it has one vector per text. Raises ConfigError if none fits."""
    by_name = {each.name: each for each in outputs}
    name = next((name for name in (_TEXT_OUTPUT, *_TOKEN_OUTPUTS) if name in by_name), None)
    if name is None:
        raise ConfigError(
            [
                f"{place} gives {', '.join(list(by_name)[:5]) or 'nothing'}; an encoder gives one of "
                f"{', '.join((*_TOKEN_OUTPUTS, _TEXT_OUTPUT))}"
            ]
        )
    found, is_pooled = by_name[name], name == _TEXT_OUTPUT
    axes, size = (2, folder.dim) if is_pooled else (3, folder.hidden_dim)
    if found.type not in _FLOATS or len(found.shape) != axes:
        raise ConfigError([f"{place}: {name} is {found.type} of {len(found.shape)} axes; it must be floats of {axes}"])
    last = found.shape[-1]
    if isinstance(last, int) and last != size:
        raise ConfigError([f"{place}: {name} has {last} components; by config.json and modules.json they are {size}"])
    return name, is_pooled


def _dense(path: Path, step: Dense) -> DenseLayer:
    file = FolderFiles(path).file(f"{step.folder}/{DENSE_WEIGHTS}", 4 * step.n_in * step.n_out * 2 + 2**20)
    weights = Tensors(file)
    kernel = np.ascontiguousarray(weights.get("linear.weight", step.n_out, step.n_in).T)
    bias = weights.get("linear.bias", step.n_out) if step.has_bias else None
    return DenseLayer(kernel, bias, step.activation)
