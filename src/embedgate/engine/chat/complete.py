"""Chat completions: failover until a route begins to answer, then what the provider sends is passed on, byte by byte.

Until the first bytes are there, an attempt may be repeated and another route or model may be tried; after them nothing
is. Whatever becomes of the answer, what it cost is added to the call before this ends.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

from msgspec import Struct

from embedgate.core.actions import CHAT
from embedgate.core.errors import (
    GatewayError,
    UpstreamError,
    UpstreamGarbled,
    UpstreamTimeout,
)
from embedgate.core.models import Model
from embedgate.core.ports import ChatProvider, ChatReply
from embedgate.core.types import Call, Candidate, ChatRequest, ChatUsage, Usage
from embedgate.engine.chat.stream import StreamBuffer, StreamHead
from embedgate.engine.chat.weigh import chat_cost_picodollars, usage_by_rule
from embedgate.engine.ledger.charge import charge, count_call, cover, outcome_of, write_off
from embedgate.engine.routing.failover import with_failover
from embedgate.engine.routing.find_model import ModelFinder
from embedgate.engine.routing.route_health import RouteHealths
from embedgate.settings import UpstreamSettings

_LAST_WORD = b"[DONE]"
"""Near the end of a stream it says that nothing follows: clients stop reading there."""
_LAST_BYTES = 32
_GRACE_S = 0.5
"""The provider's own words about a deadline that has passed are better than ours, so it has the time to say them."""


class ChatServed(Struct, frozen=True):
    """A completion that a provider has given. `cached_tokens` are those of the input that cost less.

    `body` is what has not been handed over yet: the whole answer, or the last word of a stream.
    """

    candidate: Candidate
    content_type: str
    body: bytes
    usage: Usage
    cached_tokens: int


class ChatValidator:
    """Refuses models that do not exist or do not chat. All else is for the provider to say."""

    def __init__(self, finder: ModelFinder) -> None:
        self._finder = finder

    def validate(self, request: ChatRequest) -> Model:
        """The model that is asked for. Raises a RequestError if there is none, or it does not chat."""
        return self._finder.find(request.model, request.provider, CHAT)


class Completer:
    """Gets completions from providers. One instance serves all requests."""

    def __init__(
        self,
        providers: Mapping[str, ChatProvider],
        healths: RouteHealths,
        settings: UpstreamSettings,
        max_answer_bytes: int,
    ) -> None:
        """providers: by name, every one that is on. max_answer_bytes: of an answer that is not streamed."""
        self._providers = providers
        self._healths = healths
        self._settings = settings
        self._max_answer_bytes = max_answer_bytes

    async def complete(
        self, call: Call[ChatRequest], candidates: Sequence[Candidate], out: StreamBuffer | None
    ) -> ChatServed:
        """The completion of the first candidate that begins one. out: where a stream goes; None keeps it whole.

        Raises what the last route failed with, what broke the answer off, or CallerLeft.
        """
        if out is None:
            return await self._complete(call, candidates, None)
        async with out.while_wanted(call.deadline_s + _GRACE_S):
            return await self._complete(call, candidates, out)

    async def _complete(
        self, call: Call[ChatRequest], candidates: Sequence[Candidate], out: StreamBuffer | None
    ) -> ChatServed:
        async def ask(candidate: Candidate, until_s: float) -> tuple[ChatReply, float]:
            # A whole answer takes as long as the model writes, so that only the request's own time bounds it.
            return await self._ask(call, candidate, until_s if out is not None else call.deadline_s)

        candidate, (reply, started_s) = await with_failover(call, candidates, self._healths, self._settings, ask)
        outcome: str | None = "cancelled"
        try:
            if out is None:
                body = await self._whole(reply, candidate)
            else:
                out.begin(StreamHead(candidate, reply.content_type))
                body = await _pass_on(reply, out)
            outcome = "ok"
        except UpstreamError as error:
            outcome = outcome_of(error)
            self._healths.of(candidate).failed(error, time.monotonic() - started_s)
            raise
        finally:
            count_call(call, candidate, call.request.n_items, outcome, started_s)
            usage = _charge(call, candidate, reply.usage, reply.output_bytes)
            await reply.aclose()
        return ChatServed(
            candidate=candidate,
            content_type=reply.content_type,
            body=body,
            usage=Usage(usage.input_tokens, reply.usage is None, output_tokens=usage.output_tokens),
            cached_tokens=usage.cached_tokens,
        )

    async def _ask(self, call: Call[ChatRequest], candidate: Candidate, until_s: float) -> tuple[ChatReply, float]:
        """An answer that has begun on one route, and when it was asked for, on the monotonic clock.

        until_s: when it must have begun. A caller who leaves meanwhile has had the model read all the same.
        """
        await cover(call)
        started_s = time.monotonic()
        provider = self._providers[candidate.route.provider]
        try:
            async with asyncio.timeout(until_s - started_s if until_s < call.deadline_s else None):
                return await provider.chat(call.request, candidate.route, call.deadline_s), started_s
        except TimeoutError:
            count_call(call, candidate, call.request.n_items, UpstreamTimeout.code, started_s)
            _charge(call, candidate, None, output_bytes=0)
            write_off(call)
            message = f"{candidate.route.provider} did not begin to answer within its time"
            raise UpstreamTimeout(message) from None
        except asyncio.CancelledError:
            count_call(call, candidate, call.request.n_items, "cancelled", started_s)
            _charge(call, candidate, None, output_bytes=0)
            raise
        except GatewayError as error:
            count_call(call, candidate, call.request.n_items, outcome_of(error), started_s)
            raise

    async def _whole(self, reply: ChatReply, candidate: Candidate) -> bytes:
        parts = []
        size_bytes = 0
        async for piece in reply.pieces():
            parts.append(piece)
            size_bytes += len(piece)
            if size_bytes > self._max_answer_bytes:
                raise UpstreamGarbled(
                    f"{candidate.route.provider} sent more than {self._max_answer_bytes} bytes "
                    "(transport.max_reply_bytes)"
                )
        return b"".join(parts)


async def _pass_on(reply: ChatReply, out: StreamBuffer) -> bytes:
    """Pass on every piece but one that ends the stream, which is returned: it is sent once the ledger has the entry."""
    last = tail = b""
    try:
        async for piece in reply.pieces():
            if not piece:
                continue
            if last:
                await out.put(last)
            tail += piece[-_LAST_BYTES:]
            last = piece if _LAST_WORD in tail else b""
            tail = tail[-_LAST_BYTES:]
            if not last:
                await out.put(piece)
    except UpstreamError:
        if not last:  # else the answer is whole, and it does not matter how the connection ended
            raise
    return last


def _charge(call: Call[ChatRequest], candidate: Candidate, reported: ChatUsage | None, output_bytes: int) -> ChatUsage:
    """Add what an answer costs to the call, as the provider counts it, else by rule of thumb. Returns what was used."""
    usage = reported or usage_by_rule(call.request, output_bytes)
    charge(
        call,
        candidate,
        usage.input_tokens,
        chat_cost_picodollars(usage, candidate.route.price) + call.surcharge_picodollars,
        is_estimated=reported is None or bool(call.surcharge_picodollars),
        output_tokens=usage.output_tokens,
    )
    return usage
