"""Failover: the one loop over the routes of a request, its retries and waits, and its error when no route is left.

The loop goes from route to route without waiting, healthy ones first. Only where no other is left does it wait and
repeat a call, as often as the settings, the route's retry budget and the deadline allow; then it comes back to routes
that it left for a fault that may have passed.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from embedgate.core.demand import check_wanted
from embedgate.core.errors import (
    GatewayError,
    Overloaded,
    UpstreamBusy,
    UpstreamError,
    UpstreamGarbled,
    UpstreamLimited,
    UpstreamMisconfigured,
    UpstreamQueueFull,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTooLarge,
)
from embedgate.core.types import Call, Candidate
from embedgate.engine.routing.route_health import RouteHealth, RouteHealths
from embedgate.observe import events
from embedgate.settings import UpstreamSettings

T = TypeVar("T")
_SLACK_S = 0.1
"""A call that ends so long before the request's own time was ended by that."""
Probe = Callable[[Candidate], bool]
"""Begins to find out, aside, if a route works again. False: it cannot, so a request has to."""


async def with_failover(
    call: Call[Any],
    candidates: Sequence[Candidate],
    healths: RouteHealths,
    settings: UpstreamSettings,
    ask: Callable[[Candidate, float], Awaitable[T]],
) -> tuple[Candidate, T]:
    """The answer of the first candidate that gives one, for requests that one call serves whole.

    candidates: at least one, best first. ask: makes one call, which has its time until a moment of the monotonic clock.
    Raises what the last route failed with, saying what was tried; any other error of `ask` as it is.
    """

    async def serve(here: RouteAttempts) -> tuple[Candidate, T]:
        return here.candidate, await here.retry(ask)

    return await Failover(call, in_order_of_health(candidates, healths, None), healths, settings).run(serve)


class RouteAttempts(Struct, eq=False):
    """The attempts of one request at one route. Made by `Failover.run`.

    `is_spent` says that no retry is left there; `answered_by` is the candidate that answered: another one, if a hedged
    call to it was quicker. So many attempts were `_made` here before.
    """

    _failover: "Failover"
    candidate: Candidate
    answered_by: Candidate
    health: RouteHealth
    _made: int = 0
    attempts: int = 0
    is_spent: bool = False

    async def retry(self, ask: Callable[[Candidate, float], Awaitable[T]]) -> T:
        """The answer of `ask` after as many attempts as make sense here. Raises what the last one failed with."""
        attempt = 0
        while True:
            attempt += 1
            check_wanted()
            began_s = time.monotonic()
            try:
                answer = await ask(self.candidate, self.until_s())
            except GatewayError as error:
                self.health.failed(error, time.monotonic() - began_s)
                if not isinstance(error, UpstreamError):
                    raise
                fault = self.told(error)
            else:
                self.health.succeeded(time.monotonic() - began_s)
                return answer
            if not await self.again(fault, attempt):
                raise fault

    def until_s(self) -> float:
        """When one attempt has had its time: earlier than the request, where that can still go elsewhere."""
        failover = self._failover
        deadline_s = failover.call.deadline_s
        if (failover.left and failover.goes_on()) or not self.health.is_well:
            return min(deadline_s, time.monotonic() + failover.settings.attempt_timeout_s)
        return deadline_s

    def others(self) -> list[tuple[Candidate, RouteHealth]]:
        """The routes that work and were not tried, best first."""
        return self._failover.others()

    def told(self, error: UpstreamError) -> UpstreamError:
        """The fault of one attempt; if that had less time than the request, with the setting that says how much."""
        if isinstance(error, UpstreamTimeout) and not error.names_limit and self._failover.may_pass(error):
            limit_s = self._failover.settings.attempt_timeout_s
            return UpstreamTimeout(f"{error.message}, which is {limit_s:g} s (upstream.attempt_timeout_s)")
        return error

    async def again(self, error: UpstreamError, attempt: int) -> bool:
        """Whether the same call is to be made here once more. Returns when it is time for it.

        attempt: how often it was made since the loop came here.
        """
        failover = self._failover
        settings = failover.settings
        made = self._made + attempt
        self.attempts = max(self.attempts, made)
        if not isinstance(error, UpstreamLimited):
            event = events.BAD_ANSWER if isinstance(error, UpstreamGarbled) else events.UPSTREAM_FAULT
            event.emit(
                request_id=failover.call.request_id,
                provider=self.candidate.route.provider,
                code=error.code,
                attempt=made,
                detail=error.message,
            )
        if failover.goes_on() or not failover.may_pass(error):
            return False
        self.is_spent = True
        wait_s = _wait_s(error, made, settings)
        if made > settings.max_retries or not failover.can_wait(wait_s) or not self.health.may_retry(error):
            return False
        await asyncio.sleep(wait_s)
        return await failover.admitted(self.health)


