"""Adaptive batching across requests: while a route is at its cap, small requests wait for the next provider call.

An idle route is called at once, with no added wait and no extra task. Requests share a call only if their signatures
agree. A fault that one of them causes is found by halving, and fails that one alone. What waits is bounded, and leaves
the queue when nobody waits for its answer any more.
"""

import asyncio
import math
import time
from collections.abc import Hashable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from embedgate.core.demand import AnyDemand, caller_left, demand_of_task, shared, while_wanted
from embedgate.core.errors import NOT_SENT, GatewayError, InvalidInput, Overloaded, UpstreamNotAsked, UpstreamRejected
from embedgate.core.models import BatchLimits
from embedgate.core.types import Batch, Call, Candidate, EmbedRequest
from embedgate.engine.embedding.ask import RouteCaller
from embedgate.engine.embedding.outcome import Outcome, charge_outcome
from embedgate.engine.ledger.charge import cover
from embedgate.engine.ledger.tokens import total_bound
from embedgate.observe import metrics

MAX_BATCHED_INPUTS = 64
"""Larger batches gain nothing from company and would make the others wait: they are called on their own."""


class _Waiting(Struct, eq=False):
    """One batch in the queue, of a request that is served by `candidate`.

    `demand`: for its answer; None where nobody could leave.
    """

    batch: Batch
    call: Call[EmbedRequest]
    candidate: Candidate
    signature: Hashable
    deadline_s: float
    size_bytes: int
    outcome: "asyncio.Future[Outcome]"
    demand: AnyDemand | None = None
    is_sent: bool = False


