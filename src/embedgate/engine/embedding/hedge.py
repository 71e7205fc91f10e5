"""Hedging: a second route is called when the first takes longer than it usually does. The first good answer counts.

The other call is cancelled. If it was sent, it is paid for by our own count: its provider may well bill it. So the
money for both is held before, and every second call comes out of the retry budget of its route.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from embedgate.core.errors import NOT_SENT, GatewayError, InvalidInput, UpstreamError
from embedgate.core.ports import Tokenizers
from embedgate.core.types import Batch, Call, Candidate, EmbedRequest, Part
from embedgate.engine.embedding.outcome import Outcome, charge_outcome
from embedgate.engine.embedding.plan import Planner
from embedgate.engine.ledger.charge import cover
from embedgate.engine.ledger.tokens import count_aside
from embedgate.engine.routing.failover import RouteAttempts
from embedgate.observe import metrics

Ask = Callable[[Candidate, Batch, float], Awaitable[Outcome]]
"""One call to a candidate's route: batch, and deadline on the monotonic clock."""


class _Runner(Struct, frozen=True):
    """One of two calls for the same inputs."""

    candidate: Candidate
    batch: Batch
    began_s: float
    task: "asyncio.Future[Outcome]"


class Hedger:
    """Makes one call, and beside it a second one where that may help."""

    def __init__(self, ask: Ask, planner: Planner, tokenizers: Tokenizers) -> None:
        """ask: calls a route. tokenizers: to count what a call that is cancelled may cost."""
        self._ask = ask
        self._planner = planner
        self._tokenizers = tokenizers

    async def ask(
        self, call: Call[EmbedRequest], here: RouteAttempts, part: Part, after_s: float
    ) -> tuple[Candidate, Outcome]:
        """The outcome of a part, and who gave it. What the other call costs is charged already.

        after_s: how long the first one has the field for itself.
        """
        first = self._start(here.candidate, part.batch, here.until_s())
        runners = [first]
        try:
            await asyncio.wait([first.task], timeout=after_s)
            is_over = first.task.done() or call.demand.is_gone
            second = None if is_over else await self._second(call, here, part)
            if second is None:
                return first.candidate, await first.task
            candidate, other, cost_picodollars = second
            try:
                if not first.task.done():
                    runners.append(self._start(candidate, other.batch, here.until_s()))
                winner = await _winner(runners)
                lost = [(runner, await self._given_up(here, runner)) for runner in runners if runner is not winner]
            except asyncio.CancelledError:
                for runner in runners[1:]:  # for the first, who asked us charges
                    charge_outcome(call, runner.candidate, await self._given_up(here, runner), in_vain=True)
                raise
            finally:
                call.wasted_picodollars -= cost_picodollars
            for runner, outcome in lost:  # at once: what is not held any more must be charged
                charge_outcome(call, runner.candidate, outcome, in_vain=True)
                metrics.hedged(is_won=winner is not first)
            outcome = winner.task.result()
            return winner.candidate, outcome if winner is first else outcome.with_truncated(other.truncated)
        finally:
            await _end(runners)

    def _start(self, candidate: Candidate, batch: Batch, deadline_s: float) -> _Runner:
        task = asyncio.ensure_future(self._ask(candidate, batch, deadline_s))
        return _Runner(candidate, batch, time.monotonic(), task)

    async def _second(
        self, call: Call[EmbedRequest], here: RouteAttempts, part: Part
    ) -> tuple[Candidate, Part, int] | None:
        """Who can be asked beside, for what, and how much more that may cost, which is held; None if nobody can."""
        wanted = self._planner.of_route(call, here.candidate).identity
        for candidate, health in here.others():
            plan = self._planner.of_route(call, candidate)
            if plan.identity != wanted:
                continue
            try:
                request, shortened = await self._planner.truncated(call.request, part.rows, plan)
                sizes = await self._planner.sizes(request, part.rows, plan)
                parts = self._planner.cut(request, part.rows, plan, None, shortened, sizes)
            except InvalidInput:
                continue
            if len(parts) > 1 or not health.may_retry():
                continue
            # Either of the two may be given up, and either may be the dearer one.
            costs = await self._cost(here.candidate, part.batch), await self._cost(candidate, parts[0].batch)
            cost_picodollars = max(costs)
            call.wasted_picodollars += cost_picodollars
            try:
                await cover(call, candidate)
            except GatewayError:
                call.wasted_picodollars -= cost_picodollars
                return None
            return candidate, parts[0], cost_picodollars
        return None

    async def _cost(self, candidate: Candidate, batch: Batch) -> int:
        counted = await count_aside(batch.inputs, candidate.route, self._tokenizers)
        return candidate.cost_of(counted.total)

    async def _given_up(self, here: RouteAttempts, runner: _Runner) -> Outcome:
        """What a call whose answer is not needed any more came to, after it has ended."""
        await _end([runner])
        if not runner.task.cancelled():
            return runner.task.result()
        if _was_unsent(runner.task):
            return Outcome()
        spent_s = time.monotonic() - runner.began_s
        metrics.provider_call(runner.candidate.route.provider, "given_up", len(runner.batch.inputs), spent_s)
        if runner.candidate is here.candidate:
            here.health.outrun(spent_s)
        tokens = (await count_aside(runner.batch.inputs, runner.candidate.route, self._tokenizers)).each
        return Outcome(None, tokens, is_estimated=True, billed=sum(tokens), upstream_s=spent_s)


async def _winner(runners: Sequence[_Runner]) -> _Runner:
    """The one whose outcome counts: with vectors, or a fault of the caller's own at the first. If both failed, that.

    What the second one says of the caller's inputs may be true of its route only.
    """
    first = runners[0]
    pending = {runner.task for runner in runners}
    while pending:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for runner in runners:
            if not runner.task.done():
                continue
            error = runner.task.result().error
            if error is None or (runner is first and not isinstance(error, UpstreamError)):
                return runner
    return first


async def _end(runners: Sequence[_Runner]) -> None:
    """Leave no call behind."""
    left = [runner.task for runner in runners if not runner.task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)


def _was_unsent(ended: "asyncio.Future[Outcome]") -> bool:
    """Whether a call was given up before its provider was asked: while it waited for a place, or for room."""
    try:
        ended.result()
    except asyncio.CancelledError as cancelled:
        return cancelled.args == (NOT_SENT,)
    return False
