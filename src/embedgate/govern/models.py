"""Models: the catalogue with routes and prices, those in force; and models as administrators name them.

Changes nothing.
"""

from collections.abc import Collection
from typing import Annotated

from msgspec import Meta, Struct

from embedgate.catalog import Catalog
from embedgate.core.actions import ActionName
from embedgate.core.errors import ModelNotAtProvider, UnknownModel, UnknownProvider
from embedgate.core.models import DimRange, Model, Price, Route
from embedgate.core.near_names import did_you_mean
from embedgate.engine.routing.find_model import aliased
from embedgate.govern.change import Invocation
from embedgate.govern.lists import Listed, ListQuery, pick, sorts
from embedgate.govern.operation import Facts, runs
from embedgate.govern.selection import Selection
from embedgate.govern.values import Usd, price_text, search_price_text


class ModelQuery(ListQuery):
    """Which models."""

    action: ActionName | None = None
    provider: Annotated[str | None, Meta(description="One that serves it, on or off.")] = None
    is_on: Annotated[bool | None, Meta(description="Whether a provider that serves it is on.")] = None
    sort: Annotated[str, sorts("id", "action", "space", "max_input_tokens")] = ""


class WhichModel(Struct, forbid_unknown_fields=True):
    """A model."""

    model: Annotated[str, Meta(description="Id, alias or bare name of the model.", examples=["text-embedding-3-small"])]


class Sizes(Struct, frozen=True):
    """The lengths of vectors that can be asked for: those in `allowed`, or any between two bounds if it is empty."""

    default: int
    minimum: int
    maximum: int
    allowed: tuple[int, ...]


class RouteOfModel(Struct, frozen=True):
    """A model at a provider."""

    provider: str
    is_on: bool
    upstream_model: Annotated[str, Meta(description="What the provider calls it.")]
    usd_per_million_tokens: Annotated[Usd | None, Meta(description="null: no price is known.")]
    usd_per_million_output_tokens: Annotated[
        Usd | None, Meta(description="Of what a chat model writes; null: no price is known.")
    ]
    usd_per_thousand_searches: Annotated[Usd | None, Meta(description="null: nothing is billed by the search.")]
    is_free: Annotated[bool, Meta(description="Whether it is known that nothing is billed.")]
    price_as_of: str | None
    price_source: str | None
    max_input_tokens: int
    confidence: Annotated[str, Meta(description="How sure the facts of this route are.")]
    sizes: Annotated[Sizes | None, Meta(description="What this provider makes of it; null: no vectors.")]


class CatalogModel(Struct, frozen=True):
    """A model."""

    id: str
    action: ActionName
    status: str
    note: str | None
    space: Annotated[str | None, Meta(description="Vectors of one space can be compared.")]
    sizes: Sizes | None
    is_matryoshka: bool
    max_input_tokens: int
    is_on: Annotated[bool, Meta(description="Whether a provider that serves it is on.")]
    routes: tuple[RouteOfModel, ...]


@runs("models.list", "GET", "/api/models", Facts("listCatalog"))
def list_models(invocation: Invocation, query: ModelQuery) -> Listed[CatalogModel]:
    """List the catalogue.

    Every model that is known, with its providers, on or off, and the prices in force.
    """
    selection = invocation.resources.gateway.selection()
    models = sorted(selection.catalog.models(), key=lambda model: model.id)
    found = [model_facts(model, selection.switched_on) for model in models if query.action in (None, model.action)]
    wanted = (
        model
        for model in found
        if query.is_on in (None, model.is_on)
        and (query.provider is None or any(route.provider == query.provider for route in model.routes))
    )
    return pick(wanted, query)


@runs("models.show", "GET", "/api/models/{model}", Facts("showCatalogModel", raises=(UnknownModel,)))
def show_model(invocation: Invocation, which: WhichModel) -> CatalogModel:
    """Show a model of the catalogue.

    Its routes are in the order in which they are tried.
    """
    selection = invocation.resources.gateway.selection()
    return model_facts(find_selected(selection, which.model), selection.switched_on)


