"""`embedgate models`: the catalogue, seen through the settings and what is stored of providers.

Models are added to providers here, too. Only `verify` and `discover` call a provider; `pull` calls a hub.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from embedgate.cli import asking, discover, options, pull
from embedgate.cli.commands import Commands, Form, Session
from embedgate.cli.output import print_json, print_table
from embedgate.core.actions import ActionName
from embedgate.core.errors import UnknownProvider
from embedgate.core.models import DimRange
from embedgate.core.near_names import did_you_mean
from embedgate.govern import model_changes, models, providers, verification
from embedgate.govern.model_changes import ModelAdded, ModelAtProvider
from embedgate.govern.models import CatalogModel, ModelQuery, RouteOfModel, Sizes, WhichModel
from embedgate.govern.providers import ProviderQuery
from embedgate.govern.verification import ModelToVerify, VerifiedRoute

commands = Commands("Look at the models, and add some to providers.")
app = commands.app

_MAKES = {"embedding": "vectors", "chat": "chat; no vectors", "rerank": "an order of documents; no vectors"}


@commands.written("list")
def list_models(
    session: Session,
    show_all: Annotated[bool, typer.Option("--all", help="Also models whose providers are all off.")] = False,
    provider: Annotated[str | None, typer.Option(metavar="NAME", help="Only models at this provider.")] = None,
    action: Annotated[ActionName, typer.Option(help="What they are for.")] = "embedding",
) -> None:
    """List the models that can be used. Prices are in dollars per million tokens, unless they say otherwise."""
    if provider is not None:
        known = sorted(each.name for each in session.every(providers.list_providers, ProviderQuery()).items)
        if provider not in known:
            near = did_you_mean(provider, known)
            raise UnknownProvider(f"There is no provider {provider!r}. {near}There are {', '.join(known)}.")
    query = ModelQuery(action=action, provider=provider, is_on=None if show_all else True, sort="id")
    listed = session.every(models.list_models, query)
    if session.as_json:
        print_json(listed)
        return
    columns = ("model", "size", "tokens", "price", "providers", "state")
    print_table(columns, [_row(model) for model in listed.items], right=("size", "tokens", "price"))
    if show_all:
        _explain_off(session, listed.items)


@commands.written("show")
def show_model(
    session: Session,
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a model, its alias, or its bare name.")],
) -> None:
    """Show a model and the providers that serve it. They are in the order in which they are tried."""
    model = session.call(models.show_model, WhichModel(model_id))
    if session.as_json:
        print_json(model)
        return
    print_table(("field", "value"), [(name, value) for name, value in _facts(model) if value])
    typer.echo()
    columns = ("provider", "called", "size", "tokens", "price", "as of", "state")
    print_table(columns, [_route_row(route) for route in model.routes], right=("size", "tokens", "price"))
    _explain_off(session, [model])


def _added(added: ModelAdded) -> str:
    state = "is on at" if added.is_on else "is stored for"
    return "\n".join([f"{added.model.id} {state} {added.provider}", *added.notes])


commands.add(
    "add",
    model_changes.add_model,
    _added,
    Form(
        arguments=("model",),
        options={"usd_per_million_tokens": "--price", "usd_per_million_output_tokens": "--output-price"},
    ),
    doc="Add a model to a provider; it can be asked for at once. Prices are in dollars per million tokens.",
)


@commands.written("discover")
def discover_models(
    session: Session,
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="Name of the provider.")],
    names: Annotated[
        list[str] | None, typer.Option("--name", metavar="NAME", help="Only what the server calls so; repeatable.")
    ] = None,
    most: Annotated[int, typer.Option(metavar="N", min=1, help="How many models are tried.")] = 20,
    adds: Annotated[bool, typer.Option("--add", help="Add what is found.")] = False,
) -> None:
    """Ask a provider which models it has, and try and add them.

    Models that are served already are not tried; without --add, commands that add the others are printed.
    Trying a model takes a few calls, of some ten thousand tokens together.
    """
    discover.discover(session, provider, names=names or (), most=most, adds=adds)


@commands.written("remove")
def remove_model(
    session: Session,
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a model that was added.")],
    provider: Annotated[str | None, typer.Option(metavar="NAME", help="Only at this provider.")] = None,
    is_agreed: asking.Yes = False,
) -> None:
    """Remove a model that was added. What the catalogue has of it stays."""
    at = f" from {provider}" if provider else ""
    asking.confirm(f"Remove {model_id}{at}?", is_agreed=is_agreed)
    which = ModelAtProvider(model_id, provider)
    session.call(model_changes.remove_model, which)
    session.show(which, lambda: f"{model_id} is removed{at}")


@app.command("pull")
def pull_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="ID", help="Id on the hub, such as BAAI/bge-small-en-v1.5.")],
    revision: Annotated[str, typer.Option(metavar="REVISION", help="Branch, tag or commit; it is pinned.")] = "main",
    hub_url: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="Hub, or a mirror of it. If absent: local.hub_url.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="If absent: a folder in the data folder, served as it is.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name here, local/NAME. If absent: the end of the id.")
    ] = None,
    file: Annotated[
        str | None, typer.Option(metavar="PATH", help="Weights to run, such as onnx/model_quantized.onnx.")
    ] = None,
    digest: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Digest of the manifest; nothing else is taken.")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Most bytes of all files. If absent: local.max_model_bytes.")
    ] = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Download a model from a hub; it then runs on this machine.

    Only the files that it needs are loaded, and each is checked by its digest. The next run continues one that was
    stopped. A token for models that need one is taken from HF_TOKEN.
    """
    from embedgate.inference.pull import Wanted

    loaded = options.load_settings(context, config_file)
    wanted = Wanted(model, revision, into, name, file, digest and digest.removeprefix("sha256:").lower(), max_bytes)
    pull.pull(loaded, wanted, hub_url, as_json=as_json)


