"""One provider call for embeddings, checked and weighed: the only place where a route is called for them.

A wrong answer is a failure of the provider: its vectors are never returned and never stored. A call that the provider
finds too large is halved until it fits, never repeated at the same size. What was billed is reported with the outcome,
right or wrong the answer; what may have been billed, too, as our estimate.
"""

import math
import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from embedgate.core.demand import unwanted
from embedgate.core.errors import (
    AccessError,
    GatewayError,
    InvalidInput,
    UpstreamGarbled,
    UpstreamLimited,
    UpstreamMismatch,
    UpstreamNotAsked,
    UpstreamTooLarge,
)
from embedgate.core.model_names import is_name_of
from embedgate.core.models import Model, Route
from embedgate.core.ports import Provider, Tokenizers
from embedgate.core.types import Batch, Candidate, Input, ProviderReply
from embedgate.core.vectors import UNIT_NORM_TOLERANCE, Vectors, norm_range, normalise
from embedgate.engine.embedding.outcome import Outcome, merged
from embedgate.engine.ledger.charge import may_be_billed
from embedgate.engine.ledger.tokens import MANY_TOKENS, believed, count_aside, guessed, split, total_bound
from embedgate.engine.routing.route_health import RouteHealth
from embedgate.observe import metrics

_LONGEST_NAME = 512
SpaceOf = Callable[[str, str], str | None]
"""The space of the model that a provider calls by a name; None if nothing is known of it."""


class RouteCaller:
    """Calls one route of one model."""

    def __init__(
        self, candidate: Candidate, provider: Provider, tokenizers: Tokenizers, space_of: SpaceOf, health: RouteHealth
    ) -> None:
        """provider: the one of the candidate's route. health: of that route; told how each call went."""
        self._candidate = candidate
        self._provider = provider
        self._tokenizers = tokenizers
        self._space_of = space_of
        self._health = health

    async def ask(self, batch: Batch, deadline_s: float) -> Outcome:
        """Call, check, weigh. Never raises a GatewayError: a failed outcome holds it."""
        model, route = self._candidate.model, self._candidate.route
        started_s = time.monotonic()
        if started_s >= deadline_s:
            return Outcome(error=UpstreamNotAsked(f"{route.provider} could not be asked within the call's time"))
        try:
            reply = await self._provider.embed(batch, route, deadline_s)
        except GatewayError as error:
            return await self._failed(batch, deadline_s, error, time.monotonic() - started_s)
        spent_s = time.monotonic() - started_s
        tokens, is_estimated = await self._tokens(batch.inputs, reply)
        try:
            vectors = checked(reply, batch, model, route, self._space_of)
        except UpstreamGarbled as error:
            self._tell_failed(batch, error, spent_s)
            is_estimated |= reply.tokens is None
            return Outcome(None, tokens, is_estimated, billed=sum(tokens), upstream_s=spent_s, error=error)
        metrics.provider_call(route.provider, "ok", len(batch.inputs), spent_s)
        billed = sum(tokens)
        self._health.succeeded(spent_s, billed)
        return Outcome(vectors, tokens, is_estimated, reply.truncated, billed, spent_s)

    async def _failed(self, batch: Batch, deadline_s: float, error: GatewayError, spent_s: float) -> Outcome:
        """The outcome of a call that gave no vectors, but may be on the bill all the same. Too large, it is halved."""
        self._tell_failed(batch, error, spent_s)
        if isinstance(error, UpstreamTooLarge) and len(batch.inputs) > 1:
            return await self._in_halves(batch, deadline_s, spent_s)
        billed = error.billed_tokens if isinstance(error, UpstreamGarbled) else 0
        billed = believed(billed, total_bound(batch.inputs), self._candidate.route.provider) or 0
        if not billed and not may_be_billed(error, self._candidate):
            return Outcome(error=error, upstream_s=spent_s)
        counted = await count_aside(batch.inputs, self._candidate.route, self._tokenizers)
        if billed:
            return Outcome(None, split(billed, counted.each), billed=billed, upstream_s=spent_s, error=error)
        tokens = counted.each
        return Outcome(None, tokens, is_estimated=True, billed=sum(tokens), upstream_s=spent_s, error=error)

    async def _in_halves(self, batch: Batch, deadline_s: float, spent_s: float) -> Outcome:
        """The outcome of two calls, each for half of a batch. spent_s: at the provider so far."""
        if (left := unwanted()) is not None:
            return Outcome(error=left, upstream_s=spent_s)
        middle = len(batch.inputs) // 2
        first = await self.ask(replace(batch, inputs=batch.inputs[:middle]), deadline_s)
        if first.error is not None:
            return replace(first, upstream_s=first.upstream_s + spent_s)
        if (left := unwanted()) is not None:
            tokens = (*first.tokens, *[0] * (len(batch.inputs) - middle))
            return Outcome(None, tokens, first.is_estimated, billed=first.billed, upstream_s=spent_s, error=left)
        second = await self.ask(replace(batch, inputs=batch.inputs[middle:]), deadline_s)
        if isinstance(second.error, InvalidInput) and second.error.index is not None:
            second = replace(second, error=second.error.at(second.error.index + middle))
        both = merged(first, second)
        return replace(both, upstream_s=both.upstream_s + spent_s)

    def _tell_failed(self, batch: Batch, error: GatewayError, spent_s: float) -> None:
        if not isinstance(error, (UpstreamLimited, AccessError)):  # else it was not called
            outcome = "bad_answer" if isinstance(error, UpstreamGarbled) else error.code
            metrics.provider_call(self._candidate.route.provider, outcome, len(batch.inputs), spent_s)
        self._health.failed(error, spent_s)

    async def _tokens(self, inputs: Sequence[Input], reply: ProviderReply) -> tuple[tuple[int, ...], bool]:
        """Tokens of each input, adding up to what the provider billed; whether the sum is our estimate."""
        if reply.tokens_each is not None:
            return reply.tokens_each, False
        told = reply.tokens
        if told is not None and not 0 < told <= MANY_TOKENS:
            told = believed(told, total_bound(inputs), self._candidate.route.provider)
        if told is not None and len(inputs) == 1:
            return (told,), False
        counted = await count_aside(inputs, self._candidate.route, self._tokenizers)
        if told is None:
            return guessed(inputs, counted), reply.tokens is not None or not counted.is_exact
        return split(told, counted.each), False


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
