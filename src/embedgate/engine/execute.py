"""Runs a request on its routes: joined with what is in flight, in parallel parts, with retries, then the next route.

What a part has cost is added to the call the moment it returns, so that a request that fails half way is charged
for the half that happened.
"""

import asyncio
import random
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

from embedgate import metrics, telemetry
from embedgate.core.errors import AccessError, GatewayError, InternalError, InvalidInput, UpstreamError
from embedgate.core.money import cost_picodollars
from embedgate.core.ports import Provider, Tokenizers
from embedgate.core.types import Call, Candidate, EmbedRequest, Part, Served, Spend
from embedgate.engine.ask import Asker, Outcome, for_another
from embedgate.engine.check import SpaceOf
from embedgate.engine.flights import Flight, Flights, Seat
from embedgate.engine.gather import Gatherer, Work
from embedgate.engine.progress import Progress
from embedgate.settings import UpstreamSettings

_Place = tuple[str, str]
"""A route of a model: the model's id and the provider's name."""


class Plans(Protocol):
    """What the planning stage does for this one."""

    async def enter(self, call: Call[EmbedRequest], candidate: Candidate, progress: Progress) -> None:
        """Look up what is known of a candidate's space."""
        ...

    def cut(self, request: EmbedRequest, rows: Sequence[int], candidate: Candidate) -> list[Part]:
        """Cut rows into parts for the candidate's route."""
        ...

    async def remember(
        self, call: Call[EmbedRequest], candidate: Candidate, keys: Sequence[bytes], outcome: Outcome
    ) -> None:
        """Keep a checked answer."""
        ...

    def signature(self, call: Call[EmbedRequest], part: Part) -> Hashable:
        """What must be equal for two parts to share a call."""
        ...


class Executor:
    """Asks providers. One instance serves all requests, and owns what is in flight."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        tokenizers: Tokenizers,
        settings: UpstreamSettings,
        gathering: Mapping[str, int],
        space_of: SpaceOf,
    ) -> None:
        """providers: by name, every one that is on. gathering: calls at once of those that batch across callers."""
        self._space_of = space_of
        self._providers = providers
        self._tokenizers = tokenizers
        self._settings = settings
        self._gathering = gathering
        self._askers: dict[_Place, tuple[Asker, Gatherer | None]] = {}
        self._flights: dict[_Place, Flights] = {}

    async def __call__(self, call: Call[EmbedRequest], candidates: Sequence[Candidate], plans: Plans) -> Served:
        """Vectors for every input, from the first candidate that gives them.

        Rows that an earlier route of the same space has answered are kept; only what is missing is asked again.
        Raises what the last route failed with, naming the routes that were tried; BudgetExhausted if the budget does
        not pay for another one.
        """
        progress = Progress(len(call.request.inputs), call.request.dim)
        tried: list[str] = []
        for position, candidate in enumerate(candidates):
            await plans.enter(call, candidate, progress)
            await _cover(call)  # also for what is found instead of asked for: that may cost as much
            try:
                await self._run(call, candidate, progress, plans)
                return progress.served(candidate)
            except UpstreamError as error:
                tried.append(f"{candidate.route.provider}: {error.message}")
                if error.may_reroute and position < len(candidates) - 1:
                    continue
                if len(tried) == 1:
                    raise
                message = f"No route could serve {call.request.model}. Tried {'; '.join(tried)}"
                raise type(error)(message, retry_after_s=error.retry_after_s) from error
        raise AssertionError("resolve gives at least one candidate")

    async def _run(self, call: Call[EmbedRequest], candidate: Candidate, progress: Progress, plans: Plans) -> None:
        """Answer every missing row on one route."""
        may_join = True
        while missing := progress.missing():
            keys = progress.keys if may_join else None
            flights = self._flights_of(candidate)
            own = _first_of_each(missing, keys, flights)
            parts = plans.cut(call.request, own, candidate) if own else []
            aloft = [(part, flights.depart([keys[row] for row in part.rows]) if keys else None) for part in parts]
            # Whatever is on the board by now is in flight: another request's, or the same text earlier in this one.
            mine = set(own)
            joined = [(row, flights.seat(keys[row])) for row in missing if row not in mine] if keys else []
            journeys = [self._fly(call, candidate, part, flight, progress, plans) for part, flight in aloft]
            journeys += [_arrive(row, seat, progress) for row, seat in joined if seat]
            if len(journeys) == 1:
                await journeys[0]
            else:
                _raise_first(await asyncio.gather(*journeys, return_exceptions=True))
            may_join = False  # a row whose joined flight failed for another's mistake is now asked for on its own

    def _flights_of(self, candidate: Candidate) -> Flights:
        place = (candidate.model.id, candidate.route.provider)
        found = self._flights.get(place)
        if found is None:
            found = self._flights[place] = Flights()
        return found

    async def _fly(
        self,
        call: Call[EmbedRequest],
        candidate: Candidate,
        part: Part,
        flight: Flight | None,
        progress: Progress,
        plans: Plans,
    ) -> None:
        """One part to its end: ask, retry, put its vectors where they belong, and tell who waits for them."""
        outcome = Outcome(error=InternalError("The gateway stopped before the provider answered."))
        try:
            outcome = await self._attempts(call, candidate, part, plans)
            if progress.keys is not None:
                await plans.remember(call, candidate, [progress.keys[row] for row in part.rows], outcome)
        finally:  # what has landed is no longer joined, so it must be in the cache by then
            if flight is not None:
                flight.land(outcome)
        error, vectors = outcome.error, outcome.vectors
        if isinstance(error, InvalidInput) and error.index is not None:
            raise error.at(part.rows[error.index])
        if error is not None or vectors is None:
            raise error or InternalError("An outcome without vectors and without error.")
        progress.fill(part.rows, vectors, outcome.tokens, outcome.truncated, outcome.is_estimated)

    async def _attempts(self, call: Call[EmbedRequest], candidate: Candidate, part: Part, plans: Plans) -> Outcome:
        """The outcome of a part after as many attempts as its errors and the deadline allow; charged to the call."""
        attempt = 0
        while True:
            try:
                await _cover(call)
            except GatewayError as refusal:
                return Outcome(error=refusal)
            outcome = await self._ask(call, candidate, part, plans)
            _charge(call, candidate, outcome)
            error = outcome.error
            if not isinstance(error, UpstreamError):
                return outcome
            attempt += 1
            wait_s = self._wait_s(error, attempt)
            telemetry.UPSTREAM_FAULT.emit(
                request_id=call.request_id,
                provider=candidate.route.provider,
                code=error.code,
                attempt=attempt,
                detail=error.message,
            )
            has_time = time.monotonic() + wait_s < call.deadline_s
            if not error.may_retry or attempt > self._settings.max_retries or not has_time:
                return outcome
            await asyncio.sleep(wait_s)

    async def _ask(self, call: Call[EmbedRequest], candidate: Candidate, part: Part, plans: Plans) -> Outcome:
        asker, gatherer = self._askers_of(candidate)
        if gatherer is None or call.request.options:
            return await asker(part.batch, call.deadline_s)
        return await gatherer(Work(part.batch, plans.signature(call, part), call.deadline_s))

    def _askers_of(self, candidate: Candidate) -> tuple[Asker, Gatherer | None]:
        place = (candidate.model.id, candidate.route.provider)
        found = self._askers.get(place)
        if found is None:
            provider = candidate.route.provider
            asker = Asker(candidate, self._providers[provider], self._tokenizers, self._space_of)
            n = self._gathering.get(provider)
            limits = candidate.route.limits
            gatherer = Gatherer(asker, limits, n, self._settings.max_waiting) if n else None
            found = self._askers[place] = (asker, gatherer)
        return found

    def _wait_s(self, error: UpstreamError, attempt: int) -> float:
        """The provider's own hint, else exponential back-off with full jitter."""
        if error.retry_after_s is not None:
            return error.retry_after_s
        return random.uniform(0, self._settings.retry_wait_s * 2 ** (attempt - 1))  # noqa: S311 - jitter, no secret


