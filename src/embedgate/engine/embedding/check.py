"""Check of a provider's vectors. A wrong answer is a failure of the provider: never returned, never stored."""

import math
from collections.abc import Callable

from embedgate.core.errors import UpstreamGarbled, UpstreamMismatch
from embedgate.core.model_names import is_name_of
from embedgate.core.models import Model, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.core.vectors import UNIT_NORM_TOLERANCE, Vectors, norm_range, normalise

_LONGEST_NAME = 512
SpaceOf = Callable[[str, str], str | None]
"""The space of the model that a provider calls by a name; None if nothing is known of it."""


def checked(reply: ProviderReply, batch: Batch, model: Model, route: Route, space_of: SpaceOf) -> Vectors:
    """The vectors of a reply, (n, expected_dim) float32, proven to be finite, non-zero and of the right number.

    Rows are of unit length if the model's vectors are compared so: what a host left unscaled is scaled here,
    unless the host promises unit length, which makes it a wrong answer.
    Raises UpstreamMismatch saying what is wrong, never the numbers; UpstreamGarbled for zeros, which may pass: a worker
    that is not ready gives them.
    """
    vectors = reply.vectors
    named = reply.model
    if named and named != route.upstream_model:
        _check_name(named, model, route, space_of)
    if vectors.ndim != 2 or vectors.shape[0] != len(batch.inputs):
        seen = vectors.shape[0] if vectors.ndim else 0
        raise _wrong(model, route, f"{seen} vectors came back for {len(batch.inputs)} inputs")
    if vectors.shape[1] != batch.expected_dim:
        raise _wrong(model, route, f"vectors of {vectors.shape[1]} came back, expected {batch.expected_dim}")
    shortest, longest = norm_range(vectors)
    # A sum of squares is finite only if every component is; one pass answers both questions. Squares of
    # components beyond 1e19 overflow float32; no embedding is that large.
    if not longest < math.inf:  # nor is NaN less
        raise _wrong(model, route, "a vector has a component that is not a finite number")
    if shortest == 0:
        raise UpstreamGarbled(_told(model, route, "a vector of zeros came back"))
    if model.is_normalised and (longest - 1 > UNIT_NORM_TOLERANCE or 1 - shortest > UNIT_NORM_TOLERANCE):
        if batch.dim is None and route.promises_unit_length:
            raise _wrong(model, route, "a vector is not of unit length, as this host's are")
        vectors = normalise(vectors)
    return vectors


def _check_name(named: str, model: Model, route: Route, space_of: SpaceOf) -> None:
    """Check that an answer is of the model that was asked, by its name there. Raises UpstreamMismatch."""
    if space_of(route.provider, named[:_LONGEST_NAME]) not in (None, model.space):
        raise _wrong(model, route, f"the answer says it is of another model ({named[:100]})")
    if not route.names_freely and not is_name_of(named, (route.upstream_model, model.id, *route.aliases)):
        raise _wrong(
            model,
            route,
            f"the answer says it is of another model ({named[:100]}). If that is this host's name for it, add it to "
            f"`aliases` of the route in the catalogue file, or set providers.{route.provider}.names_freely",
        )


def _wrong(model: Model, route: Route, what: str) -> UpstreamMismatch:
    return UpstreamMismatch(_told(model, route, what))


def _told(model: Model, route: Route, what: str) -> str:
    return f"{route.provider} for {model.id}: {what}"
