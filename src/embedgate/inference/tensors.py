"""Reader of safetensors files: tensors as float32, by name, with their shapes checked."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedgate.core.errors import ConfigError
from embedgate.inference.extras import import_extra

Floats = npt.NDArray[np.float32]


class Tensors:
    """The tensors of one file, read on demand. Half-precision ones are widened, which is exact."""

    def __init__(self, file: Path) -> None:
        """Read the list of tensors. Raises ConfigError if it is damaged, DependencyMissing without safetensors."""
        safetensors = import_extra("safetensors", "local")
        import_extra("ml_dtypes", "local")  # registers bfloat16 with numpy
        self._file = file
        try:
            self._tensors: Any = safetensors.safe_open(file, framework="numpy")
        except (OSError, safetensors.SafetensorError) as error:
            raise ConfigError([f"model file {file} cannot be read: {error}"]) from error
        self._names = frozenset(self._tensors.keys())

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._names

    @property
    def n_values(self) -> int:
        """Number of values in all tensors."""
        return sum(math.prod(self._tensors.get_slice(name).get_shape()) for name in self._names)

    def get(self, name: str, *shape: int) -> Floats:
        """One tensor, float32. Raises ConfigError if it is missing or of another shape."""
        seen = tuple(self._tensors.get_slice(name).get_shape()) if name in self._names else None
        if seen != shape:
            fault = f"has shape {seen}" if seen else "is missing"
            raise ConfigError([f"model file {self._file}: {name} {fault}; it must have shape {shape}"])
        tensor: npt.NDArray[Any] = self._tensors.get_tensor(name)
        return tensor.astype(np.float32, copy=False)
