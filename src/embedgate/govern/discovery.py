"""Finds out which models a provider's server has. Changes nothing; what it finds is added by `model_changes`."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.errors import UnknownProvider
from embedgate.govern.change import Invocation
from embedgate.govern.found_models import ModelsThere, Probed
from embedgate.govern.operation import Facts, runs
from embedgate.govern.providers import WhichProvider, find_provider


class ModelToProbe(Struct, forbid_unknown_fields=True):
    """A model of a server."""

    provider: Annotated[str, Meta(description="Name of the provider.", examples=["openai"])]
    name: Annotated[str, Meta(description="What the server calls the model.", min_length=1, max_length=512)]


@runs(
    "providers.models",
    "GET",
    "/api/providers/{provider}/models",
    Facts("listModelsOfProvider", raises=(UnknownProvider,)),
)
def list_models_there(invocation: Invocation, which: WhichProvider) -> ModelsThere:
    """List the models of a provider's server.

    As the server itself says.
    """
    find_provider(invocation, which.provider)
    return invocation.resources.gateway.list_models(which.provider)


@runs(
    "providers.probe",
    "POST",
    "/api/providers/{provider}/probe",
    Facts("probeModel", example={"name": "report-encoder-v2"}, raises=(UnknownProvider,)),
)
def probe_model(invocation: Invocation, which: ModelToProbe) -> Probed:
    """Find out the vector size, the scaling and the input limit of a provider's model.

    Makes a few calls, of some thousand tokens together: its size, whether vectors have length 1 and may be shortened,
    and how long a text may be.
    """
    find_provider(invocation, which.provider)
    return invocation.resources.gateway.probe_model(which.provider, which.name)


OPERATIONS = (list_models_there, probe_model)
