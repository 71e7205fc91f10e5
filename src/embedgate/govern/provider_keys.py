"""Where the keys of a provider are: in files and variables that the settings name, or in its usual variable."""

from embedgate.config import Secrets
from embedgate.core.errors import ConfigError
from embedgate.providers.hosts import Host
from embedgate.settings import ProviderSettings


def find_keys(name: str, entry: ProviderSettings, row: Host, secrets: Secrets) -> tuple[str, ...]:
    """The keys of a provider, each an account of its own: those of the named files, then those of the variables.

    Where nothing is named, the first of its usual variables that is set counts. Nothing is found if none of the named
    variables is set; if only some are, that is a mistake, lest somebody count on more accounts than there are.
    Raises ConfigError with every mistake, also if a file cannot be read or a key is there twice.
    """
    if not entry.api_key_file and not entry.api_key_env:
        usual = (secrets.variable(variable) for variable in row.key_variables)
        return tuple(key for key in usual if key)[:1]
    places: dict[str, str] = {}
    mistakes: list[str] = []
    absent: list[str] = []

    def take(place: str, key: str | None) -> None:
        if key is None:
            absent.append(place)
        elif key in places:
            mistakes.append(f"providers.{name}: {place} holds the same key as {places[key]}; name each account once")
        else:
            places[key] = place

    for file in entry.api_key_file:
        try:
            take(str(file), secrets.provider_key(None, file))
        except ConfigError as error:
            mistakes += [f"providers.{name}: {mistake}" for mistake in error.mistakes]
    for variable in entry.api_key_env:
        take(variable, secrets.variable(variable))
    if absent and (places or mistakes):
        mistakes.append(f"providers.{name}: api_key_env names {', '.join(absent)}, which is not set")
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(places)
