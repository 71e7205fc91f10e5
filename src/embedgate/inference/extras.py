"""Imports what an optional extra of embedgate brings, or says which extra is missing."""

import importlib
from types import ModuleType

from embedgate.core.errors import DependencyMissing


def import_extra(module: str, extra: str) -> ModuleType:
    """The module. Raises DependencyMissing naming the extra if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyMissing(f"{module} is not installed: install embedgate[{extra}]") from error