class Failover:
    """The failover of one request: the routes that are `left` to it, and what went wrong at those it has `tried`."""

    __slots__ = (
        "_asked",
        "_healths",
        "_later",
        "_refused",
        "_trial",
        "_waited_s",
        "_waits_until_s",
        "call",
        "left",
        "settings",
        "tried",
    )

    def __init__(
        self,
        call: Call[Any],
        candidates: Sequence[Candidate],
        healths: RouteHealths,
        settings: UpstreamSettings,
    ) -> None:
        """candidates: at least one, in the order of `in_order_of_health`."""
        self.call = call
        self.settings = settings
        self._asked = candidates[0].model
        self._healths = healths
        self.left = list(candidates)
        self._later: list[RouteAttempts] = []
        self._refused: list[tuple[Candidate, UpstreamError]] = []
        self.tried: list[tuple[RouteAttempts, UpstreamError]] = []
        self._trial: tuple[RouteHealth, float] | None = None
        self._waited_s = self._waits_until_s = 0.0

    async def run(self, serve: Callable[[RouteAttempts], Awaitable[T]]) -> T:
        """What `serve` returns for the first route on which it raises no UpstreamError.

        Raises what the last route failed with, saying what was tried; any other error of `serve` as it is.
        """
        try:
            while (here := await self._next()) is not None:
                try:
                    return await serve(here)
                except UpstreamError as error:
                    self._leave(here, error)
            raise self._failure()
        finally:
            if self._trial is not None:
                self._end_trial()

    async def _next(self) -> RouteAttempts | None:
        """The route to go on with, after the wait for it if nothing else is left. None: nothing is."""
        if self._trial is not None:
            self._end_trial()
        while True:
            while self.left:
                candidate = self.left.pop(0)
                health = self._healths.of(candidate)
                if health.is_well:
                    return RouteAttempts(self, candidate, candidate, health)
                refusal = health.refusal()
                if refusal is None:
                    if health.is_due:
                        self._trial = (health, health.lease())
                    return RouteAttempts(self, candidate, candidate, health)
                self._refused.append((candidate, refusal))
            while self._later:
                if (here := await self._come_back()) is not None:
                    return here
            if not await self._outlast_refusal():
                return None

    def _leave(self, here: RouteAttempts, error: UpstreamError) -> None:
        """Remember a route that gave no answer, to come back to it if its fault may pass."""
        self.tried = [(other, fault) for other, fault in self.tried if other.candidate is not here.candidate]
        self.tried.append((here, error))
        if not here.is_spent and self.may_pass(error):
            self._later.append(here)

    def arrived(self, answered: Candidate) -> None:
        """Tell the routes that refused the same call as wrong that this candidate has answered it.

        Not so those that only take less than it: fewer inputs in a call, or shorter ones; nor those of another model.
        """
        for tried, error in self.tried:
            model, route = tried.candidate.model, tried.candidate.route
            takes_as_much = route.max_input_tokens >= answered.route.max_input_tokens
            if _is_disproved(error) and model is answered.model and takes_as_much:
                tried.health.disproved(error)

    def _failure(self) -> UpstreamError | Overloaded:
        """What to raise when nothing is left, with all that was tried.

        A fault that may pass goes first, since that route may take what another one has rejected; then what the caller
        has to correct, so that no fault of ours hides it; else the last one.
        """
        told = [(self._name(tried.candidate) + _tried_text(tried, error), error) for tried, error in self.tried]
        told += [(f"{self._name(candidate)}not asked, {error.message}", error) for candidate, error in self._refused]
        faults = [error for _, error in told]
        last = self.tried[-1][1] if self.tried else faults[0]
        rejected = next((error for error in faults if _is_callers(error)), last)
        fault = next((error for error in (last, *faults) if error.may_retry), rejected)
        waits_s = [error.retry_after_s for error in faults if error.retry_after_s is not None]
        if len(told) > 1:
            message = (
                f"No route could serve {self.call.request.model[:200]}. Tried {'; '.join(text for text, _ in told)}"
            )
        elif self.tried:
            message = _tried_text(*self.tried[0])
        else:
            return fault
        kind = Overloaded if isinstance(fault, UpstreamQueueFull) else type(fault)
        return kind(message, retry_after_s=min(waits_s, default=None))

    def goes_on(self) -> bool:
        """Whether there is another route that works and was not tried."""
        return bool(self.left) and bool(self.others())

    def others(self) -> list[tuple[Candidate, RouteHealth]]:
        """Those routes, best first."""
        left = [(candidate, self._healths.of(candidate)) for candidate in self.left]
        return [(candidate, health) for candidate, health in left if health.is_well]

    def may_pass(self, error: UpstreamError) -> bool:
        """Whether the same call may succeed at the same route a little later.

        Where the queue is full it is not waited for: what waits elsewhere takes memory, too.
        """
        if isinstance(error, UpstreamQueueFull):
            return False
        return error.may_retry or (isinstance(error, UpstreamTimeout) and self.has_time(_SLACK_S))

    def has_time(self, wait_s: float) -> bool:
        """Whether the request's time is not over after such a wait."""
        return time.monotonic() + wait_s < self.call.deadline_s

    def can_wait(self, wait_s: float) -> bool:
        """Whether a wait is within what the settings and the request's time allow."""
        return wait_s <= self.settings.max_wait_s and self.has_time(wait_s)

    async def admitted(self, health: RouteHealth) -> bool:
        """Whether a route may be called; returns after the wait that its provider asks for, if that is short enough."""
        while (refusal := health.refusal()) is not None:
            wait_s = _with_jitter(refusal.retry_after_s or 0.0, self.settings)
            now_s = time.monotonic()
            # Parts of one request wait at the same time; that counts once.
            more_s = max(0.0, now_s + wait_s - max(now_s, self._waits_until_s))
            waited_s = self._waited_s + more_s
            is_short = waited_s <= self.settings.max_wait_s and self.has_time(wait_s)
            if not isinstance(refusal, UpstreamBusy) or not is_short:
                return False
            self._waited_s = waited_s
            self._waits_until_s = max(self._waits_until_s, now_s + wait_s)
            await asyncio.sleep(wait_s)
        return True

    async def _come_back(self) -> RouteAttempts | None:
        """To a route that was left for another one, after a wait, to repeat the call there."""
        before = self._later.pop(0)
        health = before.health
        made = max(1, before.attempts)
        error = next(error for tried, error in self.tried if tried is before)
        wait_s = _wait_s(error, made, self.settings)
        if made > self.settings.max_retries or not self.can_wait(wait_s) or not health.may_retry(error):
            return None
        await asyncio.sleep(wait_s)
        if not await self.admitted(health):
            return None
        return RouteAttempts(self, before.candidate, before.candidate, health, made, made, is_spent=True)

    async def _outlast_refusal(self) -> bool:
        """Wait for the first of the providers that asked us to. Whether one can be asked now."""
        busy = [refused for refused in self._refused if isinstance(refused[1], UpstreamBusy)]
        if not busy:
            return False
        soonest = min(busy, key=lambda refused: refused[1].retry_after_s or 0.0)
        if not await self.admitted(self._healths.of(soonest[0])):
            return False
        self._refused.remove(soonest)
        self.left.append(soonest[0])
        return True

    def _end_trial(self) -> None:
        """Let others find out whether a route works: the attempts that were to do it are over, told or not."""
        if self._trial is not None:
            health, lease = self._trial
            health.give_back(lease)
            self._trial = None

    def _name(self, candidate: Candidate) -> str:
        model, provider = candidate.model, candidate.route.provider
        return f"{provider}: " if model is self._asked else f"{model.id} at {provider}: "


