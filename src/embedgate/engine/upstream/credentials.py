"""The accounts of one provider, as one provider: each call goes to one that has room for it.

An account is one credential with its own connections and limits. One that is limited, or whose credential is refused,
is left out while that lasts, and the call goes to another at once; only when none is left does it fail. Waiting for
room is the account's own (`upstream_limits`); trying again, and other providers, are for `execute`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from embedgate.core.errors import (
    NOT_SENT,
    GatewayError,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamTimeout,
)
from embedgate.core.hints import Observe
from embedgate.core.models import Route
from embedgate.core.ports import ChatReply, Tokenizers
from embedgate.core.types import Batch, ChatRequest, ProviderReply, RerankReply, RerankRequest
from embedgate.engine.ledger.tokens import bounds, count_aside, ranking_bound
from embedgate.engine.upstream.limits import CredentialLimits, Ticket
from embedgate.observe import events, metrics

COOL_DOWN_S = 60.0
"""How long an account is left out for a model after its credential was refused, while another can be asked."""

_Reply = TypeVar("_Reply")
_Count = Callable[[], Awaitable[int]]
"""The tokens of a call, more exactly than by their bound, for more work."""


class Driver(Protocol):
    """Calls a provider with one credential, and passes on what answers say of limits."""

    async def embed(self, batch: Batch, route: Route, deadline_s: float, observe: Observe) -> ProviderReply:
        """As `Provider.embed`."""
        ...

    async def chat(self, request: ChatRequest, route: Route, deadline_s: float, observe: Observe) -> ChatReply:
        """As `ChatProvider.chat`."""
        ...

    async def rerank(self, request: RerankRequest, route: Route, deadline_s: float, observe: Observe) -> RerankReply:
        """As `Reranker.rerank`."""
        ...

    async def aclose(self) -> None:
        """As `Provider.aclose`."""
        ...


@dataclass(slots=True, eq=False)
class Credential:
    """One credential: what calls with it, and what it may still do. `out_until_s`: since it was refused, by model."""

    driver: Driver
    meter: CredentialLimits
    out_until_s: dict[str, float] = field(default_factory=dict)

    def is_in(self, model: str, now: float) -> bool:
        """Whether its credential is thought to be good."""
        return self.out_until_s.get(model, now) <= now


class Credentials:
    """Implements the ports Provider, ChatProvider and Reranker over at least one account."""

    def __init__(
        self, accounts: Sequence[Credential], tokenizers: Tokenizers, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """tokenizers: to weigh calls that do not fit by a bound. clock: that of the deadlines and of the meters."""
        self._accounts = tuple(accounts)
        self._tokenizers = tokenizers
        self._clock = clock
        self._turn = 0

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """Embed one batch, at an account that has room. Raises as `Provider.embed`, UpstreamBusy if none has."""

        def ask(driver: Driver, observe: Observe) -> Awaitable[ProviderReply]:
            return driver.embed(batch, route, deadline_s, observe)

        async def count() -> int:
            return (await count_aside(batch.inputs, route, self._tokenizers)).total

        reply, ticket = await self._through(route, lambda: sum(bounds(batch.inputs)), deadline_s, ask, count)
        ticket.end(reply.tokens)
        return reply

    async def chat(self, request: ChatRequest, route: Route, deadline_s: float) -> ChatReply:
        """Begin one completion, at an account that has room. Raises as `ChatProvider.chat`, UpstreamBusy if none has.

        What the answer may cost in tokens counts until it is closed.
        """

        def ask(driver: Driver, observe: Observe) -> Awaitable[ChatReply]:
            return driver.chat(request, route, deadline_s, observe)

        def tokens() -> int:
            return request.text_bytes + request.n_choices * (request.max_output_tokens or 0)

        reply, ticket = await self._through(route, tokens, deadline_s, ask)
        return _MeteredChat(reply, ticket)

    async def rerank(self, request: RerankRequest, route: Route, deadline_s: float) -> RerankReply:
        """Score documents, at an account that has room. Raises as `Reranker.rerank`, UpstreamBusy if none has."""

        def ask(driver: Driver, observe: Observe) -> Awaitable[RerankReply]:
            return driver.rerank(request, route, deadline_s, observe)

        reply, ticket = await self._through(route, lambda: ranking_bound(request), deadline_s, ask)
        ticket.end(reply.tokens)
        return reply

    async def aclose(self) -> None:
        """Let calls in flight end, then free the connections of every account."""
        await asyncio.gather(*(account.driver.aclose() for account in self._accounts))

    async def _through(
        self,
        route: Route,
        tokens: Callable[[], int],
        deadline_s: float,
        ask: Callable[[Driver, Observe], Awaitable[_Reply]],
        count: _Count | None = None,
    ) -> tuple[_Reply, Ticket]:
        """The answer of the first account that gives one, and its ticket, which is to be ended.

        tokens: a bound, computed if any account counts them. count: asked where the bound does not fit.
        Raises what the account failed with that can be asked again first, after each was tried that may be.
        """
        model = route.upstream_model
        weight = tokens() if any(account.meter.counts_tokens(model) for account in self._accounts) else 0
        faults: dict[Credential, UpstreamError] = {}
        while (account := self._choose(model, weight, faults)) is not None:
            if weight and count is not None and account.meter.wait_s(model, weight):
                weight, count = min(weight, await count()), None
                continue
            try:
                ticket = await account.meter.enter(model, weight, deadline_s)
                return await _asked(account, ticket, ask), ticket
            except UpstreamBusy as fault:
                faults[account] = fault
            except UpstreamDenied as fault:
                faults[account] = fault
                self._leave_out(account, model)
        raise min(faults.values(), key=_again_in_s)

    def _choose(self, model: str, tokens: int, tried: "dict[Credential, UpstreamError]") -> Credential | None:
        """The account that can go first; of several that can go now, the one with the least in flight, in turn.

        Credentials that are out are asked only if all are: then nothing better is known.
        """
        if len(self._accounts) == 1:
            return None if tried else self._accounts[0]
        now = self._clock()
        good = [account for account in self._accounts if account.is_in(model, now)]
        left = [account for account in good or self._accounts if account not in tried]
        if not left:
            return None
        turn = self._turn % len(left)
        self._turn += 1
        left = left[turn:] + left[:turn]
        return min(left, key=lambda account: (account.meter.wait_s(model, tokens), account.meter.in_flight))

    def _leave_out(self, account: Credential, model: str) -> None:
        if len(self._accounts) == 1:
            return
        now, name = self._clock(), account.meter.name
        if account.is_in(model, now):
            metrics.account_blocked(name, "key")
            events.KEY_REFUSED.emit(account=name, model=model, wait_s=COOL_DOWN_S)
        account.out_until_s[model] = now + COOL_DOWN_S


async def _asked(account: Credential, ticket: Ticket, ask: Callable[[Driver, Observe], Awaitable[_Reply]]) -> _Reply:
    """The answer of an account. If it fails, the ticket is ended, and the account rests as long as it asks for."""
    try:
        return await ask(account.driver, ticket.learn)
    except GatewayError as fault:
        ticket.end(_used_in_vain(fault))
        if isinstance(fault, UpstreamBusy) and fault.retry_after_s:
            account.meter.block(ticket.model, fault.retry_after_s)
        raise
    except BaseException as error:
        if error.args == (NOT_SENT,):
            ticket.withdraw()
        ticket.end()
        raise


def _used_in_vain(fault: GatewayError) -> int | None:
    """Tokens that a failed call has used: None where it may have been worked on, 0 where it was turned away."""
    if isinstance(fault, UpstreamGarbled):
        return fault.billed_tokens or None
    return None if isinstance(fault, (UpstreamTimeout, UpstreamFailed)) else 0


def _again_in_s(fault: UpstreamError) -> tuple[bool, float]:
    """Those that may pass go first, the soonest before the others."""
    return not fault.may_retry, fault.retry_after_s or 0.0


class _MeteredChat:
    """A chat answer that ends its ticket when it is closed. Implements the port ChatReply."""

    def __init__(self, reply: ChatReply, ticket: Ticket) -> None:
        self._reply = reply
        self._ticket = ticket
        self.content_type = reply.content_type
        self.usage = reply.usage
        self.output_bytes = reply.output_bytes

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
