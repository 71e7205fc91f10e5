"""Chat completions: failover until a route begins to answer, then what the provider sends is passed on, byte by byte.

Until the first bytes are there, an attempt may be repeated and another route or model may be tried; after them nothing
is. Whatever becomes of the answer, what it cost is added to the call before this ends: by the provider's count; if that
is missing, what was held for it, unless the answer came whole or its caller has left it.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

from msgspec import Struct

from embedgate.core.actions import CHAT
from embedgate.core.chat import told_early
from embedgate.core.errors import (
    GatewayError,
    InternalError,
    UpstreamError,
    UpstreamLost,
    UpstreamMismatch,
    UpstreamTimeout,
)
from embedgate.core.models import Model
from embedgate.core.ports import ChatProvider, ChatReply
from embedgate.core.types import Call, Candidate, ChatRequest, ChatUsage, Usage
from embedgate.engine.chat.stream import StreamBuffer, StreamHead
from embedgate.engine.chat.weigh import chat_cost_picodollars, usage_by_rule
from embedgate.engine.ledger.charge import charge, count_call, cover, may_be_billed, outcome_of, write_off
from embedgate.engine.ledger.tokens import MANY_TOKENS, believed
from embedgate.engine.routing.failover import with_failover
from embedgate.engine.routing.find_model import ModelFinder
from embedgate.engine.routing.route_health import RouteHealths
from embedgate.observe import events
from embedgate.settings import UpstreamSettings

_LAST_WORD = b"[DONE]"
"""Near the end of a stream it says that nothing follows: clients stop reading there."""
_LAST_BYTES = 32
_MOST_MEDIA_TOKENS = 100_000
"""Of an image, a sound or a file, of which only its model knows the tokens."""
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
    """Refuses models that do not exist or do not chat. Everything else is left to the provider."""

    def __init__(self, finder: ModelFinder) -> None:
        self._finder = finder

    def validate(self, request: ChatRequest, project_id: str | None = None) -> Model:
        """The model that is asked for. project_id: of the caller.

        Raises a RequestError if there is none, or it does not chat.
        """
        return self._finder.find(request.model, request.provider, CHAT, project_id)


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
        told_early.set(out.open)
        async with out.while_wanted(call.deadline_s + _GRACE_S):
            return await self._complete(call, candidates, out)

    async def _complete(
        self, call: Call[ChatRequest], candidates: Sequence[Candidate], out: StreamBuffer | None
    ) -> ChatServed:
        async def ask(candidate: Candidate, until_s: float) -> tuple[ChatReply, float]:
            # A whole answer takes as long as the model writes, so that only the request's own time bounds it.
            return await self._ask(call, candidate, out, until_s if out is not None else call.deadline_s)

        candidate, (reply, started_s) = await with_failover(call, candidates, self._healths, self._settings, ask)
        outcome: str | None = "cancelled"
        is_whole = False
        try:
            if out is None:
                body = await self._whole(reply, candidate)
            else:
                body = await _pass_on(reply, out, StreamHead(candidate, reply.content_type))
            is_whole = True
            if reply.fault is None and not reply.is_complete:
                raise UpstreamLost(f"{candidate.route.provider} ended its answer without a finish reason or [DONE]")
            outcome = "ok"
        except UpstreamError as error:
            if reply.fault is None:
                outcome = self._failed(call, candidate, error, started_s)
                raise
            body = b""
        finally:
            if reply.fault is not None:  # its event has told the caller
                call.error = reply.fault
                outcome = self._failed(call, candidate, reply.fault, started_s)
            count_call(call, candidate, call.request.n_items, outcome, started_s)
            usage = self._charge(call, candidate, reply, out, is_whole=is_whole)
            await reply.aclose()
        return ChatServed(
            candidate=candidate,
            content_type=reply.content_type,
            body=body,
            usage=Usage(usage.input_tokens, usage is not reply.usage, output_tokens=usage.output_tokens),
            cached_tokens=usage.cached_tokens,
        )

    def _failed(
        self, call: Call[ChatRequest], candidate: Candidate, error: UpstreamError, started_s: float
    ) -> str | None:
        """Tell the route's health and the log of an answer that failed after it had begun; its outcome for metrics."""
        self._healths.of(candidate).failed(error, time.monotonic() - started_s)
        provider, request_id = candidate.route.provider, call.request_id
        events.UPSTREAM_FAULT.emit(
            request_id=request_id, provider=provider, code=error.code, attempt=1, detail=error.message
        )
        return outcome_of(error)

    async def _ask(
        self, call: Call[ChatRequest], candidate: Candidate, out: StreamBuffer | None, until_s: float
    ) -> tuple[ChatReply, float]:
        """An answer that has begun on one route, and when it was asked for, on the monotonic clock.

        until_s: when it must have begun. Who leaves meanwhile has had the model read all the same.
        """
        await cover(call, candidate)
        started_s = time.monotonic()
        provider = self._providers[candidate.route.provider]
        try:
            async with asyncio.timeout(until_s - started_s if until_s < call.deadline_s else None):
                return await provider.chat(call.request, candidate.route, call.deadline_s), started_s
        except TimeoutError as timeout:
            self._give_up(call, candidate, out, timeout.__cause__ or timeout, UpstreamTimeout.code, started_s)
            message = f"{candidate.route.provider} did not begin to answer within its time"
            raise UpstreamTimeout(message) from None
        except BaseException as fault:  # also cancelled, or a fault of ours: the call may have been sent
            outcome = outcome_of(fault) if isinstance(fault, GatewayError) else "cancelled"
            self._give_up(call, candidate, out, fault, outcome, started_s)
            raise

    def _charge(
        self,
        call: Call[ChatRequest],
        candidate: Candidate,
        reply: ChatReply,
        out: StreamBuffer | None,
        *,
        is_whole: bool,
    ) -> ChatUsage:
        """Charge for an answer that has begun, and return what it used."""
        usage = reply.usage
        if usage is not None and _is_believed(call, candidate, usage):
            if usage.input_tokens:
                return _charge(call, candidate, usage, is_estimated=False)
            read = usage_by_rule(call.request, 0).input_tokens  # there is no answer to nothing: it was not counted
            return _charge(call, candidate, ChatUsage(read, usage.output_tokens), is_estimated=True)
        if is_whole:
            return _charge(call, candidate, usage_by_rule(call.request, reply.output_bytes), is_estimated=True)
        return self._charge_unknown(call, candidate, out, reply.output_bytes)

    def _charge_unknown(
        self, call: Call[ChatRequest], candidate: Candidate, out: StreamBuffer | None, output_bytes: int
    ) -> ChatUsage:
        """Charge for an answer of which nobody knows how much the model wrote: what was held, or what came of it."""
        rule = self._settings.left_stream_costs
        is_held = rule == "held" or (rule == "by_budget" and call.grant is not None and call.grant.is_budgeted)
        if out is not None and out.has_left and not is_held:
            return _charge(call, candidate, usage_by_rule(call.request, output_bytes), is_estimated=True)
        return _charge_most(call, candidate)

    def _give_up(
        self,
        call: Call[ChatRequest],
        candidate: Candidate,
        out: StreamBuffer | None,
        fault: BaseException,
        outcome: str | None,
        started_s: float,
    ) -> None:
        """Count a call whose answer has not begun, and charge for it if it may be billed all the same."""
        count_call(call, candidate, call.request.n_items, outcome, started_s)
        if may_be_billed(fault, candidate):
            self._charge_unknown(call, candidate, out, output_bytes=0)
            write_off(call)

    async def _whole(self, reply: ChatReply, candidate: Candidate) -> bytes:
        parts = []
        size_bytes = 0
        async for piece in reply.pieces():
            parts.append(piece)
            size_bytes += len(piece)
            if size_bytes > self._max_answer_bytes:
                raise UpstreamMismatch(
                    f"{candidate.route.provider} sent more than {self._max_answer_bytes} bytes "
                    "(transport.max_reply_bytes)"
                )
        return b"".join(parts)