class Batcher:
    """The queue in front of one route of one model."""

    def __init__(
        self,
        caller: RouteCaller,
        limits: BatchLimits,
        max_parallel: int,
        max_waiting: int,
        max_waiting_bytes: float = math.inf,
    ) -> None:
        """max_parallel: shared calls at once. max_waiting: batches that may wait; max_waiting_bytes: of their texts."""
        self._caller = caller
        self._limits = limits
        self._max_parallel = max_parallel
        self._max_waiting = max_waiting
        self._in_flight = 0
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: dict[_Waiting, None] = {}
        self._waiting_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(
        self, batch: Batch, signature: Hashable, deadline_s: float, call: Call[EmbedRequest], candidate: Candidate
    ) -> Outcome:
        """The outcome of one batch, alone or in a shared call. Never raises a GatewayError.

        signature: batches of equal ones may share a call. deadline_s: on the monotonic clock. call: of the request that
        pays, covered for one provider call to its candidate; what further ones cost is covered, and what was billed in
        vain charged, here.
        """
        if len(batch.inputs) > MAX_BATCHED_INPUTS:
            return await self._caller.ask(batch, deadline_s)
        if self._in_flight < self._max_parallel and not self._waiting:
            self._in_flight += 1
            try:
                return await self._caller.ask(batch, deadline_s)
            finally:
                self._in_flight -= 1
                self._pump()
        return await self._wait(batch, signature, deadline_s, call, candidate)

    async def _wait(
        self, batch: Batch, signature: Hashable, deadline_s: float, call: Call[EmbedRequest], candidate: Candidate
    ) -> Outcome:
        size_bytes = total_bound(batch.inputs)
        if (refusal := self._refusal(size_bytes)) is not None:
            return Outcome(error=refusal)
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(batch, call, candidate, signature, deadline_s, size_bytes, outcome, demand_of_task.get())
        self._waiting[waiting] = None
        self._waiting_bytes += size_bytes

        def drop() -> None:
            if not waiting.is_sent and not outcome.done():
                metrics.call_dropped("batch")
                outcome.set_result(Outcome(error=caller_left()))

        try:
            with while_wanted(drop):
                await asyncio.wait([outcome], timeout=max(0.0, deadline_s - time.monotonic()))
        except asyncio.CancelledError:
            if waiting.is_sent:
                raise
            raise asyncio.CancelledError(NOT_SENT) from None
        finally:
            if not waiting.is_sent:
                self._leave_queue(waiting)
                outcome.cancel()
        if not waiting.is_sent and outcome.cancelled():
            return Outcome(error=UpstreamNotAsked("The provider was busy for the whole time of the request"))
        # Its call may end a little later than this request's own time, and its share is on the bill either way.
        return await outcome

    def _refusal(self, size_bytes: int) -> Overloaded | None:
        """Why a batch of that size may not wait, too; None if it may."""
        n = len(self._waiting)
        if n >= self._max_waiting:
            message = f"{self._max_waiting} requests wait for this model already; try again in a moment."
        elif n and self._waiting_bytes + size_bytes > self._max_waiting_bytes:
            message = f"{self._waiting_bytes} bytes of inputs wait for this model already; try again in a moment."
        else:
            return None
        return Overloaded(message, retry_after_s=1)

    def _leave_queue(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            del self._waiting[waiting]
            self._waiting_bytes -= waiting.size_bytes

    def _pump(self) -> None:
        """Send what waits, as far as the cap allows."""
        while self._waiting and self._in_flight < self._max_parallel:
            group = self._take()
            if not group:
                return
            self._in_flight += 1
            task = asyncio.get_running_loop().create_task(self._run(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[_Waiting]:
        """The longest waiting batch and those that may go with it, within the limits of one call; order is kept."""
        group: list[_Waiting] = []
        n_inputs = size_bytes = 0
        max_inputs = self._limits.max_inputs or 10**9
        # The bound in bytes is also one in tokens; precise enough for batches this small.
        max_bytes = min(self._limits.max_bytes or 10**12, self._limits.max_tokens or 10**12)
        for waiting in tuple(self._waiting):
            if waiting.outcome.done():  # its caller ran out of time, or has left
                self._leave_queue(waiting)
                continue
            n = len(waiting.batch.inputs)
            fits = n_inputs + n <= max_inputs and size_bytes + waiting.size_bytes <= max_bytes
            if group and not (fits and waiting.signature == group[0].signature):
                continue
            self._leave_queue(waiting)
            waiting.is_sent = True
            group.append(waiting)
            n_inputs += n
            size_bytes += waiting.size_bytes
        return group

    async def _run(self, group: list[_Waiting]) -> None:
        # Not that of the request whose end has made the room, in whose context this task was made.
        demand_of_task.set(shared([waiting.demand for waiting in group]))
        try:
            await self._serve(group)
        finally:
            self._in_flight -= 1
            for waiting in group:  # nobody may be left waiting, whatever happened above
                if not waiting.outcome.done():
                    waiting.outcome.cancel()
            self._pump()

    async def _serve(self, group: Sequence[_Waiting]) -> None:
        """Call for a whole group; if one of it is at fault, find which, so that the others are served.

        Those whose callers have left by now are not in the call.
        """
        gone = [waiting for waiting in group if waiting.demand is not None and waiting.demand.is_gone]
        if gone:
            for waiting in gone:
                metrics.call_dropped("batch")
                _settle(waiting, Outcome(error=caller_left()))
            group = [waiting for waiting in group if waiting not in gone]
        if not group:
            return
        inputs = tuple(item for waiting in group for item in waiting.batch.inputs)
        deadline_s = max(waiting.deadline_s for waiting in group)
        outcome = await self._caller.ask(replace(group[0].batch, inputs=inputs), deadline_s)
        error = outcome.error
        if len(group) > 1 and isinstance(error, InvalidInput) and error.index is not None:
            _charge_in_vain(group, outcome)
            await self._without(group, error)
        elif len(group) > 1 and isinstance(error, UpstreamRejected):
            _charge_in_vain(group, outcome)
            middle = len(group) // 2
            await self._serve(await _covered(group[:middle]))
            await self._serve(await _covered(group[middle:]))
        else:
            _hand_out(group, outcome)

    async def _without(self, group: Sequence[_Waiting], error: InvalidInput) -> None:
        """Fail the batch that the index points into, and serve the others."""
        start = 0
        for position, waiting in enumerate(group):
            end = start + len(waiting.batch.inputs)
            if error.index is not None and start <= error.index < end:
                _settle(waiting, Outcome(error=error.at(error.index - start)))
                await self._serve(await _covered([*group[:position], *group[position + 1 :]]))
                return
            start = end
        _hand_out(group, Outcome(error=error))


def _hand_out(group: Sequence[_Waiting], outcome: Outcome) -> None:
    """Give each batch its rows and its share of what was billed, also for a wrong answer."""
    for waiting, part in _shares(group, outcome):
        _settle(waiting, part)


def _charge_in_vain(group: Sequence[_Waiting], outcome: Outcome) -> None:
    """Charge each batch its share of a call that has to be repeated: refused, it may be billed for a half of it."""
    for waiting, part in _shares(group, outcome):
        charge_outcome(waiting.call, waiting.candidate, part, in_vain=True)


async def _covered(group: Sequence[_Waiting]) -> list[_Waiting]:
    """Those of a group whose hold pays for a repeated call as well; the others have failed when this returns."""
    covered = []
    for waiting in group:
        try:
            await cover(waiting.call, waiting.candidate)
        except GatewayError as refusal:
            _settle(waiting, Outcome(error=refusal))
        else:
            covered.append(waiting)
    return covered


def _shares(group: Sequence[_Waiting], outcome: Outcome) -> Iterator[tuple[_Waiting, Outcome]]:
    start = 0
    for waiting in group:
        end = start + len(waiting.batch.inputs)
        yield waiting, outcome.part(start, end)
        start = end


def _settle(waiting: _Waiting, outcome: Outcome) -> None:
    if not waiting.outcome.done():
        waiting.outcome.set_result(outcome)
