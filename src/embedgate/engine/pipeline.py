"""Request pipeline: authenticate, read, validate, resolve, weigh, admit, execute, account. The order is here only.

Work that has begun runs on when the caller leaves, in a task that nobody cancels for that, and is accounted for. What
was sent to a provider by then runs to its end; what still waits in a queue is dropped (`core.demand`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from msgspec import Struct

from embedgate.core.access import Caller, Rate
from embedgate.core.chat import EVENT_STREAM, ChatResult, ChatStream
from embedgate.core.demand import demand_of_task
from embedgate.core.errors import GatewayError, InternalError, Overloaded
from embedgate.core.rerank import RerankRequest, RerankResult
from embedgate.core.types import (
    Answered,
    AnyRequest,
    Call,
    ChatRequest,
    EmbedRequest,
    EmbedResult,
    LedgerEntry,
    Origin,
    Served,
    Timing,
)
from embedgate.core.vectors import Vectors, to_json
from embedgate.engine.admission.admit import Admission, Entrance
from embedgate.engine.admission.authenticate import Authenticator
from embedgate.engine.admission.paid_options import PaidOptions, surcharged
from embedgate.engine.chat.complete import ChatServed, ChatValidator, Completer
from embedgate.engine.chat.stream import StreamBuffer
from embedgate.engine.chat.weigh import ChatWeigher
from embedgate.engine.embedding.execute import Executor
from embedgate.engine.embedding.validate import EmbeddingValidator
from embedgate.engine.embedding.weigh import EmbeddingWeigher
from embedgate.engine.ledger.account import Accountant
from embedgate.engine.ledger.tokens import LARGE_CHARACTERS, total_bound, total_bound_aside
from embedgate.engine.rerank.rank import Ranked, Ranker, RerankValidator
from embedgate.engine.rerank.weigh import RerankWeigher
from embedgate.engine.routing.resolve import Resolver
from embedgate.observe import metrics

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=AnyRequest)
AnsweredT = TypeVar("AnsweredT", bound=Answered)

Read = Callable[[], Awaitable[RequestT]]
"""Reads the body and translates it: called once the caller is known, so that strangers send no megabytes."""


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages that depend on which models and providers there are. Replaced as a whole when those change."""

    resolver: Resolver
    paid_options: PaidOptions
    embedding_validator: EmbeddingValidator
    embedding_weigher: EmbeddingWeigher
    executor: Executor
    chat_validator: ChatValidator
    chat_weigher: ChatWeigher
    completer: Completer
    rerank_validator: RerankValidator
    rerank_weigher: RerankWeigher
    ranker: Ranker


class Done(Struct, Generic[AnsweredT], frozen=True):
    """A request that was answered, and is in the ledger."""

    answered: AnsweredT
    entry: LedgerEntry
    timing: Timing
    rate: Rate | None


