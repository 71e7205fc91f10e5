"""Drives one vendor module: implements the Provider port over a pool of connections.

Owns the places for calls in flight, the life of a call whose caller has gone, and where large answers are parsed.
Retries, fallbacks and batches are the engine's.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from embedgate.core.errors import InternalError, UpstreamTimeout
from embedgate.core.types import Batch, ProviderReply, Route
from embedgate.settings import TransportSettings
from embedgate.transport.pool import Answer, Pool
from embedgate.transport.records import Endpoint, HttpCall, HttpProvider, HttpReply

LARGE_REPLY_BYTES = 500_000
"""From here on a reply is parsed on the worker: so many bytes of floats take 2 ms, long for the event loop."""


class HttpDriver:
    """One provider, ready to be called."""

    def __init__(self, provider: HttpProvider, endpoint: Endpoint, settings: TransportSettings) -> None:
        """Opens no connection. Call `aclose` at the end. Raises DependencyMissing."""
        self._provider = provider
        self._endpoint = endpoint
        self._sign = provider.signer(endpoint) if provider.signer else None
        self._pool = Pool(replace(endpoint, key=None) if self._sign else endpoint, settings)
        self._places = asyncio.Semaphore(endpoint.max_parallel)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"parse-{endpoint.provider}")
        self._is_closed = False

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """Embed one batch. deadline_s: on the monotonic clock; waiting for a free place counts.

        A caller that is cancelled ends the call and its connection. Requests are not, when their callers leave: the
        pipeline runs them to their end.
        Raises UpstreamError as the vendor module names it, or InternalError after `aclose`.
        """
        if self._is_closed:
            raise InternalError(f"provider {self._endpoint.provider} was called after it was closed")
        call = self._provider.build(batch, route)
        await self._take_place(deadline_s)
        try:
            return await self._exchange(call, batch, route, deadline_s)
        finally:
            self._places.release()

    async def aclose(self) -> None:
        """Let calls in flight and those that wait for a place end, then free connections and thread."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            # Places are given in the order of asking, so holding all of them means that everyone before is done.
            for _ in range(self._endpoint.max_parallel):
                await self._places.acquire()
        finally:
            await self._pool.close()
            self._worker.shutdown(wait=False)

    async def _take_place(self, deadline_s: float) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                await self._places.acquire()
        except TimeoutError:
            raise UpstreamTimeout(
                f"All {self._endpoint.max_parallel} places for calls to {self._endpoint.provider} were taken for "
                "the request's time (max_parallel)"
            ) from None

    async def _exchange(self, call: HttpCall, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        if self._sign is not None:
            call = replace(call, headers={**call.headers, **self._sign(call)})
        answer = await self._pool.send(call, deadline_s)
        if not answer.is_success:
            raise self._provider.fault(self._failed(answer, batch))
        if answer.size_bytes < LARGE_REPLY_BYTES:
            return self._parsed(answer, batch, route)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._parsed, answer, batch, route)

    def _parsed(self, answer: Answer, batch: Batch, route: Route) -> ProviderReply:
        reply = HttpReply(self._endpoint.provider, answer.status, answer.headers, answer.body())
        return self._provider.parse(reply, batch, route)

    def _failed(self, answer: Answer, batch: Batch) -> HttpReply:
        texts = tuple(item for item in batch.inputs if isinstance(item, str))
        # What signs calls is a key of several parts.
        key = tuple(self._endpoint.key.split(":")) if self._endpoint.key else ()
        return HttpReply(self._endpoint.provider, answer.status, answer.headers, answer.body(), key + texts)
