"""`embedgate providers`: providers added or changed while the gateway runs. Their keys are stored, and never shown."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from embedgate import config
from embedgate.cli import asking, options
from embedgate.cli.advice import for_commands
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Facts, Table, count
from embedgate.core.errors import InvalidInput
from embedgate.govern import providers
from embedgate.govern.providers import Provider, ProviderQuery, ProviderToSet, TrialOf, TrialResult, WhichProvider

commands = Commands("Add and change providers and their keys.")
app = commands.app

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the provider.")]
Models = Annotated[
    list[str] | None,
    typer.Option(metavar="ID", help="A model that it serves, if not all that are known there; repeatable."),
]
Weight = Annotated[
    int | None, typer.Option(metavar="N", help="Its share of requests where routes are drawn by weight.")
]
Precision = Annotated[str | None, typer.Option(metavar="NAME", help="Precision of its weights, such as f16 or int8.")]
PerMinute = Annotated[int | None, typer.Option(metavar="N", help="Of one key.")]
Free = Annotated[
    bool | None, typer.Option("--free/--no-free", help="A server of your own: what has no price costs nothing.")
]
NamesFreely = Annotated[
    bool | None, typer.Option("--names-freely/--no-names-freely", help="Its answers may give a model another name.")
]


class _Field(StrEnum):
    """What can be left to the settings file alone. (typer takes no list of literals.)"""

    HOST = "host"
    BASE_URL = "base-url"
    MAX_PARALLEL = "max-parallel"
    BATCHING = "batching"
    MODELS = "models"
    WEIGHT = "weight"
    PRECISION = "precision"
    REQUESTS_PER_MINUTE = "requests-per-minute"
    TOKENS_PER_MINUTE = "tokens-per-minute"
    FREE = "free"
    NAMES_FREELY = "names-freely"


@commands.written("list")
def list_providers(session: Session) -> None:
    """List the providers that are on or stored. A stored key is shown by its end."""
    listed = session.every(providers.list_providers, ProviderQuery())
    for lacks in {each.how_to_switch_on for each in listed.items if each.is_on is None}:
        typer.echo(f"warning: a gateway could not start: {lacks}", err=True)  # the list helps to repair that
    session.show(listed, lambda: _table([each for each in listed.items if each.is_on or each.is_stored]))


@commands.written("set")
def set_provider(
    session: Session,
    name: Name,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="The known host whose habits it follows.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Its address.")] = None,
    max_parallel: Annotated[int | None, typer.Option(metavar="N", help="Calls at once.")] = None,
    batching: Annotated[
        bool | None, typer.Option("--batching/--no-batching", help="Put texts of several callers into one call.")
    ] = None,
    models: Models = None,
    weight: Weight = None,
    precision: Precision = None,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: PerMinute = None,
    free: Free = None,
    names_freely: NamesFreely = None,
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
) -> None:
    """Change a provider, or add one. What is not given stays as it is; a key is stored encrypted."""
    given = {
        "host": host, "base_url": base_url, "max_parallel": max_parallel, "batching": batching,
        "models": tuple(models) if models else None, "weight": weight, "precision": precision,
        "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute, "free": free,
        "names_freely": names_freely,
    }  # fmt: skip
    options.require_some({**given, "unset": unset, "key": key_variable or (has_key or None)})
    key = _key(has_key=has_key, variable=key_variable)
    before = _stored(session, name)
    fields: dict[str, Any] = {field: _kept(before, field) if value is None else value for field, value in given.items()}
    fields |= {field.replace("-", "_"): None for field in unset or ()}
    changed = session.call(
        providers.set_provider,
        ProviderToSet(
            name,
            before.is_enabled,
            **fields,
            key=key,
            # An address that was allowed before needs no second permission.
            allow_private=allow_private or fields["base_url"] == before.base_url is not None,
        ),
    )
    session.show(changed, lambda: _stored_as(changed))


def _switched_on(provider: Provider) -> str:
    told = f"{provider.name} is switched on"
    return told if provider.is_on else f"{told}; yet {provider.how_to_switch_on}"


commands.add(
    "enable",
    providers.enable_provider,
    _switched_on,
    doc="Switch a provider on, whatever the settings file says.",
)
commands.add(
    "disable",
    providers.disable_provider,
    lambda provider: f"{provider.name} is switched off",
    doc="Switch a provider off, whatever the settings file says.",
)


@commands.written("remove-key")
def remove_key(session: Session, name: Name, is_agreed: asking.Yes = False) -> None:
    """Forget the stored key of a provider. One in the environment or the settings is used again."""
    asking.confirm(f"Forget the stored key of {name}?", is_agreed=is_agreed)
    changed = session.call(providers.remove_key, WhichProvider(name))
    session.show(changed, lambda: f"{changed.name} has no stored key")


commands.add_delete(
    "delete",
    providers.delete_provider,
    providers.show_provider,
    lambda provider: f"Delete what is stored of {provider.name}, its key too?",
    lambda provider: f"{provider.name} is left to the settings file",
    "Delete what is stored of a provider. Its stored key goes, too; the settings file applies again.",
)


def _result(result: TrialResult) -> Facts:
    return Facts(
        [
            ("provider", result.provider),
            ("answer", "right" if result.ok else "none"),
            ("model", result.model or ""),
            ("size", count(result.dim)),
            ("tokens", count(result.tokens)),
            ("cost", f"{result.cost_usd} dollars" if result.cost_usd else ""),
            ("ms", f"{result.ms:.0f}"),
            ("error", for_commands(result.error or "")),
            ("code", result.code or ""),
        ]
    )


@commands.written("test")
def try_provider(
    session: Session,
    name: Name,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="A model; absent: its first.")] = None,
    same_model: Annotated[str | None, typer.Option("--model", metavar="ID", help="The same as MODEL.")] = None,
) -> None:
    """Try a provider. Embeds one word with it."""
    result = session.call(providers.try_provider, TrialOf(name, same_model or model))
    session.show(result, lambda: _result(result))


def _table(found: Sequence[Provider]) -> Table:
    rows = [
        (
            each.name,
            "?" if each.is_on is None else "on" if each.is_on else "off",
            "stored" if each.is_stored else "settings",
            "" if each.is_on is None else count(each.keys),
            f"...{each.key_hint}" if each.key_hint else "",
            (each.in_use.base_url if each.in_use else each.base_url) or "",
            count(each.in_use.max_parallel if each.in_use else each.max_parallel),
        )
        for each in found
    ]
    columns = ("provider", "state", "from", "keys", "stored key", "address", "at once")
    return Table(columns, rows, right=("keys", "at once"))


def _key(*, has_key: bool, variable: str | None) -> str | None:
    if variable is None:
        return asking.read_secret("Key") if has_key else None
    if has_key:
        raise typer.BadParameter("the key comes from one place, not from two", param_hint="--key-env")
    key = config.environment().variable(variable)
    if key is None:
        raise InvalidInput(f"The environment variable {variable} is not set. Set it, or use --key-stdin.", param="key")
    return key


def _stored_as(changed: Provider) -> str:
    """That it is stored, and if nothing can be asked of it yet, what to do about that."""
    told = f"{changed.name} is stored"
    return told if changed.is_on else f"{told}, and not on yet: {changed.how_to_switch_on}"


def _kept(before: Provider | ProviderToSet, field: str) -> object:
    if field == "models" and isinstance(before, Provider):
        return before.models_served
    return getattr(before, field)


def _stored(session: Session, name: str) -> Provider | ProviderToSet:
    """What is set of a provider; nothing if it is a new one."""
    return session.find(providers.show_provider, WhichProvider(name)) or ProviderToSet(name)
