"""`embedgate models`: the catalogue, seen through the settings and what is stored of providers.

Only `verify` calls a provider.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedgate.cli import options
from embedgate.cli.output import print_json, print_table
from embedgate.core.actions import ACTIONS
from embedgate.core.errors import NotAnEmbeddingModel, UnknownModel, UnknownProvider
from embedgate.core.money import usd_text

if TYPE_CHECKING:
    from embedgate.catalog import Catalog
    from embedgate.core.models import Model, Price, Route
    from embedgate.engine.routing.compare import Verdict
    from embedgate.wiring.decide import Decided

app = typer.Typer(no_args_is_help=True, help="Look at the models.")

_TOKENS_PER_PRICE = 1_000_000
_SEARCHES_PER_PRICE = 1_000


@app.command("list")
def list_models(
    context: typer.Context,
    show_all: Annotated[bool, typer.Option("--all", help="Also models whose providers are all off.")] = False,
    provider: Annotated[str | None, typer.Option(metavar="NAME", help="Only models at this provider.")] = None,
    action: Annotated[Literal["embedding", "chat", "rerank"], typer.Option(help="What they are for.")] = "embedding",
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """List the models that can be used. Prices are in dollars per million tokens, unless they say otherwise."""
    decided = _decide(context, config_file)
    if provider is not None and provider not in decided.catalog.providers():
        raise UnknownProvider(f"There is no provider {provider!r}: {', '.join(sorted(decided.catalog.providers()))}.")
    found = [
        model
        for model in decided.catalog.models()
        if model.action == action
        and (show_all or _is_on(model, decided))
        and (provider is None or _is_at(model, provider))
    ]
    if as_json:
        print_json([_as_json(model, decided) for model in found])
        return
    columns = ("model", "size", "tokens", "price", "providers", "state")
    print_table(columns, [_row(model, decided) for model in found], right=("size", "tokens", "price"))
    if show_all:
        _explain_off(found, decided)


@app.command("show")
def show_model(
    context: typer.Context,
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a model, or its bare name.")],
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Show one model and the providers that serve it, in the order in which they are tried."""
    decided = _decide(context, config_file)
    model = _find(decided.catalog, model_id)
    if as_json:
        print_json(_as_json(model, decided))
        return
    print_table(("field", "value"), [(name, value) for name, value in _facts(model) if value])
    typer.echo()
    columns = ("provider", "called", "size", "tokens", "price", "as of", "state")
    rows = [_route_row(route, decided) for route in model.routes]
    print_table(columns, rows, right=("size", "tokens", "price"))
    _explain_off([model], decided)


