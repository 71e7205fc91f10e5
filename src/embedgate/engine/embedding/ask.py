"""One provider call, checked and weighed: the only place where a route is really called.

A call that the provider finds too large is halved until it fits, never repeated at the same size. What was billed
is reported with the outcome, right or wrong the answer.
"""

import time
from collections.abc import Sequence

from msgspec.structs import replace

from embedgate.core.errors import (
    GatewayError,
    InvalidInput,
    UpstreamGarbled,
    UpstreamLimited,
    UpstreamTimeout,
    UpstreamTooLarge,
)
from embedgate.core.ports import Provider, Tokenizers
from embedgate.core.types import Batch, Candidate, Input, ProviderReply
from embedgate.engine.embedding.check import SpaceOf, checked
from embedgate.engine.embedding.outcome import Outcome, merged
from embedgate.engine.ledger.tokens import count_aside, split
from embedgate.engine.routing.route_health import RouteHealth
from embedgate.observe import metrics


class RouteCaller:
    """Calls one route of one model."""

    def __init__(
        self, candidate: Candidate, provider: Provider, tokenizers: Tokenizers, space_of: SpaceOf, state: RouteHealth
    ) -> None:
        """provider: the one of the candidate's route. state: of that route; told how each call went."""
        self._space_of = space_of
        self._state = state
        self._candidate = candidate
        self._provider = provider
        self._tokenizers = tokenizers

    async def __call__(self, batch: Batch, deadline_s: float) -> Outcome:
        """Call, check, weigh. Never raises a GatewayError: a failed outcome holds it."""
        outcome = await self._call(batch, deadline_s)
        if not isinstance(outcome.error, UpstreamTooLarge) or len(batch.inputs) == 1:
            return outcome
        middle = len(batch.inputs) // 2
        first = await self(replace(batch, inputs=batch.inputs[:middle]), deadline_s)
        if first.error is not None:
            return replace(first, upstream_s=first.upstream_s + outcome.upstream_s)
        second = await self(replace(batch, inputs=batch.inputs[middle:]), deadline_s)
        if isinstance(second.error, InvalidInput) and second.error.index is not None:
            second = replace(second, error=second.error.at(second.error.index + middle))
        both = merged(first, second)
        return replace(both, upstream_s=both.upstream_s + outcome.upstream_s)

    async def _call(self, batch: Batch, deadline_s: float) -> Outcome:
        route = self._candidate.route
        started_s = time.monotonic()
        if started_s >= deadline_s:
            return Outcome(error=UpstreamTimeout(f"{route.provider} could not be asked within the call's time"))
        try:
            reply = await self._provider.embed(batch, route, deadline_s)
        except GatewayError as error:
            spent_s = time.monotonic() - started_s
            word = "bad_answer" if isinstance(error, UpstreamGarbled) else error.code
            if not isinstance(error, UpstreamLimited):  # else it was not called
                metrics.provider_call(route.provider, word, len(batch.inputs), spent_s)
            self._state.failed(error, spent_s)
            return await self._failed(batch.inputs, error, spent_s)
        spent_s = time.monotonic() - started_s
        tokens, is_estimated = await self._tokens(batch.inputs, reply)
        try:
            vectors = checked(reply, batch, self._candidate.model, route, self._space_of)
        except UpstreamGarbled as error:
            metrics.provider_call(route.provider, "bad_answer", len(batch.inputs), spent_s)
            self._state.failed(error, spent_s)
            return Outcome(None, tokens, is_estimated, billed=sum(tokens), upstream_s=spent_s, error=error)
        metrics.provider_call(route.provider, "ok", len(batch.inputs), spent_s)
        billed = sum(tokens)
        self._state.succeeded(spent_s, billed)
        return Outcome(vectors, tokens, is_estimated, reply.truncated, billed, spent_s)

    async def _failed(self, inputs: Sequence[Input], error: GatewayError, spent_s: float) -> Outcome:
        """The outcome of a call that gave no vectors, but may be on the bill all the same."""
        billed = error.billed_tokens if isinstance(error, UpstreamGarbled) else 0
        if not billed:
            return Outcome(error=error, upstream_s=spent_s)
        counted = await count_aside(inputs, self._candidate.route, self._tokenizers)
        return Outcome(None, split(billed, counted.each), billed=billed, upstream_s=spent_s, error=error)

    async def _tokens(self, inputs: Sequence[Input], reply: ProviderReply) -> tuple[tuple[int, ...], bool]:
        """Tokens of each input, adding up to what the provider billed; whether the sum is our estimate."""
        if reply.tokens_each is not None:
            return reply.tokens_each, False
        if reply.tokens is not None and len(inputs) == 1:
            return (reply.tokens,), False
        counted = await count_aside(inputs, self._candidate.route, self._tokenizers)
        if reply.tokens is None:
            return counted.each, not counted.is_exact
        return split(reply.tokens, counted.each), False
