"""Reference of settings: path, type, default and description, for the reference page and `embedgate config show`.

Derived from the tree in `settings`.
"""

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from embedgate.settings import Settings


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting."""

    path: str
    type: str
    default: str
    description: str


def fields(section: type[BaseModel] = Settings, path: str = "") -> Iterator[SettingInfo]:
    """Every setting of the tree, in order. Entries of tables keyed by name appear once, as `<name>`."""
    for name, info in section.model_fields.items():
        here = f"{path}.{name}" if path else name
        annotation: Any = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from fields(annotation, here)
            continue
        entry = _entry_type(annotation)
        if entry is not None:
            yield from fields(entry, f"{here}.<name>")
            continue
        yield SettingInfo(here, _type_text(annotation), _default_text(info), info.description or "")


def _entry_type(annotation: Any) -> type[BaseModel] | None:
    """The section that a `dict[str, Section]` holds."""
    if typing.get_origin(annotation) is not dict:
        return None
    entry = typing.get_args(annotation)[1]
    return entry if isinstance(entry, type) and issubclass(entry, BaseModel) else None


def _type_text(annotation: Any) -> str:
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", Decimal: "dollars"}
    options = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return f"{_type_text(options[1])} by name"
    if typing.get_origin(annotation) is Literal:
        return " or ".join(map(str, options))
    if typing.get_origin(annotation) is Annotated:
        return _type_text(options[0])
    if options:
        return " or ".join(_type_text(option) for option in options if option not in (type(None), Ellipsis))
    return names.get(annotation, str(annotation))


def _default_text(info: Any) -> str:
    if info.is_required():
        return "required"
    if info.default_factory is not None:
        return "per user data folder" if "Folder" in (info.description or "") else "empty"
    return "none" if info.default is None else str(info.default)
