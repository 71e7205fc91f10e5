"""Imports of optional dependencies, with an error that names the missing extra."""

import importlib
import os
from types import ModuleType

from embedgate.core.errors import DependencyMissing

_SILENCED_BY = {"onnxruntime": "ORT_DISABLE_TELEMETRY"}
"""Libraries that report on their use from their import on, and the variable that keeps them from it. onnxruntime 1.31
does so on Linux, too, and keeps files in the home folder for it; the function that it has comes after the import."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module, kept from reporting on its use. Raises DependencyMissing naming the extra if it is missing."""
    if module in _SILENCED_BY:
        os.putenv(_SILENCED_BY[module], "1")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyMissing(f"{module} is not installed: install embedgate[{extra}]") from error
