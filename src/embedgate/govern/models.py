"""Models as an administrator names them: found in the catalogue, or refused with what was probably meant."""

from embedgate.catalog import Catalog
from embedgate.core.errors import ModelNotAtProvider, UnknownModel, UnknownProvider
from embedgate.core.models import Model, Route


def find_model(catalog: Catalog, name: str) -> tuple[Model, tuple[Route, ...]]:
    """The model of a name, and its routes; `author/name:provider` means that route alone.

    Raises UnknownModel, or ModelNotAtProvider.
    """
    bare, provider = catalog.parse_model_name(name)
    model = catalog.at_provider(provider, bare) if provider else catalog.find(bare)
    if model is None and provider is not None and (known := catalog.find(bare)) is not None:
        raise _not_there(known, provider)
    if model is None:
        meant = catalog.ambiguous(bare) or catalog.close_matches(bare)
        hint = f"Did you mean {' or '.join(meant[:3])}?" if meant else "List the models to see their ids."
        raise UnknownModel(f"The model {name[:200]!r} does not exist here. {hint}", param="model")
    return model, tuple(route for route in model.routes if provider in (None, route.provider))


def find_route(catalog: Catalog, name: str, provider: str) -> tuple[Model, Route]:
    """The model of a name, and its route at a provider.

    Raises UnknownModel, UnknownProvider, or ModelNotAtProvider.
    """
    model, _ = find_model(catalog, name)
    if provider not in catalog.providers():
        known = ", ".join(sorted(catalog.providers()))
        raise UnknownProvider(f"There is no provider {provider[:100]!r} here. There are {known}.", param="provider")
    for route in model.routes:
        if route.provider == provider:
            return model, route
    raise _not_there(model, provider)


def _not_there(model: Model, provider: str) -> ModelNotAtProvider:
    there = ", ".join(sorted({route.provider for route in model.routes}))
    return ModelNotAtProvider(f"{model.id} is not served by {provider}. It is served by {there}.", param="model")