def find_model(catalog: Catalog, name: str) -> tuple[Model, tuple[Route, ...]]:
    """The model of a name, and its routes; `author/name:provider` means that route alone.

    Raises UnknownModel, or ModelNotAtProvider.
    """
    bare, provider = catalog.parse_model_name(name)
    model = catalog.at_provider(provider, bare) if provider else catalog.find(bare)
    if model is None and provider is not None and (known := catalog.find(bare)) is not None:
        raise _not_there(known, provider)
    if model is None:
        raise UnknownModel(f"There is no model {name[:200]!r}. {_hint(catalog, bare)}", param="model")
    return model, tuple(route for route in model.routes if provider in (None, route.provider))


def find_selected(selection: Selection, name: str) -> Model:
    """The model of an id, everybody's alias or a bare name, as callers are served it. Raises as `find_model`."""
    return find_model(selection.catalog, aliased(name, None, selection.aliases, selection.catalog))[0]


def find_route(catalog: Catalog, name: str, provider: str) -> tuple[Model, Route]:
    """The model of a name, and its route at a provider.

    Raises UnknownModel, UnknownProvider, or ModelNotAtProvider.
    """
    model, _ = find_model(catalog, name)
    if provider not in catalog.providers():
        raise unknown_provider(provider, catalog.providers(), param="provider")
    for route in model.routes:
        if route.provider == provider:
            return model, route
    raise _not_there(model, provider)


def unknown_provider(name: str, known: Collection[str], *, param: str) -> UnknownProvider:
    """The error for a provider that there is not."""
    there = ", ".join(sorted(known))
    return UnknownProvider(
        f"There is no provider {name[:100]!r} here. {did_you_mean(name, known)}There are {there}.", param=param
    )


def _not_there(model: Model, provider: str) -> ModelNotAtProvider:
    there = ", ".join(sorted({route.provider for route in model.routes}))
    return ModelNotAtProvider(f"{model.id} is not served by {provider}. It is served by {there}.", param="model")


def _hint(catalog: Catalog, name: str) -> str:
    if replacement := catalog.retired(name):
        return f"It was shut down by its provider. Use {replacement} instead."
    meant = catalog.ambiguous(name) or catalog.close_matches(name)
    return f"Did you mean {' or '.join(meant[:3])}?" if meant else "List the models to see their ids."


def model_facts(model: Model, switched_on: frozenset[str]) -> CatalogModel:
    """A model as the API answers it. switched_on: the providers that are on."""
    routes = tuple(_route(route, switched_on) for route in model.routes)
    return CatalogModel(
        id=model.id,
        action=model.action,
        status=model.status,
        note=model.note,
        space=model.space,
        sizes=_sizes(model.dims) if model.dims else None,
        is_matryoshka=model.is_matryoshka,
        max_input_tokens=model.max_input_tokens,
        is_on=any(route.is_on for route in routes),
        routes=routes,
    )


def _sizes(dims: DimRange) -> Sizes:
    return Sizes(dims.default, dims.minimum, dims.maximum, dims.allowed)


def _route(route: Route, switched_on: frozenset[str]) -> RouteOfModel:
    price = route.price
    return RouteOfModel(
        provider=route.provider,
        is_on=route.provider in switched_on,
        upstream_model=route.upstream_model,
        usd_per_million_tokens=price_text(price.picodollars_per_token) if price else None,
        usd_per_million_output_tokens=_output_price(price),
        usd_per_thousand_searches=search_price_text(price.picodollars_per_search) if price else None,
        is_free=route.costs_nothing(),
        price_as_of=price.as_of if price else None,
        price_source=price.source if price else None,
        max_input_tokens=route.max_input_tokens,
        confidence=route.confidence,
        sizes=_sizes(route.dims) if route.dims.maximum else None,
    )


def _output_price(price: Price | None) -> str | None:
    if price is None or price.output_picodollars_per_token is None:
        return None
    return price_text(price.output_picodollars_per_token)


OPERATIONS = (list_models, show_model)
