"""Runs a request on its routes: joined with what is in flight, in parallel parts, with retries, then the next route.

What a part has cost is added to the call the moment it returns, so that a request that fails half way is charged
for the half that happened. Which route comes next, and when, is asked of `attempts`.
"""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from embedgate.core.errors import AccessError, GatewayError, InternalError, InvalidInput, UpstreamError
from embedgate.core.ports import Provider, Tokenizers
from embedgate.core.types import Batch, Call, Candidate, EmbedRequest, Part, Served
from embedgate.engine.embedding import hedge
from embedgate.engine.embedding.ask import RouteCaller
from embedgate.engine.embedding.batching import Batcher, BatchItem
from embedgate.engine.embedding.check import SpaceOf
from embedgate.engine.embedding.outcome import Outcome, charge_outcome, for_another
from embedgate.engine.embedding.progress import Progress
from embedgate.engine.embedding.single_flight import Flight, JoinedInput, SingleFlight
from embedgate.engine.ledger.charge import cover
from embedgate.engine.routing.failover import Failover, Probe, RouteAttempts
from embedgate.engine.routing.route_health import RouteHealths
from embedgate.observe import metrics
from embedgate.settings import UpstreamSettings

_Place = tuple[str, str]
"""A route of a model: the model's id and the provider's name."""


