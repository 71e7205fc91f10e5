"""Settings reader: loads a TOML file and the environment, and checks them as a whole.

This is the only module that reads the environment. Precedence: command line, environment, file, default. Four
settings have short names (EMBEDGATE_HOST, EMBEDGATE_PORT, EMBEDGATE_DATA_DIR, EMBEDGATE_CONFIG); every other
one is EMBEDGATE_<SECTION>__<FIELD>. Unknown keys are errors, and all errors are reported at once.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from embedgate.core.errors import ConfigError
from embedgate.settings import Settings

PREFIX = "EMBEDGATE_"
SHORT_NAMES = {
    "EMBEDGATE_HOST": ("server", "host"),
    "EMBEDGATE_PORT": ("server", "port"),
    "EMBEDGATE_DATA_DIR": ("storage", "data_dir"),
}
CONFIG_VARIABLE = "EMBEDGATE_CONFIG"
OF_COMMANDS = frozenset({CONFIG_VARIABLE, "EMBEDGATE_URL", "EMBEDGATE_API_KEY", "EMBEDGATE_STORE"})
"""Variables of commands that are not settings: the file itself, and the remote gateway of a command."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets by reference: environment variables as they were at the start, and files. Never printed."""

    _environment: Mapping[str, str] = field(repr=False)

    def variable(self, name: str) -> str | None:
        """The value of an environment variable, None if it is not set or empty."""
        return self._environment.get(name, "").strip() or None

    def provider_key(self, variable: str | None, file: Path | None) -> str | None:
        """The key in `file` if one is named, else in the environment variable; None if there is none.

        Raises ConfigError if the file cannot be read or is empty.
        """
        if file is not None:
            try:
                key = file.expanduser().read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError([f"api_key_file {file} cannot be read: {error}"]) from error
            if not key:
                raise ConfigError([f"api_key_file {file} is empty"])
            return key
        return self.variable(variable) if variable else None


@dataclass(frozen=True, slots=True)
class Loaded:
    """Loaded settings, the path of their file (None without one), and the secrets they refer to."""

    settings: Settings
    file: Path | None
    secrets: Secrets


def environment() -> Secrets:
    """The secrets that this process was given in its environment."""
    return Secrets(dict(os.environ))


def load(
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Loaded:
    """Read file and environment, apply command-line overrides, check everything.

    config_file: else EMBEDGATE_CONFIG, else ./embedgate.toml if it is there, else no file.
    overrides: values by section and field; None values are left out.
    Raises ConfigError with every mistake found.
    """
    environment = dict(os.environ) if environment is None else environment
    file = _find_file(config_file, environment)
    tree = _read_file(file) if file else {}
    mistakes = _merge_environment(tree, environment)
    for section, values in (overrides or {}).items():
        if isinstance(node := tree.setdefault(section, {}), dict):
            node.update({name: value for name, value in values.items() if value is not None})
    try:
        settings = Settings.model_validate(tree)
    except pydantic.ValidationError as error:
        mistakes += [_explain(detail) for detail in error.errors()]
        raise ConfigError(mistakes) from error
    if mistakes:
        raise ConfigError(mistakes)
    return Loaded(settings, file, Secrets(environment))


def _find_file(config_file: Path | None, environment: Mapping[str, str]) -> Path | None:
    named = config_file or (Path(environment[CONFIG_VARIABLE]) if environment.get(CONFIG_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError([f"configuration file {named} does not exist"])
        return named
    default = Path("embedgate.toml")
    return default if default.is_file() else None


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{file}: {error}"]) from error


def _merge_environment(tree: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Write EMBEDGATE_ variables into the tree. Returns the mistakes found."""
    mistakes = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in OF_COMMANDS:
            continue
        path = SHORT_NAMES.get(name) or tuple(name.removeprefix(PREFIX).lower().split("__"))
        if len(path) < 2 or not all(path):
            mistakes.append(f"{name}: no such setting; write {PREFIX}<SECTION>__<FIELD>")
            continue
        node: Any = tree
        for part in path[:-1]:
            node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            mistakes.append(f"{name}: {'.'.join(path[:-1])} is not a section")
            continue
        node[path[-1]] = environment[name]
    return mistakes


def _explain(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{place}: no such setting"
    seen = detail["input"]
    shown = f" (seen: {seen!r})" if isinstance(seen, (str, int, float, bool)) else ""
    return f"{place}: {detail['msg']}{shown}"