class Pipeline:
    """Serves requests. One instance serves all of a gateway."""

    def __init__(
        self,
        authenticator: Authenticator,
        stages: Stages,
        admission: Admission,
        accountant: Accountant,
        request_timeout_s: float,
        chat_timeout_s: float,
        json_of: Callable[[Vectors], bytes] = to_json,
    ) -> None:
        """request_timeout_s: from the first byte of a request to its answer. chat_timeout_s: to the end of a stream.

        json_of: writes vectors that were found in the cache, which may be asked for again and again.
        """
        self._json_of = json_of
        self._authenticator = authenticator
        self._stages = stages
        self._admission = admission
        self._accountant = accountant
        self._request_timeout_s = request_timeout_s
        self._chat_timeout_s = chat_timeout_s
        self.running = Running()

    def reroute(self, stages: Stages) -> None:
        """Replace the models and providers for new requests; requests in progress keep theirs."""
        self._stages = stages

    async def embed(self, origin: Origin, read: Read[EmbedRequest], entrance: Entrance | None = None) -> EmbedResult:
        """Serve one embeddings request. entrance: what `read` passes before it waits. Raises a GatewayError."""
        call = await self._begin(origin, read, self._request_timeout_s, entrance)
        return _embed_result(await self.running.to_the_end(self._accounted(call, self._embed), origin), self._json_of)

    async def chat(
        self, origin: Origin, read: Read[ChatRequest], out: StreamBuffer, entrance: Entrance | None = None
    ) -> ChatResult | ChatStream:
        """Serve one completion: whole, or as a stream once it has begun. Raises a GatewayError.

        out: where a stream goes, which ends it when the caller leaves. entrance: what `read` passes before it waits.
        """
        call = await self._begin(origin, read, self._chat_timeout_s, entrance)
        if not call.request.is_stream:
            work = self._accounted(call, partial(self._complete, out=None))
            return _chat_result(await self.running.to_the_end(work, origin))
        serving = self.running.start(self._accounted(call, partial(self._complete, out=out)))
        serving.add_done_callback(lambda _: out.end())
        begun = await out.beginning()
        if not out.is_open:
            await self.running.outcome(serving)
            raise InternalError("A stream ended without a beginning.")
        return ChatStream(
            model=begun.candidate.model.id if begun else None,
            provider=begun.candidate.route.provider if begun else None,
            content_type=begun.content_type if begun else EVENT_STREAM,
            pieces=self._pieces(serving, out),
            rate=self._admission.rate(call.caller),
            ready=out.take_now,
        )

    async def rerank(self, origin: Origin, read: Read[RerankRequest], entrance: Entrance | None = None) -> RerankResult:
        """Serve one rerank request. entrance: what `read` passes before it waits.

        Raises a GatewayError.
        """
        call = await self._begin(origin, read, self._request_timeout_s, entrance)
        return _rerank_result(await self.running.to_the_end(self._accounted(call, self._rank), origin))

    async def embed_as(self, request_id: str, caller: Caller, request: EmbedRequest) -> EmbedResult:
        """Serve a request of this process's own operator, who needs no key. Raises a GatewayError."""
        origin = Origin(request_id, "openai", None)
        call = _call(origin, caller, request, time.monotonic(), 0.0, self._request_timeout_s)
        return _embed_result(await self.running.to_the_end(self._accounted(call, self._embed), origin), self._json_of)

    async def identify(self, secret: str | None) -> Caller:
        """The caller of an API key, for routes that serve no model. Raises an AccessError."""
        return await self._authenticator.authenticate(secret)

    async def _begin(
        self, origin: Origin, read: Read[RequestT], timeout_s: float, entrance: Entrance | None
    ) -> Call[RequestT]:
        """Authenticate the caller, then read its request, which has a place before more of it is waited for."""
        started_s = time.monotonic()
        caller = await self._authenticator.authenticate(origin.secret)
        authenticate_s = time.monotonic() - started_s
        if entrance is not None:
            take_place = partial(self._admission.enter, caller, origin.request_id, started_s + timeout_s)
            entrance.opens(caller.user_id, take_place)
        try:
            request = await read()
        except BaseException as error:  # also of a caller who has gone: nothing is left in the limits
            if entrance is not None:
                entrance.withdraw()
            if isinstance(error, GatewayError):
                error.rate = self._admission.rate(caller)
            raise
        call = _call(origin, caller, request, started_s, authenticate_s, timeout_s)
        if entrance is not None:
            call.counted = entrance.counted
        return call

    async def _embed(self, call: Call[EmbedRequest]) -> Served:
        """Validate, resolve, weigh, admit, execute: embeddings. `execute` plans each route: cache, batches."""
        stages, request = self._stages, call.request
        inputs = request.inputs
        is_small = len(inputs) == 1 and len(inputs[0]) <= LARGE_CHARACTERS
        at_most = total_bound(inputs) if is_small else await total_bound_aside(inputs)
        model = await stages.embedding_validator.validate(request, at_most, call.caller.project_id)
        candidates = stages.resolver.resolve(request, model, call.caller.project_id)
        matters = self._admission.depends_on_weight(call.caller)
        weighed = await stages.embedding_weigher.weigh(request, candidates, at_most, matters=matters)
        if request.options:
            is_budgeted = self._admission.is_budgeted(call.caller)
            surcharge = stages.paid_options.of_embeddings(request, candidates, is_budgeted=is_budgeted)
            call.surcharge_picodollars, weighed = surcharge, surcharged(weighed, surcharge)
        grant = await self._admission.admit(call, weighed)
        call.admit_s = time.monotonic() - call.began_s
        return await stages.executor.execute(call, grant.candidates)

    async def _complete(self, call: Call[ChatRequest], out: StreamBuffer | None) -> ChatServed:
        """Validate, resolve, weigh, admit, execute: a chat completion. out: where a stream goes."""
        stages, request = self._stages, call.request
        model = stages.chat_validator.validate(request, call.caller.project_id)
        candidates = stages.resolver.resolve(request, model, call.caller.project_id)
        is_budgeted = self._admission.is_budgeted(call.caller)
        request, surcharge = stages.paid_options.of_chat(request, candidates, is_budgeted=is_budgeted)
        call.request, call.surcharge_picodollars = request, surcharge
        matters = self._admission.depends_on_weight(call.caller)
        weighed = surcharged(await stages.chat_weigher.weigh(request, candidates, matters=matters), surcharge)
        grant = await self._admission.admit(call, weighed)
        call.admit_s = time.monotonic() - call.began_s
        return await stages.completer.complete(call, grant.candidates, out)

    async def _rank(self, call: Call[RerankRequest]) -> Ranked:
        """Validate, resolve, weigh, admit, execute: reranking."""
        stages, request = self._stages, call.request
        model = stages.rerank_validator.validate(request, call.caller.project_id)
        candidates = stages.resolver.resolve(request, model, call.caller.project_id)
        matters = self._admission.depends_on_weight(call.caller)
        weighed = await stages.rerank_weigher.weigh(request, candidates, matters=matters)
        grant = await self._admission.admit(call, weighed)
        call.admit_s = time.monotonic() - call.began_s
        return await stages.ranker.rank(call, grant.candidates)

    async def _accounted(
        self, call: Call[RequestT], answer: Callable[[Call[RequestT]], Awaitable[AnsweredT]]
    ) -> Done[AnsweredT]:
        """Run the stages of one request to their end, then account for it, whatever its outcome."""
        answered: AnsweredT | None = None
        entry: LedgerEntry | None = None
        metrics.request_began()
        demand_of_task.set(call.demand)
        call.began_s = time.monotonic()
        try:
            answered = await answer(call)
        except GatewayError as error:
            call.error = error
            error.rate = self._admission.rate(call.caller)
            raise
        except asyncio.CancelledError:
            call.error = _shutting_down()
            raise
        except Exception as error:
            call.error = InternalError("The gateway failed; its log has the details.")
            raise call.error from error
        finally:
            entry = await self._accountant.account(call, answered)
        if entry is None or answered is None:
            raise InternalError("An answered request left no entry.")
        timing = Timing(
            total_ms=(time.monotonic() - call.started_s) * 1000,
            authenticate_ms=call.authenticate_s * 1000,
            upstream_ms=call.upstream_s * 1000,
        )
        return Done(answered, entry, timing, self._admission.rate(call.caller))

    async def _pieces(self, serving: asyncio.Task[Done[ChatServed]], out: StreamBuffer) -> AsyncGenerator[bytes, None]:
        """The pieces of a stream, and at its end the last word, once the entry is in the ledger."""
        try:
            while piece := await out.take():
                yield piece
            done = await self.running.outcome(serving)
            yield done.answered.body
        finally:
            out.leave()


