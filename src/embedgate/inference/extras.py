"""Imports of optional dependencies, with an error that names the missing extra."""

import importlib
from types import ModuleType

from embedgate.core.errors import DependencyMissing


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module. Raises DependencyMissing naming the extra if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyMissing(f"{module} is not installed: install embedgate[{extra}]") from error
