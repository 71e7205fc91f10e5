"""Names of a package that are imported when they are first used (PEP 562): importing the package itself stays cheap."""

import importlib
import sys
from collections.abc import Callable, Mapping


def imported_on_use(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package. homes: the module that defines each name.

    The function raises AttributeError for any other name.
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return find
