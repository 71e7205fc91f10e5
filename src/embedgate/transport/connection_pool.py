"""Connection pool of one address, with a deadline for every call. Knows HTTP, nothing of embeddings.

The library is pyreqwest (Rust); its exceptions and clients do not leave this module. Facts about it (0.15) that the
code relies on:

- A time limit of a call ends it and closes its connection. Cancelling the task that waits for its head does neither:
  the connection is closed as soon as the head comes. So every call has a time limit.
- A streamed request waits for the first 64 KiB of its answer, unless its buffer is 0.
- A read that is cancelled as its bytes arrive returns them, and the cancellation is lost.
- Leaving a streamed request closes its connection at once, but waits for ever while someone reads: reads are cancelled
  first.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol, cast

from msgspec import Struct
from pyreqwest import exceptions
from pyreqwest.bytes import Bytes
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.http import HeaderMap
from pyreqwest.request import RequestBuilder, StreamRequest
from pyreqwest.response import Response

from embedgate.core.errors import (
    InternalError,
    UpstreamError,
    UpstreamFailed,
    UpstreamLost,
    UpstreamMismatch,
    UpstreamNotAsked,
    UpstreamTimeout,
)
from embedgate.core.version import VERSION
from embedgate.settings import TransportSettings
from embedgate.transport.public_host import PublicHost
from embedgate.transport.records import Endpoint, HttpCall, ScannedReply

LARGE_REPLY_BYTES = 500_000
"""From here on an answer is read as it arrives, or on a worker: so many bytes of floats take 2 ms at once, long for the
event loop."""
_POURED_BYTES = 131_072
"""About a third of a millisecond of reading vectors; then the event loop has its turn."""
MAX_FAULT_BYTES = 65_536
"""Of a failed call this much is read, enough for any message; the rest and the connection are let go."""
_NOT_CONNECTED = "client error (Connect)"
_NOT_WRITTEN = "error writing a body to connection"
_CLOSED = "The answer was closed before its end"


class Sink(Protocol):
    """Protocol of what takes a large body as it arrives."""

    def write(self, piece: memoryview) -> None:
        """Take the next bytes, which are lent for the time of the call."""
        ...

    def end(self) -> ScannedReply:
        """The result of all bytes written."""
        ...


class Answer(Struct, frozen=True):
    """An answer as it came off the wire: header names in lower case, the decompressed body in pieces.

    `sink`: what has taken the pieces of a large body in their place.
    """

    status: int
    headers: dict[str, str]
    chunks: list[Bytes]
    size_bytes: int
    sink: Sink | None = None


class Incoming:
    """A reply whose head is here and whose body is still coming. For one reader; `aclose` must follow."""

    def __init__(
        self,
        request: StreamRequest,
        response: Response,
        fault: Callable[[exceptions.RequestError], UpstreamError],
        idle_s: float | None,
    ) -> None:
        """request: entered. fault: what an error of the library means. idle_s: how long it may send nothing."""
        self.status = response.status
        self.headers = _texts(response.headers)
        self._request = request
        self._reader = response.body_reader
        self._fault = fault
        self._idle_s = idle_s
        self._reading: asyncio.Task[object] | None = None
        self._is_stopped = False
        self._has_stopped: asyncio.Future[None] | None = None
        self._is_closed = False

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    async def read(self) -> bytes | None:
        """The next bytes, decompressed, as they come off the wire; None at the end.

        Raises UpstreamTimeout, or UpstreamLost if the body breaks off or somebody closes it meanwhile.
        """
        if self._is_closed:
            raise UpstreamLost(_CLOSED)
        loop = asyncio.get_running_loop()
        # In the reader's own task: one of its own for each read is a tenth of a millisecond until the first token.
        task = self._reading = cast(asyncio.Task[object], asyncio.current_task())
        n_cancelled = task.cancelling()
        timer = None if self._idle_s is None else loop.call_later(self._idle_s, self._stop)
        chunk: Bytes | None = None
        try:
            chunk = await self._reader.read_chunk()
        except exceptions.RequestError as error:
            if not self._is_stopped:
                raise self._fault(error) from error
        except asyncio.CancelledError:
            if not self._is_stopped:
                raise
        finally:
            self._reading = None
            if timer is not None:
                timer.cancel()
            if self._has_stopped is not None and not self._has_stopped.done():
                self._has_stopped.set_result(None)
        if (task.uncancel() if self._is_stopped else task.cancelling()) > n_cancelled:
            raise asyncio.CancelledError  # of the reader itself: the library may have lost it
        if self._is_stopped:
            raise await self._closed()
        return None if chunk is None else bytes(chunk)

    async def aclose(self) -> None:
        """Close the connection if the end has not come, whoever is reading; keep it for another call if it has."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._reading is not None:
                self._has_stopped = asyncio.get_running_loop().create_future()
                self._stop()
                await self._has_stopped
        finally:
            await self._request.__aexit__(None, None, None)

    def _stop(self) -> None:
        """End the read in progress: nothing has come for too long, or somebody closes the answer."""
        if self._reading is not None and not self._is_stopped:
            self._is_stopped = True
            self._reading.cancel()

    async def _closed(self) -> UpstreamError:
        """What a read that was stopped fails with; the answer is closed then."""
        if self._is_closed:
            return UpstreamLost(_CLOSED)
        await self.aclose()
        return UpstreamTimeout(f"The provider sent nothing for {self._idle_s:g} s (upstream.stream_idle_timeout_s)")