@app.command("verify")
def verify_models(
    context: typer.Context,
    model_id: Annotated[str | None, typer.Argument(metavar="ID", help="Id of a model, or its bare name.")] = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Embed the same texts on every route of a model, and say which of them give other vectors, and likely why.

    Without an id: of every model that several providers serve, or that runs here, too. A route costs some 600 tokens,
    which are in the ledger. Ends with 1 if a route is wrong or does not answer.
    """
    from embedgate import wiring

    loaded = options.load_settings(context, config_file)
    decided = wiring.decide_as_stored(loaded)
    usable = decided.usable_models()
    if model_id is None:
        model, models = None, wiring.comparable(usable)
    else:
        model = _embedding(_find(decided.catalog, model_id))
        models = [model] if len(wiring.same_vectors(model, usable)) > 1 else []
    verdicts = wiring.verify_models(loaded, models) if models else []
    if as_json:
        print_json([{"model": each.id, "routes": routes} for each, routes in zip(models, verdicts, strict=True)])
    elif not models:
        typer.echo(f"There is nothing to compare: {_explain_alone(model, decided)}.")
    else:
        print_table(
            ("model", "provider", "similarity", "verdict", "likely because"),
            [_verdict_row(verdict) for routes in verdicts for verdict in routes],
            right=("similarity",),
        )
    if any(verdict.state in ("wrong", "failed") for routes in verdicts for verdict in routes):
        raise typer.Exit(1)


def _embedding(model: "Model") -> "Model":
    if model.action != "embedding":
        raise NotAnEmbeddingModel(f"{model.id} makes no vectors. See `embedgate models list`.")
    return model


def _explain_alone(model: "Model | None", decided: "Decided") -> str:
    if model is None:
        return "no model has two routes that are on"
    on = [route.provider for route in model.routes if route.provider in decided.switched_on]
    return f"{model.id} is served by {on[0]} only" if on else f"no provider of {model.id} is on"


def _verdict_row(verdict: "Verdict") -> tuple[str, ...]:
    similarity = "" if verdict.similarity is None else f"{verdict.similarity:.4f}"
    return (verdict.model, verdict.provider, similarity, verdict.state, verdict.explanation)


def _decide(context: typer.Context, config_file: Path | None) -> "Decided":
    from embedgate.wiring import decide_as_stored  # brings every provider and the catalogue

    return decide_as_stored(options.load_settings(context, config_file))


def _find(catalog: "Catalog", name: str) -> "Model":
    model = catalog.find(name)
    if model is not None:
        return model
    ambiguous, replacement, close = catalog.ambiguous(name), catalog.retired(name), catalog.close_matches(name)
    if ambiguous:
        raise UnknownModel(f"The name {name!r} fits several models: {', '.join(ambiguous)}. Give one of these ids.")
    if replacement:
        raise UnknownModel(f"The model {name!r} was shut down by its provider. Use {replacement} instead.")
    hint = f"Did you mean {' or '.join(close)}?" if close else "See `embedgate models list --all`."
    raise UnknownModel(f"There is no model {name!r}. {hint}")


def _is_on(model: "Model", decided: "Decided") -> bool:
    return any(route.provider in decided.switched_on for route in model.routes)


def _is_at(model: "Model", provider: str) -> bool:
    return any(route.provider == provider for route in model.routes)


def _row(model: "Model", decided: "Decided") -> tuple[str, ...]:
    is_on = _is_on(model, decided)
    providers = [route.provider for route in model.routes if not is_on or route.provider in decided.switched_on]
    prices = [route.price for route in model.routes if route.provider in providers and route.price is not None]
    cheapest = min(prices, key=lambda price: price.picodollars_per_token, default=None)
    size = model.dims.describe() if model.dims else ""
    return (
        model.id,
        size,
        str(model.max_input_tokens),
        _price_text(cheapest),
        ", ".join(providers),
        "on" if is_on else "off",
    )


def _route_row(route: "Route", decided: "Decided") -> tuple[str, ...]:
    return (
        route.provider,
        route.upstream_model,
        route.dims.describe() if route.dims.maximum else "",
        str(route.max_input_tokens),
        _price_text(route.price),
        (route.price.as_of if route.price else None) or "",
        "on" if route.provider in decided.switched_on else "off",
    )


def _price_text(price: "Price | None") -> str:
    """Dollars per million input tokens or per thousand searches; or that it is free or not known."""
    if price is None:
        return "?"
    if price.picodollars_per_search:
        return f"{_usd_of_searches(price)} per 1,000 searches"
    return _usd(price) if price.picodollars_per_token else "free"


def _usd(price: "Price") -> str:
    return usd_text(price.picodollars_per_token * _TOKENS_PER_PRICE)


def _usd_of_searches(price: "Price | None") -> str | None:
    if price is None or price.picodollars_per_search is None:
        return None
    return usd_text(price.picodollars_per_search * _SEARCHES_PER_PRICE)


def _facts(model: "Model") -> list[tuple[str, str]]:
    return [
        ("id", model.id),
        ("makes", ACTIONS[model.action].makes),
        ("vector space", model.space or ""),
        ("size", f"{model.dims.default} of {model.dims.describe()}" if model.dims else ""),
        ("can be shortened", "yes" if model.is_matryoshka else ""),
        ("tokens per input", str(model.max_input_tokens)),
        ("status", "" if model.status == "active" else model.status),
        ("note", model.note or ""),
    ]


def _explain_off(models: Sequence["Model"], decided: "Decided") -> None:
    """How to switch on what is off."""
    off = {route.provider for model in models for route in model.routes} - decided.switched_on
    if off:
        typer.echo("\nTo switch on what is off:")
    for provider in sorted(off):
        typer.echo(f"  {decided.explain_off(provider)}")


def _as_json(model: "Model", decided: "Decided") -> dict[str, Any]:
    return {
        "id": model.id,
        "is_on": _is_on(model, decided),
        "action": model.action,
        "space": model.space,
        "dims": model.dims,
        "is_matryoshka": model.is_matryoshka,
        "max_input_tokens": model.max_input_tokens,
        "status": model.status,
        "note": model.note,
        "providers": [_route_as_json(route, decided) for route in model.routes],
    }


def _route_as_json(route: "Route", decided: "Decided") -> dict[str, Any]:
    return {
        "provider": route.provider,
        "is_on": route.provider in decided.switched_on,
        "upstream_model": route.upstream_model,
        "max_input_tokens": route.max_input_tokens,
        "usd_per_million_tokens": _usd(route.price) if route.price else None,
        "usd_per_thousand_searches": _usd_of_searches(route.price),
        "price_as_of": route.price.as_of if route.price else None,
    }
