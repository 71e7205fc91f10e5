"""Likely mistakes in settings that are valid: addresses with an endpoint, keys with quotation marks, empty variables.

They keep no gateway from starting. `embedgate config check` finds them.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from embedgate.config import Loaded
from embedgate.core.errors import ConfigError
from embedgate.providers import hosts
from embedgate.settings import ProviderSettings

_ENDPOINTS = ("/embeddings", "/chat/completions", "/completions", "/rerank", "/embed")
_QUOTES = ("'", '"')


def likely_mistakes(loaded: Loaded) -> list[str]:
    """What is most likely wrong with the settings and the variables that they name, a sentence for each."""
    rows = hosts.load()
    found: list[str] = []
    for name, entry in loaded.settings.providers.items():
        if entry.enabled is not False:
            found += _of_entry(name, entry, loaded)
    unnamed = [row.key_variables for name, row in rows.items() if not _names_keys(loaded.settings.providers.get(name))]
    for variable in dict.fromkeys(variable for variables in unnamed for variable in variables):
        found += _quoted(f"The variable {variable}", loaded.secrets.variable(variable))
    variable_of_master = loaded.settings.access.master_key_env
    if variable_of_master and loaded.secrets.variable(variable_of_master) is None:
        found.append(_unset("access.master_key_env", variable_of_master))
    return found


def _names_keys(entry: ProviderSettings | None) -> bool:
    return entry is not None and bool(entry.api_key_env or entry.api_key_file or entry.enabled is False)


def _of_entry(name: str, entry: ProviderSettings, loaded: Loaded) -> Iterator[str]:
    path = urlsplit(entry.base_url or "").path.rstrip("/")
    if endpoint := next((each for each in _ENDPOINTS if path.endswith(each)), None):
        address = (entry.base_url or "").partition("?")[0].rstrip("/").removesuffix(endpoint)
        yield f"providers.{name}.base_url ends with {endpoint}, which is added to it. Use {address}"
    for variable in entry.api_key_env:
        key = loaded.secrets.variable(variable)
        if key is None and len(entry.api_key_env) + len(entry.api_key_file) == 1:  # else it is refused at the start
            yield _unset(f"providers.{name}.api_key_env", variable)
        yield from _quoted(f"The variable {variable}", key)
    for file in entry.api_key_file:
        try:
            yield from _quoted(f"The file {file}", loaded.secrets.provider_key(None, file))
        except ConfigError:
            continue  # it is reported where the key is read


def _unset(setting: str, variable: str) -> str:
    return f"{setting} names {variable}, which is not set or empty. Set it, or leave the setting out."


def _quoted(where: str, key: str | None) -> Iterator[str]:
    """That a key has quotation marks, which some readers of environment files keep. The key is not repeated."""
    if key is not None and (key.startswith(_QUOTES) or key.endswith(_QUOTES)):
        yield f"{where} holds a key with quotation marks, which would be sent with it. Write the key without them."
