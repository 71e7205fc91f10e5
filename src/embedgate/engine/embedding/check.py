"""Check of a provider's vectors. A wrong answer is a failure of the provider: never returned, never stored."""

import math
from collections.abc import Callable

from embedgate.core.errors import UpstreamGarbled
from embedgate.core.models import Model, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.core.vectors import UNIT_NORM_TOLERANCE, Vectors, norm_range, normalise

SpaceOf = Callable[[str, str], str | None]
"""The space of the model that a provider calls by a name; None if nothing is known of it."""


def checked(reply: ProviderReply, batch: Batch, model: Model, route: Route, space_of: SpaceOf) -> Vectors:
    """The vectors of a reply, (n, expected_dim) float32, proven to be finite, non-zero and of the right number.

    Rows are of unit length if the model's vectors are compared so: what a host left unscaled is scaled here,
    unless the host promises unit length, which makes it a wrong answer.
    Raises UpstreamGarbled saying what is wrong, never the numbers.
    """
    vectors = reply.vectors
    # Hosts name a model in many ways, so only the name of a known model of another space is proof.
    named = reply.model
    if named not in (None, route.upstream_model) and space_of(route.provider, named) not in (None, model.space):
        raise _wrong(model, route, f"the answer says it is of another model ({named[:100]})")
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
        raise _wrong(model, route, "a vector of zeros came back")
    if model.is_normalised and (longest - 1 > UNIT_NORM_TOLERANCE or 1 - shortest > UNIT_NORM_TOLERANCE):
        if batch.dim is None and route.promises_unit_length:
            raise _wrong(model, route, "a vector is not of unit length, as this host's are")
        vectors = normalise(vectors)
    return vectors


def _wrong(model: Model, route: Route, what: str) -> UpstreamGarbled:
    return UpstreamGarbled(f"{route.provider} for {model.id}: {what}")
