"""HTTP driver of one credential of a provider: a vendor module over a connection pool.

Decides where large answers are parsed. Retries, failover, batches and rate limits are the engine's; what answers say of
rate limits is passed on.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from msgspec import structs

from embedgate.core.errors import InternalError, UpstreamMisconfigured, UpstreamMismatch, UpstreamTimeout
from embedgate.core.hints import Observe, ignore
from embedgate.core.models import Route
from embedgate.core.ports import Reply, UnaryRequest
from embedgate.core.types import Batch, ChatRequest, Input, ProviderReply
from embedgate.settings import TransportSettings
from embedgate.transport.chat import AskedChat, IncomingChat, begin_chat
from embedgate.transport.chat_call import asks_usage, build_chat, texts_of
from embedgate.transport.concurrency_limit import ConcurrencyLimit
from embedgate.transport.connection_pool import LARGE_REPLY_BYTES, Answer, ConnectionPool, Sink
from embedgate.transport.faults import said_instead
from embedgate.transport.rate_headers import read_hints
from embedgate.transport.records import Endpoint, HttpCall, HttpProvider, HttpReply, ScannedReply
from embedgate.transport.vector_scan import VectorScan

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallTimeouts:
    """Timeouts of one call from when it is sent: of any but a completion, and of a stream until it begins; of a
    completion that is not streamed; of a stream that sends nothing.
    """

    attempt_s: float = math.inf
    completion_s: float = math.inf
    idle_s: float | None = None


class HttpDriver:
    """One credential of a provider, ready to be used."""

    def __init__(
        self,
        provider: HttpProvider,
        endpoint: Endpoint,
        settings: TransportSettings,
        concurrency: ConcurrencyLimit | None = None,
        timeouts: CallTimeouts | None = None,
    ) -> None:
        """Opens no connection. Call `aclose` at the end. Raises DependencyMissing.

        concurrency: that of the provider, where several drivers share it; the endpoint's own if absent. timeouts: of
        each call, beside its deadline; none if absent.
        """
        self._provider = provider
        self._endpoint = endpoint
        self._settings = settings
        self._sign = provider.signer(endpoint) if provider.signer else None
        self._pool = ConnectionPool(replace(endpoint, key=None) if self._sign else endpoint, settings)
        self._concurrency = concurrency or ConcurrencyLimit(endpoint.max_parallel)
        self._timeouts = timeouts or CallTimeouts()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"parse-{endpoint.provider}")
        self._is_closed = False

    def embed(
        self, batch: Batch, route: Route, deadline_s: float, observe: Observe = ignore
    ) -> Coroutine[Any, Any, ProviderReply]:
        """Embed one batch, once awaited. deadline_s: on the monotonic clock; waiting for its turn counts.

        observe: told what the answer, good or bad, says of limits of rate.
        A caller that is cancelled ends the call and its connection. Requests are not, when their callers leave: what
        waits for its turn is dropped, what was sent runs to its end.
        Raises UpstreamError as the vendor module names it, or InternalError after `aclose`.
        """
        if self._is_closed:
            raise self._closed()
        call = self._provider.build(batch, route)
        parse = self._provider.parse
        field = self._provider.vector_field
        return self._ask(
            call,
            batch.inputs,
            deadline_s,
            observe,
            lambda reply: parse(reply, batch, route),
            None if field is None else lambda: VectorScan(field, len(batch.inputs), batch.expected_dim),
        )

    async def call(
        self, request: UnaryRequest[Reply], route: Route, deadline_s: float, observe: Observe = ignore
    ) -> Reply:
        """Answer one unary request. deadline_s, observe, and who leaves: as in `embed`.

        Raises UpstreamError or InvalidInput as the vendor module names it, or InternalError after `aclose`.
        """
        if self._is_closed:
            raise self._closed()
        vendor = self._provider.unary.get(request.action.name)
        if vendor is None:
            raise UpstreamMisconfigured(f"{self._endpoint.provider} is not known to do {request.action.purpose}")
        call = vendor.build(request, route)
        reply = await self._ask(call, request.texts, deadline_s, observe, lambda raw: vendor.parse(raw, request, route))
        if not isinstance(reply, request.reply_type):
            raise InternalError(f"{self._endpoint.provider} answers {request.action.purpose} with another reply")
        return reply

    async def chat(
        self, request: ChatRequest, route: Route, deadline_s: float, observe: Observe = ignore
    ) -> IncomingChat:
        """Begin one completion; it counts as in flight until it is closed. deadline_s: of the whole answer.

        Who leaves before the provider answers at all leaves a call that is closed as soon as it does.
        Raises UpstreamError, or InternalError after `aclose`.
        """
        if self._is_closed:
            raise self._closed()
        form = self._provider.chat
        if form is None:
            raise UpstreamMisconfigured(f"{self._endpoint.provider} is not known to complete chats")
        asked = AskedChat(
            self._endpoint.provider,
            asks_usage(request, form),
            lambda: self._secrets(texts_of(request)),
            self._settings.max_reply_bytes,
            observe,
        )
        call = self._signed(build_chat(request, route, form))
        await self._concurrency.enter(self._endpoint.provider, deadline_s, len(call.body))
        if not request.is_stream:
            until_s = min(deadline_s, time.monotonic() + self._timeouts.completion_s)
            try:
                return await self._begun(call, asked, until_s, None)
            except UpstreamTimeout as error:
                raise error if until_s == deadline_s else self._incomplete() from None
        begins_in_s = self._timeouts.attempt_s
        try:
            async with asyncio.timeout(begins_in_s if begins_in_s < math.inf else None):
                return await self._begun(call, asked, deadline_s, self._timeouts.idle_s)
        except TimeoutError:
            raise UpstreamTimeout(f"{self._endpoint.provider} did not begin to answer within the call's time") from None

    def _incomplete(self) -> UpstreamTimeout:
        error = UpstreamTimeout(
            f"{self._endpoint.provider} did not complete its answer within {self._timeouts.completion_s:g} s "
            "(upstream.completion_timeout_s)"
        )
        error.names_limit = True
        return error

    async def _begun(self, call: HttpCall, asked: AskedChat, deadline_s: float, idle_s: float | None) -> IncomingChat:
        """The answer to a call that has a place, once it has begun; the place is free when it is closed."""
        try:
            incoming = await self._pool.open(call, deadline_s, idle_s)
        except BaseException:
            self._concurrency.leave()
            raise
        return await begin_chat(incoming, asked, self._concurrency.leave)

    async def aclose(self) -> None:
        """Let calls in flight and those that wait for their turn end, then free connections and thread."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._concurrency.emptied()
        finally:
            await self._pool.close()
            self._worker.shutdown(wait=False)

    def _closed(self) -> InternalError:
        return InternalError(f"provider {self._endpoint.provider} was called after it was closed")

    async def _ask(
        self,
        call: HttpCall,
        sent: Sequence[Input],
        deadline_s: float,
        observe: Observe,
        parse: Callable[[HttpReply], T],
        scan: Callable[[], Sink] | None = None,
    ) -> T:
        """What a good answer says. It counts as in flight until it is parsed: until then `aclose` waits.

        sent: the inputs in the call. observe: told what the answer says of rate limits. scan: makes the scan of a large
        answer, if its vectors can be read as they arrive.
        """
        await self._concurrency.enter(self._endpoint.provider, deadline_s, len(call.body))
        try:
            until_s = min(deadline_s, time.monotonic() + self._timeouts.attempt_s)
            answer = await self._pool.send(call if self._sign is None else self._signed(call), until_s, scan)
            observe(read_hints(answer.headers))
            if not 200 <= answer.status < 300:
                raise self._provider.fault(self._reply(answer, self._secrets(sent)))
            if answer.size_bytes < LARGE_REPLY_BYTES:
                provider, body = self._endpoint.provider, b"".join(answer.chunks)
                try:
                    return parse(HttpReply(provider, answer.status, answer.headers, body))
                except UpstreamMismatch as mismatch:  # no answer, but maybe an error whose status was sent before
                    fault = said_instead(self._reply(answer, self._secrets(sent)))
                    if fault is None or mismatch.billed_tokens:
                        raise
                    raise fault from mismatch
            reply = None if answer.sink is None else self._scanned(answer, answer.sink.end())
            if reply is not None and len(reply.body) < LARGE_REPLY_BYTES:
                return parse(reply)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, lambda: parse(reply or self._reply(answer)))
        finally:
            self._concurrency.leave()

    def _signed(self, call: HttpCall) -> HttpCall:
        return call if self._sign is None else structs.replace(call, headers={**call.headers, **self._sign(call)})

    def _reply(self, answer: Answer, secrets: tuple[str, ...] = ()) -> HttpReply:
        return HttpReply(self._endpoint.provider, answer.status, answer.headers, b"".join(answer.chunks), secrets)

    def _scanned(self, answer: Answer, scanned: ScannedReply) -> HttpReply:
        return HttpReply(self._endpoint.provider, answer.status, answer.headers, scanned.body, scanned=scanned)

    def _secrets(self, sent: Sequence[Input]) -> tuple[str, ...]:
        texts = tuple(item for item in sent if isinstance(item, str))
        # What signs calls is a key of several parts.
        key = tuple(self._endpoint.key.split(":")) if self._endpoint.key else ()
        return key + texts
