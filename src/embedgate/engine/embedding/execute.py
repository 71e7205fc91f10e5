"""Execution of an embeddings request: failover over its routes; on each, single flight, parallel parts, retries.

What a part has cost is added to the call the moment it returns, so that a request that fails half way is charged
for the half that happened. Which route comes next, and when, is decided by `failover`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from embedgate.core.demand import check_wanted, demand_of_task
from embedgate.core.errors import AccessError, GatewayError, InternalError, InvalidInput, UpstreamError
from embedgate.core.ports import Provider, Tokenizers
from embedgate.core.types import Batch, Call, Candidate, EmbedRequest, Part, Served
from embedgate.engine.embedding.ask import RouteCaller, SpaceOf
from embedgate.engine.embedding.batching import Batcher
from embedgate.engine.embedding.hedge import Hedger
from embedgate.engine.embedding.outcome import Outcome, charge_outcome, for_another, lost
from embedgate.engine.embedding.plan import Planner, RoutePlan
from embedgate.engine.embedding.progress import Progress
from embedgate.engine.embedding.single_flight import Flight, JoinedInput, SingleFlight
from embedgate.engine.embedding.truncate import NONE_CUT
from embedgate.engine.ledger.charge import cover, may_be_billed
from embedgate.engine.ledger.tokens import estimate
from embedgate.engine.routing.failover import Failover, Probe, RouteAttempts, in_order_of_health
from embedgate.engine.routing.route_health import RouteHealths
from embedgate.observe import metrics
from embedgate.settings import UpstreamSettings


class _Route(Struct, frozen=True):
    """What belongs to one route of one model, for all requests. `batcher` is None where calls are not shared."""

    caller: RouteCaller
    batcher: Batcher | None
    single_flight: SingleFlight


_STOPPED = Outcome(error=InternalError("The gateway stopped before the provider answered."))


class Executor:
    """Gets vectors from providers. One instance serves all requests, and owns what is in flight."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        tokenizers: Tokenizers,
        settings: UpstreamSettings,
        batching: Mapping[str, int],
        space_of: SpaceOf,
        healths: RouteHealths,
        planner: Planner,
        probe: Probe | None = None,
    ) -> None:
        """providers: by name, every one that is on. batching: shared calls at once, of those that batch requests.

        healths: of all routes, older than this object. probe: None where requests have to find out what works again.
        """
        self._space_of = space_of
        self._providers = providers
        self._tokenizers = tokenizers
        self._settings = settings
        self._batching = batching
        self._healths = healths
        self._planner = planner
        self._probe = probe
        self._routes: dict[tuple[str, str], _Route] = {}
        self._hedger = Hedger(self._ask_route, planner, tokenizers)

    async def execute(self, call: Call[EmbedRequest], candidates: Sequence[Candidate]) -> Served:
        """Vectors for every input, from the first candidate that gives them.

        Rows that an earlier route of the same space has answered are kept; only what is missing is asked again.
        Raises what the last route failed with, naming the routes that were tried; BudgetExhausted if the budget does
        not pay for another one.
        """
        progress = Progress(len(call.request.inputs), call.request.dim)
        ordered = in_order_of_health(candidates, self._healths, self._probe)
        # What the cache knows of the first is looked up also if it may not be called now.
        plan = self._planner.of_route(call, ordered[0])
        await self._planner.look_up(call, plan, progress)
        if not progress.n_missing:
            return progress.served(ordered[0])
        failover = Failover(call, ordered, self._healths, self._settings)
        return await failover.run(partial(self._serve, call, failover, progress, plan))

    async def _serve(
        self, call: Call[EmbedRequest], failover: Failover, progress: Progress, plan: RoutePlan, here: RouteAttempts
    ) -> Served:
        """Answer every missing row on one route. plan: of the candidate whose vectors were looked up first."""
        candidate = here.candidate
        if plan.candidate is not candidate:
            plan = self._planner.of_route(call, candidate)
        if progress.candidate is not candidate:
            await self._planner.look_up(call, plan, progress)
            await cover(call)  # also for what is found instead of asked for: that may cost as much
        route, request, shortened = self._route(candidate), call.request, NONE_CUT
        if plan.cuts_here:
            request, shortened = await self._planner.truncated(request, progress.missing(), plan)
        may_join, sizes = True, None
        if len(request.inputs) > 1:  # before it is decided what is asked for: no turn of the loop may come between
            sizes = await self._planner.sizes(request, progress.missing(), plan)
        if sizes is not None or shortened:
            await self._planner.look_again(plan, progress)
        while progress.n_missing:
            missing = progress.missing()
            keys = progress.keys if may_join else None
            own = missing if keys is None else route.single_flight.first_of_each(missing, keys)
            parts = self._planner.cut(request, own, plan, progress.keys, shortened, sizes) if own else []
            depart, demand = route.single_flight.depart, call.demand
            if len(parts) == 1 and len(own) == len(missing):
                (part,) = parts
                await self._fetch(call, here, part, depart(part.keys, demand) if keys and part.keys else None, progress)
            else:
                flights = [depart(part.keys, demand) if keys and part.keys else None for part in parts]
                fetches = [
                    self._fetch(call, here, part, flight, progress) for part, flight in zip(parts, flights, strict=True)
                ]
                # What is in flight by now is another request's, or the same text earlier in this one.
                others = sorted(set(missing).difference(own))
                joined: dict[Flight, dict[int, JoinedInput]] = {}
                for row in others if keys else ():
                    if keys and (input_ := route.single_flight.find(keys[row])) is not None:
                        joined.setdefault(input_.flight, {})[row] = input_
                fetches += [_join(flight, rows, call, here, progress) for flight, rows in joined.items()]
                _raise_first(await asyncio.gather(*fetches, return_exceptions=True))
            may_join = False  # a row whose joined flight failed for another's mistake is now asked for on its own
        if failover.tried and not call.request.options:  # which hosts need not all know
            failover.arrived(here.answered_by)
        return progress.served(here.answered_by)

    async def _fetch(
        self, call: Call[EmbedRequest], here: RouteAttempts, part: Part, flight: Flight | None, progress: Progress
    ) -> None:
        """One part to its end: ask, retry, put its vectors where they belong, and tell who waits for them."""
        outcome = _STOPPED
        before = demand_of_task.set(flight.demand) if flight is not None else None
        try:
            outcome = await self._attempts(call, here, part)
            if part.keys is not None and outcome.vectors is not None:
                await self._planner.remember(call, here.candidate, part.keys, outcome)
        finally:  # what has landed is no longer joined, so it must be in the cache by then
            if flight is not None:
                flight.land(outcome)
            if before is not None:
                demand_of_task.reset(before)
        error, vectors = outcome.error, outcome.vectors
        if isinstance(error, InvalidInput) and error.index is not None:
            raise error.at(part.rows[error.index])
        if error is not None or vectors is None:
            raise error or InternalError("An outcome without vectors and without error.")
        progress.fill(part.rows, vectors, outcome.tokens, outcome.truncated, outcome.is_estimated)

    async def _attempts(self, call: Call[EmbedRequest], here: RouteAttempts, part: Part) -> Outcome:
        """The outcome of a part after as many attempts as make sense at this route; charged to the call."""
        route = self._route(here.candidate)
        attempt = 0
        while True:
            try:
                if call.demand.is_gone:
                    check_wanted()  # others may have joined
                await cover(call, here.candidate)
            except GatewayError as refusal:
                return Outcome(error=refusal)
            answered_by, deadline_s = here.candidate, here.until_s()
            try:
                if route.batcher is not None and not call.request.options:
                    signature = self._planner.signature(call, here.candidate, part.batch)
                    outcome = await route.batcher.ask(part.batch, signature, deadline_s, call, answered_by)
                elif self._settings.hedge and here.others() and (after_s := here.health.p95_s) is not None:
                    answered_by, outcome = await self._hedger.ask(call, here, part, after_s)
                else:
                    outcome = await route.caller.ask(part.batch, deadline_s)
            except BaseException as fault:  # cancelled at shutdown, or a fault of ours: the call may have been sent
                if may_be_billed(fault, answered_by):
                    tokens = estimate(part.batch.inputs, answered_by.route, self._tokenizers)
                    charge_outcome(call, answered_by, lost(tokens), in_vain=True)
                raise
            if part.truncated and answered_by is here.candidate:
                outcome = outcome.with_truncated(part.truncated)
            charge_outcome(call, answered_by, outcome)
            attempt += 1
            if not isinstance(outcome.error, UpstreamError):
                here.answered_by = answered_by
                return outcome
            error = here.told(outcome.error)
            if not await here.again(error, attempt):
                return replace(outcome, error=error, is_spent=here.is_spent)

    async def _ask_route(self, candidate: Candidate, batch: Batch, deadline_s: float) -> Outcome:
        """One call to a candidate's route, for hedging."""
        return await self._route(candidate).caller.ask(batch, deadline_s)

    def _route(self, candidate: Candidate) -> _Route:
        """What belongs to a candidate's route, made when it is first asked for."""
        place = (candidate.model.id, candidate.route.provider)
        found = self._routes.get(place)
        if found is None:
            provider = candidate.route.provider
            health = self._healths.of(candidate)
            caller = RouteCaller(candidate, self._providers[provider], self._tokenizers, self._space_of, health)
            n = self._batching.get(provider)
            batcher = None
            if n:
                bounds = (self._settings.max_waiting, self._settings.max_queued_bytes)
                batcher = Batcher(caller, candidate.route.limits, n, *bounds)
            found = self._routes[place] = _Route(caller, batcher, SingleFlight())
        return found


