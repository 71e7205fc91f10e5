"""`embedgate providers`: providers added or changed while the gateway runs. Their keys go in, and never come out."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedgate.cli import asking, options
from embedgate.cli.output import count, print_json, print_table
from embedgate.core.access import ProviderRecord
from embedgate.core.errors import ConfigError, InvalidInput, UnknownEntity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedgate.administration import Administration
    from embedgate.config import Loaded
    from embedgate.wiring.decide import Decided

app = typer.Typer(no_args_is_help=True, help="Add and change providers and their keys.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the provider.")]


class _Field(StrEnum):
    """What can be left to the settings file alone. (typer takes no list of literals.)"""

    HOST = "host"
    BASE_URL = "base-url"
    MAX_PARALLEL = "max-parallel"
    BATCHING = "batching"


@dataclass(frozen=True, slots=True)
class _Shown:
    """A provider as it is listed. None: as the settings file says, or not known while the gateway cannot start."""

    name: str
    is_on: bool | None
    is_stored: bool
    keys: int | None
    key_hint: str
    base_url: str | None
    host: str | None
    max_parallel: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    batching: bool | None


@app.command("list")
def list_providers(
    context: typer.Context, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """List the providers that are on, and those that are stored, with the end of a stored key."""
    loaded = options.load_settings(context, config_file)
    with options.administration(context, config_file) as opened:
        records = opened.providers.list()
    shown = list(_shown(records, _decided(loaded)))
    if as_json:
        print_json(shown)
        return
    rows = [
        (
            each.name,
            "?" if each.is_on is None else "on" if each.is_on else "off",
            "stored" if each.is_stored else "settings",
            count(each.keys),
            f"...{each.key_hint}" if each.key_hint else "",
            each.base_url or "",
            count(each.max_parallel),
        )
        for each in shown
    ]
    columns = ("provider", "state", "from", "keys", "stored key", "address", "at once")
    print_table(columns, rows, right=("keys", "at once"))


@app.command("set")
def set_provider(
    context: typer.Context,
    name: Name,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="The known host whose habits it follows.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Its address.")] = None,
    max_parallel: Annotated[int | None, typer.Option(metavar="N", help="Calls at once.")] = None,
    batching: Annotated[
        bool | None, typer.Option("--batching/--no-batching", help="Put texts of several callers into one call.")
    ] = None,
    unset: Annotated[
        list[_Field] | None,
        typer.Option(metavar="NAME", help=f"Leave one to the settings file again: {', '.join(_Field)}; repeatable."),
    ] = None,
    has_key: Annotated[
        bool, typer.Option("--key-stdin", help="Read its key from standard input, or ask for it without showing it.")
    ] = False,
    key_variable: Annotated[
        str | None, typer.Option("--key-env", metavar="NAME", help="Take its key from this environment variable, now.")
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Take an address of this machine or its network.")
    ] = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Store what is given of a provider, known or new; the rest stays as it is. A key is stored sealed."""
    given = {"host": host, "base_url": base_url, "max_parallel": max_parallel, "batching": batching}
    options.require_some({**given, "unset": unset, "key": key_variable or (has_key or None)})
    loaded = options.load_settings(context, config_file)
    key = _key(loaded, has_key=has_key, variable=key_variable)
    with options.administration(context, config_file) as opened:
        before = _stored(opened, name)
        fields: dict[str, Any] = {
            field: getattr(before, field) if value is None else value for field, value in given.items()
        }
        fields |= {field.replace("-", "_"): None for field in unset or ()}
        record = opened.providers.put(
            name,
            is_enabled=before.is_enabled,
            **fields,
            key=key,
            # An address that was allowed before needs no second permission.
            allow_private=allow_private or fields["base_url"] == before.base_url is not None,
        )
    _tell(record, "is stored", as_json=as_json)


@app.command("enable")
def enable_provider(
    context: typer.Context, name: Name, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Switch a provider on, whatever the settings file says."""
    with options.administration(context, config_file) as opened:
        record = opened.providers.enable(name)
    _tell(record, "is switched on", as_json=as_json)


@app.command("disable")
def disable_provider(
    context: typer.Context, name: Name, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Switch a provider off, whatever the settings file says."""
    with options.administration(context, config_file) as opened:
        record = opened.providers.disable(name)
    _tell(record, "is switched off", as_json=as_json)


@app.command("remove-key")
def remove_key(
    context: typer.Context,
    name: Name,
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Forget the stored key of a provider. One in the environment or the settings is used again."""
    asking.confirm(f"Forget the stored key of {name}?", is_agreed=is_agreed)
    with options.administration(context, config_file) as opened:
        record = opened.providers.remove_key(name)
    _tell(record, "has no stored key", as_json=as_json)


@app.command("delete")
def delete_provider(
    context: typer.Context,
    name: Name,
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete what is stored of a provider, its key too, so that the settings file holds."""
    asking.confirm(f"Delete what is stored of {name}, its key too?", is_agreed=is_agreed)
    with options.administration(context, config_file) as opened:
        record = opened.providers.delete(name)
    _tell(record, "is left to the settings file", as_json=as_json)


def _decided(loaded: "Loaded") -> "Decided | None":
    from embedgate.wiring import decide_as_stored  # brings every provider and the catalogue

    try:
        return decide_as_stored(loaded)
    except ConfigError as error:  # the list helps to repair what it says
        for mistake in error.mistakes:
            typer.echo(f"warning: a gateway could not start: {mistake}", err=True)
        return None


def _shown(records: "Sequence[ProviderRecord]", decided: "Decided | None") -> "Iterator[_Shown]":
    stored = {record.name: record for record in records}
    on = decided.switched_on if decided else frozenset[str]()
    for name in sorted({*stored, *on}):
        record = stored.get(name, ProviderRecord(name))
        in_use = decided.hosts.get(name) if decided else None
        yield _Shown(
            name=name,
            is_on=None if decided is None else name in on,
            is_stored=name in stored,
            keys=decided.n_keys(name) if decided else None,
            key_hint=record.key_hint,
            base_url=in_use.endpoint.base_url if in_use else record.base_url,
            host=record.host,
            max_parallel=in_use.max_parallel if in_use else record.max_parallel,
            requests_per_minute=in_use.requests_per_minute if in_use else None,
            tokens_per_minute=in_use.tokens_per_minute if in_use else None,
            batching=record.batching,
        )


def _key(loaded: "Loaded", *, has_key: bool, variable: str | None) -> str | None:
    if variable is None:
        return asking.read_secret("Key") if has_key else None
    if has_key:
        raise typer.BadParameter("the key comes from one place, not from two", param_hint="--key-env")
    key = loaded.secrets.variable(variable)
    if key is None:
        raise InvalidInput(f"The environment variable {variable} is not set. Set it, or use --key-stdin.", param="key")
    return key


def _stored(opened: "Administration", name: str) -> ProviderRecord:
    try:
        return opened.providers.get(name)
    except UnknownEntity:
        return ProviderRecord(name)


def _tell(record: ProviderRecord, told: str, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(record))
    else:
        typer.echo(f"{record.name} {told}")
