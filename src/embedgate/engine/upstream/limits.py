"""Rate limits of one credential at its provider: requests and tokens per minute, with a bounded queue of calls.

All callers share a credential. Configured limits apply to the credential as a whole. Limits and retry times that the
provider reports apply to the requested model, because vendors count per model. A call waits in the queue (first in,
first out) only if the wait is short; otherwise it is refused at once, so that another credential or route is tried.
There are no tasks here: one timer wakes the head of the queue.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from msgspec import Struct

from embedgate.core.demand import caller_left, while_wanted
from embedgate.core.errors import NOT_SENT, CallerLeft, UpstreamLimited
from embedgate.core.hints import NO_HINTS, RateHints
from embedgate.engine.upstream.gauges import ConfiguredLimit, ReportedLimit
from embedgate.observe import events, metrics

MAX_BLOCK_S = 3_600.0
"""Longest block that a provider can ask for; a longer retry time is likely a mistake."""

LIKELY_TOKENS = 0.25
"""True tokens of a call over its bound: that counts one token per byte, and most texts have four bytes per token."""

Gauge = ConfiguredLimit | ReportedLimit


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of the queue of one credential: how long a call may wait for room, and how many may wait at once."""

    max_wait_s: float
    max_waiting: int


@dataclass(slots=True, eq=False)
class _Model:
    """The limits of one model with one credential."""

    name: str
    requests: Gauge
    tokens: Gauge
    blocked_until_s: float = -math.inf

    def ready_at(self, tokens: int, now: float, *, is_last: bool) -> float:
        """When there is room for one more call; behind the waiting ones if it `is_last`."""
        return max(
            self.blocked_until_s,
            self.requests.ready_at(1, now, is_last=is_last),
            self.tokens.ready_at(tokens, now, is_last=is_last),
        )

    def count_waiting(self, tokens: int, n: int) -> None:
        """Count one more waiting call, or one less: `n` is 1 or -1."""
        self.requests.waiting += n
        self.tokens.waiting += n * tokens


@dataclass(slots=True, eq=False)
class _Waiting:
    """A waiting call. `until_s`: when it is refused."""

    model: _Model
    tokens: int
    until_s: float
    answer: "asyncio.Future[Ticket | UpstreamLimited | CallerLeft]"