def in_order_of_health(candidates: Sequence[Candidate], healths: RouteHealths, probe: Probe | None) -> list[Candidate]:
    """Candidates as they are to be tried: of each model those that work first, their order kept.

    Where others work, one that may work again is probed aside; without a probe it keeps its place: the request is one.
    """
    if len(candidates) == 1:
        return list(candidates)
    well = [healths.of(candidate).is_well for candidate in candidates]
    if all(well):
        return list(candidates)
    ranked: list[tuple[int, Candidate]] = []
    rank = 0
    for position, candidate in enumerate(candidates):
        if position and candidate.model is not candidates[position - 1].model:
            rank += 2
        is_first = well[position]
        if not is_first and any(well) and healths.of(candidate).is_due:
            is_first = probe is None or not probe(candidate)
        ranked.append((rank if is_first else rank + 1, candidate))
    return [candidate for _, candidate in sorted(ranked, key=lambda each: each[0])]


def _is_callers(error: UpstreamError) -> bool:
    """Whether a provider rejected what the caller sent."""
    return isinstance(error, UpstreamRejected) and not isinstance(error, UpstreamMisconfigured)


def _is_disproved(error: UpstreamError) -> bool:
    """Whether a call that another route has answered should not have failed so."""
    return isinstance(error, UpstreamRejected) and not isinstance(error, UpstreamTooLarge)


def _wait_s(error: UpstreamError, attempt: int, settings: UpstreamSettings) -> float:
    """Seconds until a further attempt: what the provider asks for, else exponential back-off with full jitter."""
    if error.retry_after_s:  # who asks for no wait at all says nothing
        return _with_jitter(error.retry_after_s, settings)
    longest_s = min(settings.retry_wait_s * 2 ** (attempt - 1), settings.max_wait_s)
    return random.uniform(0, longest_s)  # noqa: S311 - jitter, no secret


def _with_jitter(wait_s: float, settings: UpstreamSettings) -> float:
    """A little more than asked for, so that those who wait for one moment do not all come in it."""
    return wait_s + random.uniform(0, min(wait_s / 10, settings.retry_wait_s))  # noqa: S311 - jitter, no secret


def _tried_text(tried: RouteAttempts, error: UpstreamError) -> str:
    return f"{error.message} ({tried.attempts} attempts)" if tried.attempts > 1 else error.message