async def _pass_on(reply: ChatReply, out: StreamBuffer, head: StreamHead) -> bytes:
    """Pass on every piece but one that ends the stream, which is returned: it is sent once the ledger has the entry."""
    out.begin(head)
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


def _is_believed(call: Call[ChatRequest], candidate: Candidate, usage: ChatUsage) -> bool:
    """Whether a call can have used what the provider reports."""
    if call.grant is None or max(usage.input_tokens, usage.output_tokens) <= MANY_TOKENS:
        return True
    most, provider = call.grant.most_at(candidate), candidate.route.provider
    most_read = most.tokens + call.request.n_media * _MOST_MEDIA_TOKENS
    read = believed(usage.input_tokens, most_read, provider)
    return read is not None and believed(usage.output_tokens, most.most_output_tokens, provider) is not None


def _charge(call: Call[ChatRequest], candidate: Candidate, usage: ChatUsage, *, is_estimated: bool) -> ChatUsage:
    """Add what an answer has used to the call, and return it."""
    charge(
        call,
        candidate,
        usage.input_tokens,
        chat_cost_picodollars(usage, candidate.route.price),
        is_estimated=is_estimated,
        output_tokens=usage.output_tokens,
    )
    if call.surcharge_picodollars:  # what the options cost is told nowhere
        charge(call, candidate, 0, call.surcharge_picodollars, is_estimated=True)
    return usage


def _charge_most(call: Call[ChatRequest], candidate: Candidate) -> ChatUsage:
    """Add what was held for an answer to the call, and return what that stands for."""
    if call.grant is None:
        raise InternalError("A provider was called for a request that was not admitted.")
    most = call.grant.most_at(candidate)
    charge(
        call,
        candidate,
        most.tokens,
        most.cost_picodollars,
        is_estimated=True,
        output_tokens=most.most_output_tokens,
    )
    return ChatUsage(most.tokens, most.most_output_tokens)
