"""Verification of models: whether every route that is on gives the vectors of the model that it is said to serve."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.actions import EMBEDDING
from embedgate.core.errors import NotAnEmbeddingModel, UnknownModel
from embedgate.core.models import Model
from embedgate.engine.routing.compare import State, Verdict
from embedgate.engine.routing.verify import comparable, same_vectors
from embedgate.govern.change import Invocation
from embedgate.govern.models import find_selected
from embedgate.govern.operation import Facts, runs
from embedgate.govern.selection import Selection


class ModelToVerify(Struct, forbid_unknown_fields=True):
    """What to verify."""

    model: Annotated[
        str | None,
        Meta(
            description="Id, alias or bare name of the only model; absent: every model that several providers serve, "
            "or that runs here, too."
        ),
    ] = None


class VerifiedRoute(Struct, frozen=True):
    """What a route makes of the texts, compared with the other routes."""

    model: Annotated[str, Meta(description="Id of the model, or of its twin that runs here.")]
    provider: str
    state: State
    similarity: Annotated[float | None, Meta(description="The least, as a cosine; null: there is none.")]
    explanation: Annotated[str, Meta(description="The likely cause; empty if all is well.")]


class VerifiedModel(Struct, frozen=True):
    """A model with its routes."""

    model: str
    routes: tuple[VerifiedRoute, ...]


class VerifiedModels(Struct, frozen=True):
    """The models that were verified."""

    models: tuple[VerifiedModel, ...]
    note: Annotated[str | None, Meta(description="Why there was nothing to compare; null: there was.")]


@runs(
    "models.verify",
    "POST",
    "/api/models/verify",
    Facts("verifyModels", example={"model": "local/all-minilm-l6-v2"}, raises=(UnknownModel, NotAnEmbeddingModel)),
)
def verify_models(invocation: Invocation, wanted: ModelToVerify) -> VerifiedModels:
    """Find routes of a model that give other vectors.

    Every route embeds the same texts; the likely cause is named. A route costs some 600 tokens, which the ledger has.
    """
    gateway = invocation.resources.gateway
    selection = gateway.selection()
    usable = selection.usable_models()
    if wanted.model is None:
        model, compared = None, comparable(usable)
    else:
        model = _embedding(selection, wanted.model)
        compared = [model] if len(same_vectors(model, usable)) > 1 else []
    if not compared:
        return VerifiedModels((), f"There is nothing to compare: {_explain_alone(model, selection)}.")
    judged = zip(compared, gateway.verify(compared), strict=True)
    return VerifiedModels(tuple(VerifiedModel(each.id, tuple(map(_route, routes))) for each, routes in judged), None)


def _embedding(selection: Selection, name: str) -> Model:
    """The model of a name. Raises UnknownModel, or NotAnEmbeddingModel."""
    model = find_selected(selection, name)
    if model.action != EMBEDDING.name:
        raise NotAnEmbeddingModel(f"{model.id} makes no vectors. See GET /v1/models for models that do.", param="model")
    return model


def _explain_alone(model: Model | None, selection: Selection) -> str:
    if model is None:
        return "no model has two routes that are on"
    on = [route.provider for route in model.routes if route.provider in selection.switched_on]
    return f"{model.id} is served by {on[0]} only" if on else f"no provider of {model.id} is on"


def _route(verdict: Verdict) -> VerifiedRoute:
    return VerifiedRoute(verdict.model, verdict.provider, verdict.state, verdict.similarity, verdict.explanation)


OPERATIONS = (verify_models,)
