"""The route for models: the catalogue with routes and prices, those in force. Changes nothing."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.actions import ActionName
from embedgate.core.models import DimRange, Model
from embedgate.core.models import Route as ModelRoute
from embedgate.govern.values import price_text, search_price_text
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, Usd, pick, sorts


class ModelQuery(ListQuery):
    """Which models."""

    action: ActionName | None = None
    provider: Annotated[str | None, Meta(description="One that serves it, on or off.")] = None
    is_on: Annotated[bool | None, Meta(description="Whether a provider that serves it is on.")] = None
    sort: Annotated[str, sorts("id", "action", "space", "max_input_tokens")] = ""


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
    usd_per_thousand_searches: Annotated[Usd | None, Meta(description="null: nothing is billed by the search.")]
    price_as_of: str | None
    price_source: str | None
    max_input_tokens: int
    confidence: Annotated[str, Meta(description="How sure the facts of this route are.")]


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


def _list(asked: Asked) -> Listed:
    query: ModelQuery = asked.query
    models = sorted(asked.gateway.catalog.models(), key=lambda model: model.id)
    found = [_model(model, asked.gateway.switched_on) for model in models if query.action in (None, model.action)]
    wanted = (
        model
        for model in found
        if query.is_on in (None, model.is_on)
        and (query.provider is None or any(route.provider == query.provider for route in model.routes))
    )
    return pick(wanted, query)


def _model(model: Model, switched_on: frozenset[str]) -> CatalogModel:
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


def _route(route: ModelRoute, switched_on: frozenset[str]) -> RouteOfModel:
    price = route.price
    return RouteOfModel(
        provider=route.provider,
        is_on=route.provider in switched_on,
        upstream_model=route.upstream_model,
        usd_per_million_tokens=price_text(price.picodollars_per_token) if price else None,
        usd_per_thousand_searches=search_price_text(price.picodollars_per_search) if price else None,
        price_as_of=price.as_of if price else None,
        price_source=price.source if price else None,
        max_input_tokens=route.max_input_tokens,
        confidence=route.confidence,
    )


ROUTES = (
    Route(
        "GET",
        "/api/models",
        "listCatalog",
        "List the catalogue",
        _list,
        CatalogModel,
        "Every model that is known, with its providers, on or off, and the prices in force.",
        query=ModelQuery,
        is_list=True,
    ),
)