class Plans(hedge.Plans, Protocol):
    """What the planning stage does for this one."""

    async def enter(self, call: Call[EmbedRequest], candidate: Candidate, progress: Progress) -> None:
        """Look up what is known of a candidate's vectors."""
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
        states: RouteHealths,
        probe: Probe | None = None,
    ) -> None:
        """providers: by name, every one that is on. gathering: calls at once of those that batch across callers.

        states: of all routes, older than this object. probe: None where requests have to find out what works again.
        """
        self._space_of = space_of
        self._providers = providers
        self._tokenizers = tokenizers
        self._settings = settings
        self._gathering = gathering
        self._states = states
        self._probe = probe
        self._askers: dict[_Place, tuple[RouteCaller, Batcher | None]] = {}
        self._flights: dict[_Place, SingleFlight] = {}
        self._hedge = hedge.Hedger(self._ask_route, tokenizers)

    async def __call__(self, call: Call[EmbedRequest], candidates: Sequence[Candidate], plans: Plans) -> Served:
        """Vectors for every input, from the first candidate that gives them.

        Rows that an earlier route of the same space has answered are kept; only what is missing is asked again.
        Raises what the last route failed with, naming the routes that were tried; BudgetExhausted if the budget does
        not pay for another one.
        """
        progress = Progress(len(call.request.inputs), call.request.dim)
        with Failover(call, candidates, self._states, self._settings, self._probe) as journey:
            entered = journey.first  # what is known of it is looked up also if it may not be asked now
            await plans.enter(call, entered, progress)
            await cover(call)  # also for what is found instead of asked for: that may cost as much
            if not progress.missing():
                return progress.served(entered)
            while (visit := await journey.next()) is not None:
                if visit.candidate is not entered:
                    entered = visit.candidate
                    await plans.enter(call, entered, progress)
                    await cover(call)
                try:
                    await self._run(call, visit, progress, plans)
                except UpstreamError as error:
                    journey.leave(visit, error)
                else:
                    if not call.request.options:  # which hosts need not all know
                        journey.arrived(visit.answered_by)
                    return progress.served(visit.answered_by)
            raise journey.failure()

    async def _run(self, call: Call[EmbedRequest], visit: RouteAttempts, progress: Progress, plans: Plans) -> None:
        """Answer every missing row on one route."""
        may_join = True
        while missing := progress.missing():
            keys = progress.keys if may_join else None
            flights = self._flights_of(visit.candidate)
            own = _first_of_each(missing, keys, flights)
            parts = plans.cut(call.request, own, visit.candidate) if own else []
            aloft = [(part, flights.depart([keys[row] for row in part.rows]) if keys else None) for part in parts]
            # Whatever is on the board by now is in flight: another request's, or the same text earlier in this one.
            mine = set(own)
            joined = [(row, flights.seat(keys[row])) for row in missing if row not in mine] if keys else []
            travels = [self._fly(call, visit, part, flight, progress, plans) for part, flight in aloft]
            travels += [_arrive(row, seat, visit, progress) for row, seat in joined if seat]
            if len(travels) == 1:
                await travels[0]
            else:
                _raise_first(await asyncio.gather(*travels, return_exceptions=True))
            may_join = False  # a row whose joined flight failed for another's mistake is now asked for on its own

    def _flights_of(self, candidate: Candidate) -> SingleFlight:
        place = (candidate.model.id, candidate.route.provider)
        found = self._flights.get(place)
        if found is None:
            found = self._flights[place] = SingleFlight()
        return found

    async def _fly(
        self,
        call: Call[EmbedRequest],
        visit: RouteAttempts,
        part: Part,
        flight: Flight | None,
        progress: Progress,
        plans: Plans,
    ) -> None:
        """One part to its end: ask, retry, put its vectors where they belong, and tell who waits for them."""
        outcome = Outcome(error=InternalError("The gateway stopped before the provider answered."))
        try:
            outcome = await self._attempts(call, visit, part, plans)
            if progress.keys is not None:
                await plans.remember(call, visit.candidate, [progress.keys[row] for row in part.rows], outcome)
        finally:  # what has landed is no longer joined, so it must be in the cache by then
            if flight is not None:
                flight.land(outcome)
        error, vectors = outcome.error, outcome.vectors
        if isinstance(error, InvalidInput) and error.index is not None:
            raise error.at(part.rows[error.index])
        if error is not None or vectors is None:
            raise error or InternalError("An outcome without vectors and without error.")
        progress.fill(part.rows, vectors, outcome.tokens, outcome.truncated, outcome.is_estimated)

    async def _attempts(self, call: Call[EmbedRequest], visit: RouteAttempts, part: Part, plans: Plans) -> Outcome:
        """The outcome of a part after as many attempts as make sense at this route; charged to the call."""
        attempt = 0
        while True:
            try:
                await cover(call)
            except GatewayError as refusal:
                return Outcome(error=refusal)
            candidate, outcome = await self._ask(call, visit, part, plans)
            charge_outcome(call, candidate, outcome)
            attempt += 1
            if not isinstance(outcome.error, UpstreamError):
                visit.answered_by = candidate
                return outcome
            error = visit.told(outcome.error)
            if not await visit.again(error, attempt):
                return replace(outcome, error=error, is_spent=visit.is_spent)

    async def _ask(
        self, call: Call[EmbedRequest], visit: RouteAttempts, part: Part, plans: Plans
    ) -> tuple[Candidate, Outcome]:
        candidate = visit.candidate
        asker, gatherer = self._askers_of(candidate)
        deadline_s = visit.until_s()
        if gatherer is not None and not call.request.options:
            return candidate, await gatherer(BatchItem(part.batch, plans.signature(call, part), deadline_s))
        if self._settings.hedge and visit.others() and (after_s := visit.state.p95_s) is not None:
            return await self._hedge(call, visit, part, plans, after_s)
        return candidate, await asker(part.batch, deadline_s)

    async def _ask_route(self, candidate: Candidate, batch: Batch, deadline_s: float) -> Outcome:
        return await self._askers_of(candidate)[0](batch, deadline_s)

    def _askers_of(self, candidate: Candidate) -> tuple[RouteCaller, Batcher | None]:
        place = (candidate.model.id, candidate.route.provider)
        found = self._askers.get(place)
        if found is None:
            provider = candidate.route.provider
            state = self._states.of(candidate)
            asker = RouteCaller(candidate, self._providers[provider], self._tokenizers, self._space_of, state)
            n = self._gathering.get(provider)
            limits = candidate.route.limits
            gatherer = Batcher(asker, limits, n, self._settings.max_waiting) if n else None
            found = self._askers[place] = (asker, gatherer)
        return found


def _first_of_each(rows: Sequence[int], keys: Sequence[bytes] | None, flights: SingleFlight) -> list[int]:
    """The rows to ask for ourselves: the first of each text that is not in flight; all of them without keys."""
    if keys is None:
        return list(rows)
    first: dict[bytes, int] = {}
    for row in rows:
        if flights.seat(keys[row]) is None:
            first.setdefault(keys[row], row)
    return list(first.values())


async def _arrive(row: int, seat: JoinedInput, visit: RouteAttempts, progress: Progress) -> None:
    """Take the vector of a row from the flight it travels with. A fault of another row there leaves ours missing."""
    outcome, vector = await seat.arrival(visit.until_s())
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
        visit.is_spent |= outcome.is_spent
        raise for_another(error)


def _raise_first(outcomes: Sequence[BaseException | None]) -> None:
    """Raise the worst of what went wrong. The caller's own mistake goes first: trying elsewhere would not mend it."""
    faults = [outcome for outcome in outcomes if outcome is not None]
    faults.sort(key=lambda fault: isinstance(fault, UpstreamError))
    if faults:
        raise faults[0]
