"""Reader of safetensors files: tensors as float32, by name, with their shapes checked."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedgate.core.errors import ConfigError
from embedgate.inference.extras import import_extra

Floats = npt.NDArray[np.float32]
_NUMPY_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Tensors:
    """The tensors of one file. Half-precision ones are widened, which is exact.

    The file is read, not mapped: one that is cut short under a mapping would end the process.
    """

    def __init__(self, file: Path) -> None:
        """Read the file. Raises ConfigError if it is damaged, DependencyMissing without safetensors."""
        safetensors = import_extra("safetensors", "local")
        import_extra("ml_dtypes", "local")  # registers bfloat16 with numpy
        self._file = file
        try:
            self._tensors: Mapping[str, Mapping[str, Any]] = dict(safetensors.deserialize(file.read_bytes()))
        except (OSError, safetensors.SafetensorError) as error:
            raise ConfigError([f"model file {file} cannot be read: {error}"]) from error

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._tensors

    @property
    def n_values(self) -> int:
        """Number of values in all tensors."""
        return sum(math.prod(tensor["shape"]) for tensor in self._tensors.values())

    def get(self, name: str, *shape: int) -> Floats:
        """One tensor, float32. Raises ConfigError if it is missing, of another shape, or does not hold floats."""
        tensor = self._tensors.get(name)
        seen = tuple(tensor["shape"]) if tensor is not None else None
        if tensor is None or seen != shape:
            fault = f"has shape {seen}" if seen else "is missing"
            raise ConfigError([f"model file {self._file}: {name} {fault}; it must have shape {shape}"])
        kind = _NUMPY_NAMES.get(tensor["dtype"])
        if kind is None:
            raise ConfigError([f"model file {self._file}: {name} is of type {tensor['dtype']}; it must hold floats"])
        values: npt.NDArray[Any] = np.frombuffer(tensor["data"], np.dtype(kind)).reshape(shape)
        return values.astype(np.float32, copy=False)