async def _join(
    flight: Flight, rows: Mapping[int, JoinedInput], call: Call[EmbedRequest], here: RouteAttempts, progress: Progress
) -> None:
    """Take the vectors of rows, in order, from a flight under way. A fault of another row there leaves ours missing."""
    flight.demand.join(call.demand)
    outcome = await flight.arrival(here.until_s())
    error, vectors = outcome.error, outcome.vectors
    for row, joined in rows.items():
        position = joined.position
        if vectors is not None:
            progress.reuse(row, vectors[position], outcome.tokens[position], position in outcome.truncated)
            metrics.joined()
        elif isinstance(error, InvalidInput) and error.index is not None:
            if error.index == position:
                raise error.at(row)
        elif isinstance(error, AccessError):
            return  # the other's budget does not pay for a further attempt, or its caller has left; ours may go on
        elif error is not None:
            here.is_spent |= outcome.is_spent
            raise for_another(error)


def _raise_first(outcomes: Sequence[BaseException | None]) -> None:
    """Raise the worst of what went wrong. The caller's own mistake goes first: trying elsewhere would not mend it."""
    faults = [outcome for outcome in outcomes if outcome is not None]
    faults.sort(key=lambda fault: isinstance(fault, UpstreamError))
    if faults:
        raise faults[0]
