"""Runs a request on its routes: in parallel parts, with retries, then the next route. Returns checked vectors only.

What a part has cost is added to the call the moment it returns, so that a request that fails half way is charged
for the half that happened.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from embedgate import telemetry
from embedgate.config import UpstreamSettings
from embedgate.core.errors import InvalidInput, UpstreamError, UpstreamGarbled, UpstreamTimeout
from embedgate.core.money import cost_picodollars
from embedgate.core.ports import Provider, Tokenizers
from embedgate.core.types import Call, Candidate, Part, ProviderReply, Served, Spend
from embedgate.core.vectors import Vectors, shorten
from embedgate.engine.check import checked
from embedgate.engine.tokens import bounds, count

Cut = Callable[[Sequence[int], Candidate], list[Part]]
"""Cuts rows of the request into parts for a candidate's route."""

_COUNT_ON_WORKER_BYTES = 50_000


class Executor:
    """Asks providers. One instance serves all requests; the state of one is in `_Progress`."""

    def __init__(self, providers: Mapping[str, Provider], tokenizers: Tokenizers, settings: UpstreamSettings) -> None:
        """providers: by name, every one that is switched on."""
        self._providers = providers
        self._tokenizers = tokenizers
        self._settings = settings

    async def __call__(self, call: Call, candidates: Sequence[Candidate], cut: Cut) -> Served:
        """Vectors for every input, from the first candidate that gives them.

        Rows that an earlier route of the same space has answered are kept; only what is missing is asked again.
        Raises what the last route failed with, naming the routes that were tried.
        """
        progress = _Progress(len(call.request.inputs), call.request.dim)
        tried: list[str] = []
        for position, candidate in enumerate(candidates):
            progress.enter(candidate)
            try:
                await self._run(call, candidate, progress, cut)
                return Served(candidate, progress.vectors(), tuple(sorted(progress.truncated)))
            except UpstreamError as error:
                tried.append(f"{candidate.route.provider}: {error.message}")
                if error.may_reroute and position < len(candidates) - 1:
                    continue
                if len(tried) == 1:
                    raise
                message = f"No route could serve {call.request.model}. Tried {'; '.join(tried)}"
                raise type(error)(message, retry_after_s=error.retry_after_s) from error
        raise AssertionError("resolve gives at least one candidate")

    async def _run(self, call: Call, candidate: Candidate, progress: "_Progress", cut: Cut) -> None:
        parts = cut(progress.missing(), candidate)
        if len(parts) == 1:
            await self._finish(call, candidate, parts[0], progress)
            return
        outcomes = await asyncio.gather(
            *(self._finish(call, candidate, part, progress) for part in parts), return_exceptions=True
        )
        faults = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        # The caller's own mistake goes before an upstream's trouble: trying elsewhere would not mend it.
        faults.sort(key=lambda fault: isinstance(fault, UpstreamError))
        if faults:
            raise faults[0]

    async def _finish(self, call: Call, candidate: Candidate, part: Part, progress: "_Progress") -> None:
        """One part to its end: ask, retry, and put its vectors where they belong."""
        attempt = 0
        while True:
            try:
                vectors, truncated = await self._ask(call, candidate, part)
                progress.fill(part.rows, vectors, truncated)
                return
            except InvalidInput as error:
                raise (error if error.index is None else error.at(part.rows[error.index])) from error
            except UpstreamError as error:
                attempt += 1
                wait_s = self._wait_s(error, attempt)
                telemetry.UPSTREAM_FAULT.emit(
                    request_id=call.request_id,
                    provider=candidate.route.provider,
                    code=error.code,
                    attempt=attempt,
                    detail=error.message,
                )
                ends_s = time.monotonic() + wait_s
                if not error.may_retry or attempt > self._settings.max_retries or ends_s >= call.deadline_s:
                    raise
                await asyncio.sleep(wait_s)

    async def _ask(self, call: Call, candidate: Candidate, part: Part) -> tuple[Vectors, tuple[int, ...]]:
        route, batch = candidate.route, part.batch
        started_s = time.monotonic()
        if started_s >= call.deadline_s:
            raise UpstreamTimeout(f"{route.provider} could not be asked within the request's time")
        call.upstream_calls += 1
        try:
            reply = await self._providers[route.provider].embed(batch, route, call.deadline_s)
        finally:
            call.upstream_s += time.monotonic() - started_s
        await self._charge(call, candidate, part, reply)
        try:
            vectors = checked(reply, batch, candidate.model, route)
        except UpstreamGarbled as error:
            telemetry.BAD_ANSWER.emit(request_id=call.request_id, provider=route.provider, detail=error.message)
            raise
        return vectors, reply.truncated

    async def _charge(self, call: Call, candidate: Candidate, part: Part, reply: ProviderReply) -> None:
        """Add what the provider bills to the call, right or wrong its answer."""
        route = candidate.route
        tokens, is_estimated = reply.tokens, False
        if tokens is None:
            inputs = part.batch.inputs
            if sum(bounds(inputs)) > _COUNT_ON_WORKER_BYTES:
                counted = await asyncio.to_thread(count, inputs, route, self._tokenizers)
            else:
                counted = count(inputs, route, self._tokenizers)
            tokens, is_estimated = counted.total, not counted.is_exact
        spend = next((spend for spend in call.spends if spend.candidate is candidate), None)
        if spend is None:
            spend = Spend(candidate)
            call.spends.append(spend)
        spend.tokens += tokens
        spend.tokens_estimated |= is_estimated
        price = route.price.picodollars_per_token if route.price else 0
        spend.cost_picodollars += cost_picodollars(tokens, price)

    def _wait_s(self, error: UpstreamError, attempt: int) -> float:
        """The provider's own hint, else exponential back-off with full jitter."""
        if error.retry_after_s is not None:
            return error.retry_after_s
        return random.uniform(0, self._settings.retry_wait_s * 2 ** (attempt - 1))  # noqa: S311 - jitter, no secret


class _Progress:
    """Which rows of one request are answered, in which space."""

    def __init__(self, n: int, dim: int | None) -> None:
        self._n = n
        self._dim = dim
        self._space: str | None = None
        self._width = 0
        self._rows: Vectors = np.empty((0, 0), dtype=np.float32)
        self._is_answered = np.zeros(n, dtype=bool)
        self.truncated: set[int] = set()

    def enter(self, candidate: Candidate) -> None:
        """Go on with a candidate. Rows of another space are thrown away: spaces never mix."""
        width = self._dim or candidate.route.dims.default
        if (candidate.model.space, width) != (self._space, self._width):
            self._space, self._width = candidate.model.space, width
            self._rows = np.empty((self._n, width), dtype=np.float32)
            self._is_answered[:] = False
            self.truncated.clear()

    def missing(self) -> list[int]:
        """Positions without a vector yet."""
        found: list[int] = np.flatnonzero(~self._is_answered).tolist()
        return found

    def fill(self, rows: tuple[int, ...], vectors: Vectors, truncated: tuple[int, ...]) -> None:
        """Put vectors (len(rows), d) in place, shortened to the size asked for."""
        if vectors.shape[1] != self._width:
            vectors = shorten(vectors, self._width)
        self.truncated.update(rows[position] for position in truncated)
        if len(rows) == self._n:
            self._rows = vectors
        else:
            self._rows[list(rows)] = vectors
        self._is_answered[list(rows)] = True

    def vectors(self) -> Vectors:
        """All rows, (n, dim) float32."""
        return self._rows