class ConnectionPool:
    """Connections kept open to one address. Follows no redirects: the key must not go along."""

    def __init__(self, endpoint: Endpoint, settings: TransportSettings) -> None:
        """Opens no connection, but starts the library's thread."""
        self._endpoint = endpoint
        self._base_url = endpoint.url("")
        self._settings = settings
        self._host = PublicHost(endpoint.provider, endpoint.base_url) if endpoint.is_public_only else None
        self._address = ""
        self._kept: Client | None = self._client(settings.pool_max_idle)
        self._unkept: Client | None = None
        self._lost_calls = 0

    async def send(self, call: HttpCall, deadline_s: float, sink: Callable[[], Sink] | None = None) -> Answer:
        """Send one call and read its answer, whatever the status. deadline_s: on the monotonic clock.

        sink: makes what takes a body from LARGE_REPLY_BYTES on, as it arrives; such bodies are kept if absent.

        A call that was written is never repeated here: the provider may have read it, and bill it.
        Raises UpstreamFailed if the provider cannot have read the whole call, UpstreamLost or UpstreamTimeout if it may
        have, UpstreamNotAsked if the deadline has passed already, UpstreamMismatch if the answer is larger than the
        settings allow.
        """
        if self._host is not None:
            await self._pin(self._host, deadline_s)
        try:
            async with self._request(call, deadline_s).build_streamed() as response:
                return await self._read(response, sink)
        except exceptions.RequestError as error:
            raise self._fault(error) from error

    async def open(self, call: HttpCall, deadline_s: float, idle_s: float | None = None) -> Incoming:
        """Send one call and return once the head of its answer is here. Otherwise as `send`.

        deadline_s: of the whole answer. idle_s: how long its body may send nothing; None for as long as it likes. Who
        is cancelled before the head comes leaves a call that lasts until then.
        """
        if self._host is not None:
            await self._pin(self._host, deadline_s)
        request = self._request(call, deadline_s)
        streamed = request.streamed_read_buffer_limit(0).build_streamed()
        try:
            response = await streamed.__aenter__()
        except exceptions.RequestError as error:
            raise self._fault(error) from error
        return Incoming(streamed, response, self._fault, idle_s)

    async def close(self) -> None:
        """Fail calls in flight and drop all connections."""
        clients, self._kept, self._unkept = (self._kept, self._unkept), None, None
        for client in clients:
            if client is not None:
                await client.close()  # idle connections go with the last reference to it

    def _client(self, max_idle: int) -> Client:
        settings = self._settings
        builder = (
            ClientBuilder()
            .follow_redirects(False)
            .referer(False)
            .user_agent(f"embedgate/{VERSION}")
            .default_headers({"content-type": "application/json"})
            .connect_timeout(timedelta(seconds=settings.connect_timeout_s))
            .pool_idle_timeout(timedelta(seconds=settings.pool_idle_timeout_s))
            .pool_max_idle_per_host(max_idle)
            .brotli(False)
            .zstd(False)
            .deflate(False)
        )
        if self._host is not None and self._address:
            builder = builder.resolve(self._host.name, self._address, 0)
        return builder.build() if self._endpoint.may_use_proxy else builder.no_proxy().build()

    def _unkept_client(self) -> Client:
        """A new connection, for the next call after a lost one: the kept ones may be stale, too."""
        if self._kept is None:
            raise InternalError(f"the connections to {self._endpoint.provider} are closed")
        self._lost_calls -= 1
        if self._unkept is None:
            self._unkept = self._client(max_idle=0)
        return self._unkept

    async def _pin(self, host: PublicHost, deadline_s: float) -> None:
        """Have the next connections go to an address that was checked. Calls on those to another end by themselves."""
        address = await host.address(min(deadline_s, time.monotonic() + self._settings.connect_timeout_s))
        if address != self._address and self._kept is not None:
            self._address, self._unkept = address, None
            self._kept = self._client(self._settings.pool_max_idle)

    def _request(self, call: HttpCall, deadline_s: float) -> RequestBuilder:
        client = self._kept
        if client is None or self._lost_calls:
            client = self._unkept_client()
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise UpstreamNotAsked(f"{self._endpoint.provider} could not be asked within the call's time")
        endpoint = self._endpoint
        request = (
            client.request(call.method, self._base_url + call.path)
            .timeout(timedelta(seconds=remaining_s))
            .body_bytes(call.body)
        )
        if call.headers:
            request = request.headers(call.headers)
        if endpoint.key is not None:
            prefix = endpoint.key_prefix if call.key_prefix is None else call.key_prefix
            request = request.header(call.key_header or endpoint.key_header, prefix + endpoint.key, is_sensitive=True)
        return request

    async def _read(self, response: Response, make_sink: Callable[[], Sink] | None) -> Answer:
        status, headers = response.status, _texts(response.headers)
        is_success = 200 <= status < 300
        limit_bytes = self._settings.max_reply_bytes if is_success else MAX_FAULT_BYTES
        chunks: list[Bytes] = []
        size_bytes = 0
        sink: Sink | None = None
        reader = response.body_reader
        while (chunk := await reader.read_chunk()) is not None:
            chunks.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > limit_bytes:
                if not is_success:
                    break
                raise UpstreamMismatch(
                    f"{self._endpoint.provider} sent more than {limit_bytes} bytes (transport.max_reply_bytes)"
                )
            if size_bytes >= LARGE_REPLY_BYTES and make_sink is not None:
                sink = sink or make_sink()
                await _pour(chunks, sink)
        return Answer(status, headers, chunks, size_bytes, sink)

    def _fault(self, error: exceptions.RequestError) -> UpstreamError:
        """What an error of the library means, above all whether the provider may have read the call, and so bill it."""
        provider = self._endpoint.provider
        causes = [cause["message"] for cause in error.details["causes"] or ()]
        # The last cause is the system's own word; the first ones repeat the address.
        detail = causes[-1] if causes else error.message
        if self._host is not None and _NOT_CONNECTED in causes:
            self._host.failed(self._address)
        if isinstance(error, exceptions.RequestTimeoutError):
            if _NOT_CONNECTED in causes:
                return UpstreamFailed(f"{provider} could not be connected to in {self._settings.connect_timeout_s:g} s")
            return UpstreamTimeout(f"{provider} did not answer within the call's time")
        if _NOT_CONNECTED in causes:
            return UpstreamFailed(f"{provider} cannot be reached: {detail}")
        if _NOT_WRITTEN in causes:  # a part of the call is none, and no host bills it
            return UpstreamFailed(f"The connection to {provider} broke: {detail}")
        self._lost_calls = min(self._lost_calls + 1, self._settings.pool_max_idle)
        return UpstreamLost(f"The connection to {provider} broke: {detail}")


async def _pour(chunks: list[Bytes], sink: Sink) -> None:
    """Empty a list of chunks into a sink, in pieces between which others have their turn."""
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), _POURED_BYTES):
            sink.write(view[start : start + _POURED_BYTES])
            await asyncio.sleep(0)
    chunks.clear()


def _texts(headers: HeaderMap) -> dict[str, str]:
    """Headers by name, of several with one name the last; those whose value is not text are left out."""
    try:
        if headers.keys_len() == len(headers):  # each name once, as usual: three fifths of the time
            return cast(dict[str, str], headers.dict_multi_value())
        return dict(headers)
    except ValueError:
        texts = {}
        for name in headers.keys():  # noqa: SIM118 - iterating a HeaderMap itself converts the values
            try:
                texts[name] = headers[name]
            except ValueError:
                continue
        return texts