@commands.written("verify")
def verify_models(
    session: Session,
    model_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Id of a model, its alias, or its bare name.")
    ] = None,
) -> None:
    """Find routes of a model that give other vectors. Every route embeds the same texts; the likely cause is named.

    Without an id: of every model that several providers serve, or that runs here, too. A route costs some 600 tokens,
    which are in the ledger. Ends with 1 if a route is wrong or does not answer.
    """
    verified = session.call(verification.verify_models, ModelToVerify(model_id))
    if session.as_json:
        print_json(verified.models)
    elif verified.note is not None:
        typer.echo(verified.note)
    else:
        print_table(
            ("model", "provider", "similarity", "verdict", "likely because"),
            [_verdict_row(route) for model in verified.models for route in model.routes],
            right=("similarity",),
        )
    if any(route.state in ("wrong", "failed") for model in verified.models for route in model.routes):
        raise typer.Exit(1)


def _verdict_row(route: VerifiedRoute) -> tuple[str, ...]:
    similarity = "" if route.similarity is None else f"{route.similarity:.4f}"
    return (route.model, route.provider, similarity, route.state, route.explanation)


def _row(model: CatalogModel) -> tuple[str, ...]:
    routes = [route for route in model.routes if route.is_on or not model.is_on]
    return (
        model.id,
        _sizes(model.sizes),
        str(model.max_input_tokens),
        _price_of(routes),
        ", ".join(route.provider for route in routes),
        "on" if model.is_on else "off",
    )


def _route_row(route: RouteOfModel) -> tuple[str, ...]:
    return (
        route.provider,
        route.upstream_model,
        _sizes(route.sizes),
        str(route.max_input_tokens),
        _price_text(route),
        route.price_as_of or "",
        "on" if route.is_on else "off",
    )


def _sizes(sizes: Sizes | None) -> str:
    if sizes is None:
        return ""
    return DimRange(sizes.default, sizes.minimum, sizes.maximum, sizes.allowed).describe()


def _price_of(routes: Sequence[RouteOfModel]) -> str:
    """The least price of a model; of one that is free at some of its providers only, the most, too."""
    known = [route for route in routes if route.is_free or route.usd_per_million_tokens is not None]
    if not known:
        return "?"
    cheapest = min(known, key=_dollars)
    if not cheapest.is_free or all(route.is_free for route in routes):
        return _price_text(cheapest)
    return f"0 to {'?' if len(known) < len(routes) else _price_text(max(known, key=_dollars))}"


def _dollars(route: RouteOfModel) -> tuple[bool, Decimal]:
    return not route.is_free, Decimal(route.usd_per_million_tokens or 0)


def _price_text(route: RouteOfModel) -> str:
    """Dollars per million input tokens or per thousand searches; or that it is free or not known."""
    if route.is_free:
        return "free"
    if route.usd_per_million_tokens is None:
        return "?"
    if Decimal(route.usd_per_thousand_searches or 0):
        return f"{route.usd_per_thousand_searches} per 1,000 searches"
    if not Decimal(route.usd_per_million_tokens):
        return f"0, {route.usd_per_million_output_tokens} written"
    return route.usd_per_million_tokens


def _facts(model: CatalogModel) -> list[tuple[str, str]]:
    return [
        ("id", model.id),
        ("makes", _MAKES[model.action]),
        ("vector space", model.space or ""),
        ("size", f"{model.sizes.default} of {_sizes(model.sizes)}" if model.sizes else ""),
        ("can be shortened", "yes" if model.is_matryoshka else ""),
        ("tokens per input", str(model.max_input_tokens)),
        ("status", "" if model.status == "active" else model.status),
        ("note", model.note or ""),
    ]


def _explain_off(session: Session, found: Iterable[CatalogModel]) -> None:
    """How to switch on what is off."""
    off = {route.provider for model in found for route in model.routes if not route.is_on}
    if not off:
        return
    typer.echo("\nTo switch on what is off:")
    for provider in session.every(providers.list_providers, ProviderQuery()).items:
        if provider.name in off:
            typer.echo(f"  {provider.how_to_switch_on}")
