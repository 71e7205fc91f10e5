"""Trial of a provider: what to name instead of a model that it cannot be tried with."""

from collections.abc import Callable

from embedgate.core.actions import ACTIONS, EMBEDDING
from embedgate.core.errors import GatewayError, ModelNotAtProvider, NotAnEmbeddingModel, UnknownModel
from embedgate.core.near_names import did_you_mean
from embedgate.govern.selection import Selection

_MOST_SHOWN = 10


def explained(
    refused: GatewayError, selection: Callable[[], Selection], provider: str, named: str | None
) -> GatewayError:
    """Why a provider could not be tried with a model, with those that it can be; another error stays as it is."""
    if named is None or not isinstance(refused, (UnknownModel, ModelNotAtProvider, NotAnEmbeddingModel)):
        return refused
    there = selection()
    bare, _ = there.catalog.parse_model_name(named)
    model = there.catalog.at_provider(provider, bare) or there.find_model(bare)
    ours = sorted(each.id for each in there.catalog.embedding_models() if each.is_served_by((provider,)))
    more = ", and others" if len(ours) > _MOST_SHOWN else ""
    instead = f"Those of {provider}: {', '.join(ours[:_MOST_SHOWN])}{more}." if ours else f"{provider} has none yet."
    if model is None:
        return UnknownModel(f"There is no model {named[:200]!r}. {did_you_mean(named, ours)}{instead}", param="model")
    if model.action != EMBEDDING.name:
        what = ACTIONS[model.action].purpose
        return NotAnEmbeddingModel(f"{model.id} is for {what}, and only models for embeddings are tried. {instead}")
    if not model.is_served_by((provider,)):
        return ModelNotAtProvider(f"{model.id} is not served by {provider}. {instead}", param="model")
    return refused
