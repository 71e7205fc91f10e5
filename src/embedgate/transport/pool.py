"""Connections to one provider, and one call over one of them. Knows HTTP, nothing of embeddings.

The library is pyreqwest (Rust); its exceptions and clients do not leave this module. Two facts about it that the code
relies on: a time limit of a call ends it and closes its connection, but cancelling the task that waits for it
does neither (0.15), so every call has a time limit, and `driver` never cancels one.
"""

import time
from dataclasses import dataclass
from datetime import timedelta

from pyreqwest import exceptions
from pyreqwest.bytes import Bytes
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.http import HeaderMap
from pyreqwest.response import Response

from embedgate.core.errors import InternalError, UpstreamError, UpstreamFailed, UpstreamGarbled, UpstreamTimeout
from embedgate.core.version import VERSION
from embedgate.settings import TransportSettings
from embedgate.transport.records import Endpoint, HttpCall

MAX_FAULT_BYTES = 65_536
"""Of a failed call this much is read, enough for any message; the rest and the connection are let go."""
_SENDING_FAILED = "client error (SendRequest)"
_CLOCK_SLACK_S = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply as it came off the wire: header names in lower case, the decompressed body in pieces."""

    status: int
    headers: dict[str, str]
    chunks: list[Bytes]
    size_bytes: int

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    def body(self) -> bytes:
        """The body in one piece; copies it."""
        return b"".join(self.chunks)


class Pool:
    """Kept connections to one address. Follows no redirects: the key must not go along."""

    def __init__(self, endpoint: Endpoint, settings: TransportSettings) -> None:
        """Opens no connection, but starts the library's thread."""
        self._endpoint = endpoint
        self._settings = settings
        self._kept: Client | None = self._client(settings.pool_max_idle)

    async def send(self, call: HttpCall, deadline_s: float) -> Answer:
        """Send one call and read its answer, whatever the status. deadline_s: on the monotonic clock.

        A connection that was closed before any answer is most likely one that the server had given up while it was
        idle; the call is then repeated once on a new one.
        Raises UpstreamTimeout, UpstreamFailed if the way to the provider broke, UpstreamGarbled if the answer is
        larger than the settings allow.
        """
        if self._kept is None:
            raise InternalError(f"the connections to {self._endpoint.provider} are closed")
        try:
            try:
                return await self._attempt(self._kept, call, deadline_s)
            except exceptions.NetworkError as error:
                if not _was_closed_unanswered(error):
                    raise
            # Every kept connection may be stale by now, so this one comes from a client that keeps none.
            return await self._attempt(self._client(max_idle=0), call, deadline_s)
        except exceptions.RequestError as error:
            raise self._fault(error, deadline_s) from error

    async def close(self) -> None:
        """Fail calls in flight and drop all connections."""
        client, self._kept = self._kept, None
        if client is not None:
            await client.close()  # idle connections go with the last reference to it

    def _client(self, max_idle: int) -> Client:
        settings = self._settings
        builder = (
            ClientBuilder()
            .follow_redirects(False)
            .referer(False)
            .user_agent(f"embedgate/{VERSION}")
            .connect_timeout(timedelta(seconds=settings.connect_timeout_s))
            .pool_idle_timeout(timedelta(seconds=settings.pool_idle_timeout_s))
            .pool_max_idle_per_host(max_idle)
            .brotli(False)
            .zstd(False)
            .deflate(False)
        )
        return builder.build() if self._endpoint.may_use_proxy else builder.no_proxy().build()

    async def _attempt(self, client: Client, call: HttpCall, deadline_s: float) -> Answer:
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise UpstreamTimeout(f"{self._endpoint.provider} could not be asked within the request's time")
        endpoint = self._endpoint
        request = (
            client.request(call.method, endpoint.url(call.path))
            .timeout(timedelta(seconds=remaining_s))
            .header("content-type", "application/json")
            .body_bytes(call.body)
        )
        if call.headers:
            request = request.headers(call.headers)
        if endpoint.key is not None:
            request = request.header(endpoint.key_header, endpoint.key_prefix + endpoint.key, is_sensitive=True)
        async with request.build_streamed() as response:
            return await self._read(response)

    async def _read(self, response: Response) -> Answer:
        status, headers = response.status, _texts(response.headers)
        is_success = 200 <= status < 300
        limit_bytes = self._settings.max_reply_bytes if is_success else MAX_FAULT_BYTES
        chunks: list[Bytes] = []
        size_bytes = 0
        reader = response.body_reader
        while (chunk := await reader.read_chunk()) is not None:
            chunks.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > limit_bytes:
                if not is_success:
                    break
                raise UpstreamGarbled(
                    f"{self._endpoint.provider} sent more than {limit_bytes} bytes (transport.max_reply_bytes)"
                )
        return Answer(status, headers, chunks, size_bytes)

    def _fault(self, error: exceptions.RequestError, deadline_s: float) -> UpstreamError:
        provider = self._endpoint.provider
        if isinstance(error, exceptions.RequestTimeoutError):
            if time.monotonic() >= deadline_s - _CLOCK_SLACK_S:
                return UpstreamTimeout(f"{provider} did not answer within the request's time")
            return UpstreamFailed(f"{provider} could not be connected to in {self._settings.connect_timeout_s:g} s")
        # The last cause is the system's own word; the first ones repeat the address.
        causes = error.details["causes"] or []
        detail = causes[-1]["message"] if causes else error.message
        if isinstance(error, exceptions.ConnectError) and not _was_closed_unanswered(error):
            return UpstreamFailed(f"{provider} cannot be reached: {detail}")
        return UpstreamFailed(f"The connection to {provider} broke: {detail}")


def _was_closed_unanswered(error: exceptions.RequestError) -> bool:
    """Whether a connection stood, but ended before the head of an answer."""
    return isinstance(error, exceptions.NetworkError) and any(
        cause["message"] == _SENDING_FAILED for cause in error.details["causes"] or ()
    )


def _texts(headers: HeaderMap) -> dict[str, str]:
    """Headers by name, of several with one name the last; those whose value is not text are left out."""
    try:
        return dict(headers)
    except ValueError:
        texts = {}
        for name in headers.keys():  # noqa: SIM118 - iterating a HeaderMap itself converts the values
            try:
                texts[name] = headers[name]
            except ValueError:
                continue
        return texts
