"""Credentials of one provider, as one provider: each call goes to a credential that has room for it.

A credential has its own connections and rate limits. One that is limited or refused is left out while that lasts, and
the call is made with another at once; only when none is left does it fail. Waiting for room is in `limits`; retries and
other routes are the failover's.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from embedgate.core.demand import check_wanted
from embedgate.core.errors import (
    NOT_SENT,
    CallerLeft,
    GatewayError,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamLimited,
    UpstreamTimeout,
)
from embedgate.core.hints import Observe
from embedgate.core.models import Route
from embedgate.core.ports import ChatReply, Reply, Tokenizers, UnaryRequest
from embedgate.core.types import Batch, ChatRequest, ProviderReply
from embedgate.engine.ledger.tokens import count_aside, total_bound
from embedgate.engine.upstream.limits import CredentialLimits, Ticket
from embedgate.observe import events, metrics

COOL_DOWN_S = 60.0
"""How long a refused credential is not used for a model, while another can be used."""

_Answer = TypeVar("_Answer")
_Count = Callable[[], Awaitable[int]]
"""Counts the tokens of a call: more exact than their bound, and slower."""


class Driver(Protocol):
    """Calls a provider with one credential, and passes on what answers say of limits."""

    async def embed(self, batch: Batch, route: Route, deadline_s: float, observe: Observe) -> ProviderReply:
        """As `Provider.embed`."""
        ...

    async def chat(self, request: ChatRequest, route: Route, deadline_s: float, observe: Observe) -> ChatReply:
        """As `ChatProvider.chat`."""
        ...

    async def call(self, request: UnaryRequest[Reply], route: Route, deadline_s: float, observe: Observe) -> Reply:
        """As `UnaryProvider.call`."""
        ...

    async def aclose(self) -> None:
        """As `Provider.aclose`."""
        ...


@dataclass(slots=True, eq=False)
class Credential:
    """One credential: the driver that calls with it, and its rate limits.

    `out_until_s`: how long it is left out since it was refused, by model.
    """

    driver: Driver
    limits: CredentialLimits
    out_until_s: dict[str, float] = field(default_factory=dict)

    def is_in(self, model: str, now: float) -> bool:
        """Whether it may be used: not refused lately."""
        return self.out_until_s.get(model, now) <= now


class Credentials:
    """Implements the ports Provider, ChatProvider and UnaryProvider over at least one credential."""

    def __init__(
        self,
        credentials: Sequence[Credential],
        tokenizers: Tokenizers,
        clock: Callable[[], float] = time.monotonic,
        max_retry_after_s: float = math.inf,
    ) -> None:
        """tokenizers: to weigh calls that do not fit by a bound. clock: that of the deadlines and of the limits.

        max_retry_after_s: longest wait that the provider can ask for; more is taken for that much, and passed on so.
        """
        self._max_retry_after_s = max_retry_after_s
        self._credentials = tuple(credentials)
        self._only = self._credentials[0] if len(self._credentials) == 1 else None
        self._tokenizers = tokenizers
        self._clock = clock
        self._turn = 0

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """Embed one batch, with a credential that has room. Raises as `Provider.embed`, UpstreamBusy if none has."""
        model = route.upstream_model
        free = self._only.limits.enter_freely(model) if self._only is not None else None
        tokens = total_bound(batch.inputs) if free is None and self._counts_tokens(model) else 0
        count = partial(self._count, batch, route) if tokens else None
        reply, ticket = await self._call(
            model, tokens, deadline_s, lambda driver, learn: driver.embed(batch, route, deadline_s, learn), count, free
        )
        ticket.end(reply.tokens)
        return reply

    async def chat(self, request: ChatRequest, route: Route, deadline_s: float) -> ChatReply:
        """Begin one completion, with a credential that has room. Raises as `ChatProvider.chat`, UpstreamBusy if none.

        What the answer may cost in tokens counts until it is closed.
        """
        tokens = request.text_bytes + request.n_choices * (request.max_output_tokens or 0)
        reply, ticket = await self._call(
            route.upstream_model,
            tokens if self._counts_tokens(route.upstream_model) else 0,
            deadline_s,
            lambda driver, learn: driver.chat(request, route, deadline_s, learn),
        )
        return _MeteredChat(reply, ticket)

    async def call(self, request: UnaryRequest[Reply], route: Route, deadline_s: float, most_tokens: int) -> Reply:
        """Answer a request, with a credential that has room. Raises as `UnaryProvider.call`, UpstreamBusy if none."""
        model = route.upstream_model
        tokens = most_tokens if self._counts_tokens(model) else 0
        reply, ticket = await self._call(
            model, tokens, deadline_s, lambda driver, learn: driver.call(request, route, deadline_s, learn)
        )
        ticket.end(reply.tokens)
        return reply

    def lift(self) -> None:
        """Forget waits that the provider has asked for, and refused credentials."""
        for credential in self._credentials:
            credential.out_until_s.clear()
            credential.limits.lift()

    async def aclose(self) -> None:
        """Let calls in flight end, then free the connections of every credential."""
        await asyncio.gather(*(credential.driver.aclose() for credential in self._credentials))

    def _counts_tokens(self, model: str) -> bool:
        """Whether a limit of any credential counts tokens of this model."""
        for credential in self._credentials:  # noqa: SIM110 - `any()` over a generator takes three times as long
            if credential.limits.counts_tokens(model):
                return True
        return False

    async def _count(self, batch: Batch, route: Route) -> int:
        return (await count_aside(batch.inputs, route, self._tokenizers)).total

    async def _call(
        self,
        model: str,
        tokens: int,
        deadline_s: float,
        call: Callable[[Driver, Observe], Awaitable[_Answer]],
        count: _Count | None = None,
        free: Ticket | None = None,
    ) -> tuple[_Answer, Ticket]:
        """The answer with the first credential that gets one, and its ticket, which must be ended.

        tokens: a bound. count: asked where the bound does not fit. free: the ticket of the only credential, if it has
        been given one already.
        When no credential is left, raises the error of the one that can be used again first.
        """
        faults: dict[Credential, UpstreamError] = {}
        while (credential := self._choose(model, tokens, faults)) is not None:
            if faults:
                check_wanted()
            if tokens and count is not None and credential.limits.wait_s(model, tokens):
                tokens, count = min(tokens, await count()), None
                continue
            try:
                ticket = free or await credential.limits.enter(model, tokens, deadline_s)
            except UpstreamBusy as fault:
                faults[credential] = fault
                continue
            try:
                return await call(credential.driver, ticket.learn), ticket
            except (UpstreamLimited, CallerLeft):  # it was not sent, and other credentials share the queue it left
                ticket.withdraw()
                raise
            except GatewayError as fault:
                if fault.retry_after_s is not None:
                    fault.retry_after_s = min(fault.retry_after_s, self._max_retry_after_s)
                ticket.end(_used_in_vain(fault))
                if not isinstance(fault, (UpstreamBusy, UpstreamDenied)):
                    raise
                faults[credential] = fault
                if isinstance(fault, UpstreamDenied):
                    self._leave_out(credential, model)
                elif fault.retry_after_s:
                    credential.limits.block(model, fault.retry_after_s)
            except BaseException as error:
                if error.args == (NOT_SENT,):
                    ticket.withdraw()
                ticket.end()
                raise
        raise min(faults.values(), key=_again_in_s)

    def _choose(self, model: str, tokens: int, tried: "dict[Credential, UpstreamError]") -> Credential | None:
        """The credential with room first; of several with room now, the one with the least in flight, in turn.

        Refused ones are used only if all were refused.
        """
        if self._only is not None:
            return None if tried else self._only
        now = self._clock()
        good = [credential for credential in self._credentials if credential.is_in(model, now)]
        left = [credential for credential in good or self._credentials if credential not in tried]
        if not left:
            return None
        turn = self._turn % len(left)
        self._turn += 1
        left = left[turn:] + left[:turn]
        return min(left, key=lambda credential: (credential.limits.wait_s(model, tokens), credential.limits.in_flight))

    def _leave_out(self, credential: Credential, model: str) -> None:
        if self._only is not None:
            return
        now, name = self._clock(), credential.limits.name
        if credential.is_in(model, now):
            metrics.credential_blocked(name, "key")
            events.KEY_REFUSED.emit(account=name, model=model, wait_s=COOL_DOWN_S)
        credential.out_until_s[model] = now + COOL_DOWN_S


def _used_in_vain(fault: GatewayError) -> int | None:
    """Tokens that a failed call has used: None where it may have been worked on, 0 where it was turned away."""
    if isinstance(fault, UpstreamGarbled):
        return fault.billed_tokens or None
    return None if isinstance(fault, (UpstreamTimeout, UpstreamFailed)) else 0


def _again_in_s(fault: UpstreamError) -> tuple[bool, float]:
    """Sort key: errors that may be retried first, the soonest first."""
    return not fault.may_retry, fault.retry_after_s or 0.0


class _MeteredChat:
    """A chat answer that ends its ticket when it is closed. Implements the port ChatReply."""

    def __init__(self, reply: ChatReply, ticket: Ticket) -> None:
        self._reply = reply
        self._ticket = ticket
        self.content_type = reply.content_type
        self.usage = reply.usage
        self.output_bytes = reply.output_bytes

    @property
    def fault(self) -> UpstreamError | None:
        return self._reply.fault

    @property
    def is_complete(self) -> bool:
        return self._reply.is_complete

    async def pieces(self) -> AsyncIterator[bytes]:
        reply = self._reply
        async for piece in reply.pieces():
            self.usage, self.output_bytes = reply.usage, reply.output_bytes
            yield piece
        self.usage, self.output_bytes = reply.usage, reply.output_bytes

    async def aclose(self) -> None:
        try:
            await self._reply.aclose()
        finally:
            self.usage = self._reply.usage
            self._ticket.end(self.usage.input_tokens + self.usage.output_tokens if self.usage else None)
