"""`embedgate config`: checks and shows the settings. Provider keys are shown only as set or not set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from embedgate.cli import options
from embedgate.cli.output import print_json, print_table
from embedgate.core.errors import ConfigError

if TYPE_CHECKING:
    from embedgate.config import Loaded

app = typer.Typer(no_args_is_help=True, help="Check and show the settings.")

_ENTRY = "<name>"


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting as it is in effect."""

    path: str
    value: Any
    is_default: bool
    description: str


@dataclass(frozen=True, slots=True)
class _ProviderKey:
    """Where the key of one provider is looked for, and whether it is there."""

    provider: str
    is_set: bool
    source: str


@app.command("check")
def check(context: typer.Context, config_file: options.ConfigFile = None) -> None:
    """Report every mistake in the settings. Files that they name and the environment are read, too.

    Also what is allowed and most likely wrong: an address with an endpoint, a key in quotation marks, a variable
    that is named and not set.
    """
    from embedgate.govern.config_check import likely_mistakes
    from embedgate.govern.selection import decide  # brings every provider and the catalogue
    from embedgate.server.tls import protection

    loaded = options.load_settings(context, config_file)
    mistakes: list[str] = []
    for examine in (lambda: decide(loaded), lambda: protection(loaded.settings.server)):
        try:
            examine()
        except ConfigError as error:
            mistakes += error.mistakes
    mistakes += [mistake for mistake in likely_mistakes(loaded) if mistake not in mistakes]
    if mistakes:
        raise ConfigError(mistakes)
    typer.echo(f"ok: {loaded.file or 'defaults'}")


@app.command("show")
def show(context: typer.Context, as_json: options.AsJson = False, config_file: options.ConfigFile = None) -> None:
    """Show the settings in effect, and where each comes from. Provider keys are shown as present or absent."""
    loaded = options.load_settings(context, config_file)
    effective = list(_effective(loaded))
    keys = list(_provider_keys(loaded))
    if as_json:
        print_json({"file": _plain(loaded.file), "settings": effective, "provider_keys": keys})
        return
    typer.echo(f"file: {loaded.file or 'none'}\n")
    rows = [
        (item.path, _text(item.value), "default" if item.is_default else "set", item.description) for item in effective
    ]
    print_table(("setting", "value", "from", "meaning"), rows)
    typer.echo()
    print_table(
        ("provider", "key", "from"), [(key.provider, "set" if key.is_set else "not set", key.source) for key in keys]
    )


def _effective(loaded: "Loaded") -> Iterator[_Setting]:
    """Every setting in the order of the tree; those of tables keyed by name once per name."""
    from embedgate.settings import Settings
    from embedgate.settings_reference import fields

    defaults = Settings()
    for info in fields():
        before, entry, after = info.path.partition(f".{_ENTRY}.")
        if not entry:
            value = _at(loaded.settings, info.path)
            yield _Setting(info.path, _plain(value), value == _at(defaults, info.path), info.description)
            continue
        for name, section in _at(loaded.settings, before).items():
            value = _at(section, after)
            is_default = after not in section.model_fields_set
            yield _Setting(f"{before}.{name}.{after}", _plain(value), is_default, info.description)


def _at(section: Any, path: str) -> Any:
    for name in path.split("."):
        section = getattr(section, name)
    return section


def _plain(value: Any) -> Any:
    """A value as JSON knows it: paths become texts."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str, list, Mapping)) else str(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _provider_keys(loaded: "Loaded") -> Iterator[_ProviderKey]:
    """The providers that need a key or are given one. Raises ConfigError if keys of one are missing or unreadable."""
    from embedgate.govern.provider_keys import find_keys
    from embedgate.providers import hosts
    from embedgate.settings import ProviderSettings

    rows = hosts.load()
    entries = loaded.settings.providers
    for name in dict.fromkeys((*rows, *entries)):
        entry = entries.get(name) or ProviderSettings()
        row = rows.get(entry.host or name) or rows[hosts.GENERIC]
        named = " and ".join(map(str, (*entry.api_key_file, *entry.api_key_env)))
        source = named or " or ".join(row.key_variables)
        if source:
            yield _ProviderKey(name, bool(find_keys(name, entry, row, loaded.secrets)), source)