async def _cover(call: Call[EmbedRequest]) -> None:
    """Have as much held as the request can still come to cost: what was billed in vain comes on top.

    Raises BudgetExhausted, or InternalError if the ledger cannot be read.
    """
    if call.wasted_picodollars and call.hold is not None:
        await call.hold.cover(call.held_picodollars + call.wasted_picodollars)


def _first_of_each(rows: Sequence[int], keys: Sequence[bytes] | None, flights: Flights) -> list[int]:
    """The rows to ask for ourselves: the first of each text that is not in flight; all of them without keys."""
    if keys is None:
        return list(rows)
    first: dict[bytes, int] = {}
    for row in rows:
        if flights.seat(keys[row]) is None:
            first.setdefault(keys[row], row)
    return list(first.values())


async def _arrive(row: int, seat: Seat, progress: Progress) -> None:
    """Take the vector of a row from the flight it travels with. A fault of another row there leaves ours missing."""
    outcome, vector = await seat.arrival()
    error = outcome.error
    if vector is not None:
        progress.reuse(row, vector, outcome.tokens[seat.position], seat.position in outcome.truncated)
        metrics.joined()
    elif isinstance(error, InvalidInput) and error.index is not None:
        if error.index == seat.position:
            raise error.at(row)
    elif isinstance(error, AccessError):
        return  # the other's budget does not pay for a further attempt; ours may
    elif error is not None:
        raise for_another(error)


def _raise_first(outcomes: Sequence[BaseException | None]) -> None:
    """Raise the worst of what went wrong. The caller's own mistake goes first: trying elsewhere would not mend it."""
    faults = [outcome for outcome in outcomes if outcome is not None]
    faults.sort(key=lambda fault: isinstance(fault, UpstreamError))
    if faults:
        raise faults[0]


def _charge(call: Call[EmbedRequest], candidate: Candidate, outcome: Outcome) -> None:
    """Add what the provider bills to the call, right or wrong its answer."""
    call.upstream_s += outcome.upstream_s
    if not outcome.billed:
        return
    route = candidate.route
    spend = next((spend for spend in call.spends if spend.candidate is candidate), None)
    if spend is None:
        spend = Spend(candidate)
        call.spends.append(spend)
    cost = cost_picodollars(outcome.billed, route.price.picodollars_per_token if route.price else 0)
    spend.tokens += outcome.billed
    spend.tokens_estimated |= outcome.is_estimated
    spend.cost_picodollars += cost
    if outcome.error is not None:
        call.wasted_picodollars += cost
