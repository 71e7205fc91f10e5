"""One request, top to bottom: embeddings, chat, rerank. The order of the stages is here and nowhere else.

Work that has begun runs to its end as an owned task, even when the caller leaves, and is accounted for.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from embedgate.core.access import Caller, Rate
from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import GatewayError, InternalError, Overloaded
from embedgate.core.models import Model
from embedgate.core.rerank import RerankResult
from embedgate.core.types import (
    Answered,
    AnyRequest,
    Call,
    Candidate,
    ChatRequest,
    EmbedRequest,
    EmbedResult,
    LedgerEntry,
    Origin,
    RerankRequest,
    Served,
    Timing,
    Weighed,
)
from embedgate.engine.admission.admit import Admission
from embedgate.engine.admission.authenticate import Authenticator
from embedgate.engine.admission.grant import Grant
from embedgate.engine.chat.complete import ChatServed
from embedgate.engine.chat.stream import StreamBuffer
from embedgate.engine.ledger.account import Accountant
from embedgate.engine.rerank.rank import Ranked
from embedgate.observe import metrics

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=AnyRequest)
WeighedT = TypeVar("WeighedT", bound=AnyRequest, contravariant=True)
AnsweredT = TypeVar("AnsweredT", bound=Answered)

Read = Callable[[], Awaitable[RequestT]]
"""Reads the body and translates it: called once the caller is known, so that strangers send no megabytes."""


class Scale(Protocol[WeighedT]):
    """Weighs one sort of request."""

    async def __call__(self, request: WeighedT, candidates: Sequence[Candidate], *, matters: bool) -> list[Weighed]:
        """What the request can come to at each candidate. matters: whether a rough bound is not enough."""
        ...


@dataclass(frozen=True, slots=True)
class Stages(Generic[RequestT, AnsweredT]):
    """The stages that differ from one sort of request to the other."""

    validate: Callable[[RequestT], Awaitable[Model]]
    resolve: Callable[[RequestT, Model], tuple[Candidate, ...]]
    weigh: Scale[RequestT]
    execute: Callable[[Call[RequestT], Sequence[Candidate]], Awaitable[AnsweredT]]


@dataclass(frozen=True, slots=True)
class Work:
    """What can be asked for, with the models and providers of one moment. `chat`: by where a stream is to go."""

    embedding: Stages[EmbedRequest, Served]
    chat: Callable[[StreamBuffer | None], Stages[ChatRequest, ChatServed]]
    rerank: Stages[RerankRequest, Ranked]


class Done(Struct, Generic[AnsweredT], frozen=True):
    """A request that was answered, and is in the ledger."""

    answered: AnsweredT
    entry: LedgerEntry
    timing: Timing
    rate: Rate | None


class Pipeline:
    """authenticate, read, validate, resolve, admit, execute, account."""

    def __init__(
        self,
        authenticate: Authenticator,
        work: Work,
        admit: Admission,
        account: Accountant,
        request_timeout_s: float,
        chat_timeout_s: float,
    ) -> None:
        """request_timeout_s: from the first byte of a request to its answer. chat_timeout_s: to the end of a stream."""
        self._authenticate = authenticate
        self._work = work
        self._admit = admit
        self._account = account
        self._request_timeout_s = request_timeout_s
        self._chat_timeout_s = chat_timeout_s
        self.running = Running()

    def reroute(self, work: Work) -> None:
        """Serve what comes from now on with other models and providers; what is in progress keeps what it has."""
        self._work = work

    async def embed(self, origin: Origin, read: Read[EmbedRequest]) -> EmbedResult:
        """Serve one embeddings request. Raises a GatewayError."""
        call = await self._begin(origin, read, self._request_timeout_s)
        return _result(await self.running.to_the_end(self._serve(call, self._work.embedding)))

    async def chat(self, origin: Origin, read: Read[ChatRequest], out: StreamBuffer) -> ChatResult | ChatStream:
        """Serve one completion: whole, or as a stream once it has begun. Raises a GatewayError.

        out: through which a stream goes, and which ends it when the caller leaves.
        """
        call = await self._begin(origin, read, self._chat_timeout_s)
        if not call.request.is_stream:
            return _completion(await self.running.to_the_end(self._serve(call, self._work.chat(None))))
        serving = self.running.start(self._serve(call, self._work.chat(out)))
        serving.add_done_callback(lambda _: out.end())
        begun = await out.beginning()
        if begun is None:
            await self.running.outcome(serving)
            raise InternalError("A stream ended without a beginning.")
        return ChatStream(
            model=begun.candidate.model.id,
            provider=begun.candidate.route.provider,
            content_type=begun.content_type,
            pieces=self._pieces(serving, out),
            rate=self._admit.rate(call.caller),
        )

    async def rerank(self, origin: Origin, read: Read[RerankRequest]) -> RerankResult:
        """Put the documents of one request in order. Raises a GatewayError."""
        call = await self._begin(origin, read, self._request_timeout_s)
        return _ranking(await self.running.to_the_end(self._serve(call, self._work.rerank)))

    async def embed_as(self, request_id: str, caller: Caller, request: EmbedRequest) -> EmbedResult:
        """Serve a request of this process's own operator, who needs no key. Raises a GatewayError."""
        origin = Origin(request_id, "openai", None)
        call = self._call(origin, caller, request, time.monotonic(), 0.0, self._request_timeout_s)
        return _result(await self.running.to_the_end(self._serve(call, self._work.embedding)))

    async def identify(self, secret: str | None) -> Caller:
        """Who asks, for routes that serve no model. Raises an AccessError."""
        return await self._authenticate(secret)

    async def _begin(self, origin: Origin, read: Read[RequestT], timeout_s: float) -> Call[RequestT]:
        """Find out who asks, and for what."""
        started_s = time.monotonic()
        caller = await self._authenticate(origin.secret)
        authenticate_s = time.monotonic() - started_s
        try:
            request = await read()
        except GatewayError as error:
            error.rate = self._admit.rate(caller)
            raise
        return self._call(origin, caller, request, started_s, authenticate_s, timeout_s)

    @staticmethod
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
        )

    async def _serve(self, call: Call[RequestT], stages: Stages[RequestT, AnsweredT]) -> Done[AnsweredT]:
        grant: Grant | None = None
        answered: AnsweredT | None = None
        entry: LedgerEntry | None = None
        metrics.request_began()
        try:
            begun_s = time.monotonic()
            model = await stages.validate(call.request)
            candidates = stages.resolve(call.request, model)
            matters = self._admit.depends_on_weight(call.caller)
            grant = await self._admit(call, await stages.weigh(call.request, candidates, matters=matters))
            call.admit_s = time.monotonic() - begun_s
            answered = await stages.execute(call, grant.candidates)
        except GatewayError as error:
            call.error = error
            error.rate = self._admit.rate(call.caller)
            raise
        except asyncio.CancelledError:
            call.error = _shutting_down()
            raise
        except Exception as error:
            call.error = InternalError("The gateway failed; its log has the details.")
            raise call.error from error
        finally:
            entry = await self._account(call, grant, answered)
        if entry is None or answered is None:
            raise InternalError("An answered request left no entry.")
        return Done(answered, entry, _timing(call), self._admit.rate(call.caller))

    async def _pieces(self, serving: asyncio.Task[Done[ChatServed]], out: StreamBuffer) -> AsyncGenerator[bytes, None]:
        """What is handed over; at the end, which is known when the entry is in the ledger, the last word."""
        try:
            while piece := await out.take():
                yield piece
            done = await self.running.outcome(serving)
            yield done.answered.body
        finally:
            out.leave()


def _timing(call: Call[Any]) -> Timing:
    return Timing(
        total_ms=(time.monotonic() - call.started_s) * 1000,
        authenticate_ms=call.authenticate_s * 1000,
        upstream_ms=call.upstream_s * 1000,
    )


def _result(done: Done[Served]) -> EmbedResult:
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
    )


def _completion(done: Done[ChatServed]) -> ChatResult:
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


def _ranking(done: Done[Ranked]) -> RerankResult:
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
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by `drain`: it was not the caller who left
                raise _shutting_down() from None
            raise

    async def to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Start `work`; return or raise what it does."""
        return await self.outcome(self.start(work))

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