def _call(
    origin: Origin, caller: Caller, request: RequestT, started_s: float, authenticate_s: float, timeout_s: float
) -> Call[RequestT]:
    return Call(
        request_id=origin.request_id,
        dialect=origin.dialect,
        ip_address=origin.ip_address,
        caller=caller,
        request=request,
        started_s=started_s,
        authenticate_s=authenticate_s,
        deadline_s=started_s + timeout_s,
        demand=origin.demand,
    )


def _embed_result(done: Done[Served], json_of: Callable[[Vectors], bytes]) -> EmbedResult:
    """json_of: for a vector that cost this request nothing."""
    served, entry = done.answered, done.entry
    return EmbedResult(
        model=entry.model,
        provider=entry.provider,
        vectors=served.vectors,
        usage=served.usage,
        cost_picodollars=entry.cost_picodollars,
        truncated=served.truncated,
        timing=done.timing,
        rate=done.rate,
        json_of=json_of if served.usage.reused_tokens else to_json,
    )


def _chat_result(done: Done[ChatServed]) -> ChatResult:
    served, entry = done.answered, done.entry
    return ChatResult(
        model=entry.model,
        provider=entry.provider,
        content_type=served.content_type,
        body=served.body,
        usage=served.usage,
        cached_tokens=served.cached_tokens,
        cost_picodollars=entry.cost_picodollars,
        timing=done.timing,
        rate=done.rate,
    )


def _rerank_result(done: Done[Ranked]) -> RerankResult:
    ranked, entry = done.answered, done.entry
    return RerankResult(
        model=entry.model,
        provider=entry.provider,
        scores=ranked.scores,
        usage=ranked.usage,
        searches=ranked.searches,
        cost_picodollars=entry.cost_picodollars,
        timing=done.timing,
        rate=done.rate,
        documents=ranked.documents,
    )


def _shutting_down() -> Overloaded:
    return Overloaded("The gateway is shutting down. Try again in a moment.", retry_after_s=1)


def _wake(waiter: asyncio.Future[None], _: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Running:
    """Owns the tasks of requests in progress."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Requests in progress."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in a task that outlives a caller who leaves."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    @staticmethod
    async def outcome(task: asyncio.Task[T]) -> T:
        """What a started task returns or raises, once it ends."""
        if not task.done():
            # As `asyncio.shield`, which takes three times as long: who is cancelled here leaves the task running.
            waiter = asyncio.get_running_loop().create_future()
            task.add_done_callback(partial(_wake, waiter))
            await waiter
        if task.cancelled():  # by `drain`: it was not the caller who left
            raise _shutting_down()
        return task.result()

    async def to_the_end(self, work: Coroutine[Any, Any, T], origin: Origin) -> T:
        """Run `work`, whether or not the caller leaves; return or raise what it does.

        In the task of the caller, if that outlives it: a task of its own would only wait for another one.
        """
        task = asyncio.current_task() if origin.outlives_caller else None
        if task is None:
            return await self.outcome(self.start(work))
        self._tasks.add(task)
        try:
            return await work
        except asyncio.CancelledError:  # by `drain`; the answer, which is an error, is still to be sent
            task.uncancel()
            raise _shutting_down() from None
        finally:
            self._tasks.discard(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen here, so that a failure nobody waits for any more is not reported as lost

    async def outlast(self) -> None:
        """Return once all work that is in progress now has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def drain(self, timeout_s: float) -> int:
        """Wait for all work in progress, at most that long; then cancel what is left. Returns how many were cut."""
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5)
        return len(late)