class CredentialLimits:
    """Rate limits of one credential: calls in flight, usage, and the queue of waiting calls. For one event loop."""

    def __init__(
        self,
        name: str,
        line: QueueLimits,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """name: for messages and metrics; it shows no key. None: as the provider reports. clock: monotonic seconds."""
        self.name = name
        self.clock = clock
        self.in_flight = 0
        self._limits = line
        self._requests = ConfiguredLimit(requests_per_minute, 1.0) if requests_per_minute else None
        self._tokens = ConfiguredLimit(tokens_per_minute, LIKELY_TOKENS) if tokens_per_minute else None
        self._models: dict[str, _Model] = {}
        self._queue: dict[_Waiting, None] = {}
        """The calls that wait for room, first come first."""
        self._timer: asyncio.TimerHandle | None = None

    def counts_tokens(self, model: str) -> bool:
        """Whether any known limit counts tokens of this model."""
        return self._model(model).tokens.is_known

    def wait_s(self, model: str, tokens: int) -> float:
        """Seconds that a call would wait now: 0.0 if there is room, an estimate if others wait."""
        known, now = self._model(model), self.clock()
        return known.ready_at(known.tokens.fit(tokens), now, is_last=True) - now

    def enter_freely(self, model: str) -> "Ticket | None":
        """Admit a call at once if no limit applies to its model, as for most; None otherwise: then call `enter`."""
        known = self._models.get(model)
        if known is None or known.requests.is_known or known.tokens.is_known:
            return None
        now = self.clock()
        return self._admit(known, 0, now) if known.blocked_until_s <= now else None

    async def enter(self, model: str, tokens: int, deadline_s: float) -> "Ticket":
        """Admit a call, at once or after a short wait. `Ticket.end` must follow.

        tokens: the most that it can have, 0 if `counts_tokens` says so. deadline_s: on this object's clock.
        A refused or cancelled call is counted nowhere.
        Raises UpstreamLimited if the wait would be too long, or too many wait; `retry_after_s` is when the same call
        would be admitted if no other came. Raises CallerLeft if nobody waits any more for the answer.
        """
        known, now = self._model(model), self.clock()
        if not known.requests.is_known and not known.tokens.is_known and known.blocked_until_s <= now:
            return self._admit(known, tokens, now)
        tokens = known.tokens.fit(tokens)
        at_s = known.ready_at(tokens, now, is_last=True)
        if at_s <= now:
            return self._admit(known, tokens, now)
        until_s = min(now + self._limits.max_wait_s, deadline_s)
        if at_s > until_s or len(self._queue) >= self._limits.max_waiting:
            raise self._refusal(known, at_s - now)
        return await self._wait(known, tokens, until_s)

    def block(self, model: str, wait_s: float) -> None:
        """Block calls of this model for so long, as the provider asks. Calls that cannot wait are refused at once."""
        known, now = self._model(model), self.clock()
        wait_s = min(wait_s, MAX_BLOCK_S)
        if known.blocked_until_s <= now < now + wait_s:
            metrics.credential_blocked(self.name, "limit")
            events.ACCOUNT_BLOCKED.emit(account=self.name, model=model, wait_s=round(wait_s, 3))
        known.blocked_until_s = max(known.blocked_until_s, now + wait_s)
        self.serve_queue()

    def lift(self) -> None:
        """End every block, and let calls in that waited for it."""
        for model in self._models.values():
            model.blocked_until_s = -math.inf
        self.serve_queue()

    def serve_queue(self) -> None:
        """Admit waiting calls that fit, refuse those that cannot fit in time, and set the timer for the next.

        No call overtakes another that waits for the same limits.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._queue:
            return
        now = self.clock()
        held: set[Gauge | _Model] = set()
        next_at_s = math.inf
        for waiting in tuple(self._queue):
            model = waiting.model
            if waiting.answer.done() or not held.isdisjoint((model, model.requests, model.tokens)):
                continue
            at_s = model.ready_at(waiting.tokens, now, is_last=False)
            if at_s <= now:
                self._answer(waiting, self._admit(model, waiting.tokens, now))
            elif at_s > waiting.until_s:
                self._answer(waiting, self._refusal(model, at_s - now))
            else:
                held |= {model} if model.blocked_until_s > now else {model.requests, model.tokens}
                next_at_s = min(next_at_s, at_s)
        if next_at_s < math.inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, next_at_s - now), self.serve_queue)

    def _model(self, name: str) -> _Model:
        known = self._models.get(name)
        if known is None:
            requests, tokens = self._requests or ReportedLimit(1.0), self._tokens or ReportedLimit(LIKELY_TOKENS)
            known = self._models[name] = _Model(name, requests, tokens)
        return known

    def _admit(self, model: _Model, tokens: int, now: float) -> "Ticket":
        self.in_flight += 1
        model.requests.in_flight += 1
        model.tokens.in_flight += tokens
        return Ticket(self, model, tokens, now)

    async def _wait(self, model: _Model, tokens: int, until_s: float) -> "Ticket":
        loop = asyncio.get_running_loop()
        waiting = _Waiting(model, tokens, until_s, loop.create_future())
        self._queue[waiting] = None
        model.count_waiting(tokens, 1)
        metrics.credential_waits(self.name, 1)
        timer = loop.call_later(max(0.0, until_s - self.clock()), self._give_up, waiting)
        self.serve_queue()
        try:
            with while_wanted(partial(self._drop, waiting)):
                answer = await waiting.answer
        except asyncio.CancelledError:
            if waiting.answer.cancelled():
                self._leave_queue(waiting)
                self.serve_queue()
            elif isinstance(admitted := waiting.answer.result(), Ticket):  # admitted and cancelled in the same moment
                admitted.withdraw()
            raise asyncio.CancelledError(NOT_SENT) from None
        finally:
            timer.cancel()
        if isinstance(answer, Ticket):
            return answer
        raise answer

    def _give_up(self, waiting: _Waiting) -> None:
        self.serve_queue()  # there may be room at this very moment
        if waiting.answer.done():
            return
        now = self.clock()
        at_s = waiting.model.ready_at(waiting.tokens, now, is_last=False)
        self._answer(waiting, self._refusal(waiting.model, at_s - now))
        self.serve_queue()

    def _drop(self, waiting: _Waiting) -> None:
        """Let a call go that nobody waits for any more."""
        if not waiting.answer.done():
            metrics.call_dropped("credential")
            self._answer(waiting, caller_left())
            self.serve_queue()

    def _answer(self, waiting: _Waiting, answer: "Ticket | UpstreamLimited | CallerLeft") -> None:
        self._leave_queue(waiting)
        waiting.answer.set_result(answer)

    def _leave_queue(self, waiting: _Waiting) -> None:
        if waiting in self._queue:
            del self._queue[waiting]
            waiting.model.count_waiting(waiting.tokens, -1)
            metrics.credential_waits(self.name, -1)

    def _refusal(self, model: _Model, wait_s: float) -> UpstreamLimited:
        metrics.credential_refused(self.name)
        limits = self._limits
        return UpstreamLimited(
            f"The limits of the account {self.name} leave no room for this call of {model.name} for "
            f"{math.ceil(wait_s)} s. Calls wait {limits.max_wait_s:g} s for room (upstream.max_limit_wait_s), "
            f"{limits.max_waiting} at once (upstream.max_limit_waiting)",
            retry_after_s=wait_s,
        )


class Ticket(Struct, eq=False):
    """An admitted call. Its request counts until the answer begins, its tokens until it ends or they are reported.

    Made by `CredentialLimits.enter`.
    """

    _limits: CredentialLimits
    _model: _Model
    _tokens: int
    _began_s: float
    _counts_requests: bool = True
    _counts_tokens: bool = True
    _is_over: bool = False

    @property
    def model(self) -> str:
        """The model of the call, by the provider's name."""
        return self._model.name

    def learn(self, hints: RateHints) -> None:
        """Follow what the answer reports of limits. It includes this request, and maybe its tokens."""
        model, now, is_silent = self._model, self._limits.clock(), hints is NO_HINTS
        if self._counts_requests:
            self._counts_requests = False
            if is_silent or not model.requests.tell(1, self._began_s, hints.requests, now):
                model.requests.end(1, 1, now)
        if self._counts_tokens and not is_silent and model.tokens.tell(self._tokens, self._began_s, hints.tokens, now):
            self._counts_tokens = False
        if self._limits._queue:
            self._limits.serve_queue()

    def end(self, tokens: int | None = None) -> None:
        """End the call. tokens: its usage; None if unknown, which counts the bound. Idempotent."""
        self._end(1, self._tokens if tokens is None else tokens)

    def withdraw(self) -> None:
        """End a call that was not made after all."""
        self._end(0, 0)

    def _end(self, requests: int, tokens: int) -> None:
        if self._is_over:
            return
        self._is_over = True
        model, now = self._model, self._limits.clock()
        if self._counts_requests:
            model.requests.end(1, requests, now)
        if self._counts_tokens:
            model.tokens.end(self._tokens, tokens, now)
        self._limits.in_flight -= 1
        if self._limits._queue:
            self._limits.serve_queue()
