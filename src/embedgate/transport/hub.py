"""HTTP to a hub of models, or a mirror of one: lists of files, and files from any byte on.

The token goes to the hub's own origin only, and over TLS or to this machine only; where a redirect leads to another
host, it stays behind. What comes from there is checked by its digest, so it may be any host; but none is
followed from TLS to plain HTTP.
"""

import urllib.parse
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from pyreqwest import exceptions
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import ResponseBodyReader

from embedgate.core.errors import ConfigError, UpstreamFailed, UpstreamGarbled, UpstreamTimeout
from embedgate.core.version import VERSION
from embedgate.transport.faults import retry_after_s
from embedgate.transport.records import Endpoint

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_ANSWER_BYTES = 16 * 2**20  # a page of a list has a thousand files
_MAX_FAULT_BYTES = 4_096
_CONNECT_S = 30.0
_SILENCE_S = 60.0
"""How long a hub may send nothing."""


@dataclass(frozen=True, slots=True)
class HubReply:
    """An answer whose body is still coming: header names in lower case."""

    status: int
    headers: Mapping[str, str]
    retry_after_s: float | None
    _reader: ResponseBodyReader
    _hub: str

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises UpstreamFailed or UpstreamTimeout if it breaks off."""
        try:
            while (chunk := await self._reader.read_chunk()) is not None:
                yield bytes(chunk)
        except exceptions.RequestError as error:
            raise _fault(self._hub, error) from error

    async def body(self) -> bytes:
        """The whole body, of a failed call its beginning. Raises UpstreamGarbled if it is too large."""
        is_success = 200 <= self.status < 300
        found = bytearray()
        async for chunk in self.chunks():
            found += chunk
            if not is_success and len(found) > _MAX_FAULT_BYTES:
                break
            if len(found) > _MAX_ANSWER_BYTES:
                raise UpstreamGarbled(f"{self._hub} sent a list of more than {_MAX_ANSWER_BYTES} bytes")
        return bytes(found)


class Hub:
    """One hub. Use it as an asynchronous context manager."""

    def __init__(self, url: str, token: str | None = None, silence_s: float = _SILENCE_S) -> None:
        """Opens no connection. url: its address. silence_s: how long it may send nothing.

        Raises ConfigError for an address or a token that cannot be used.
        """
        try:
            self._endpoint = Endpoint("hub", url.rstrip("/"), key=token)
        except ConfigError as error:
            # These messages name a section of the settings, which a hub does not have.
            mistakes = [mistake.replace("providers.hub: base_url", "its address") for mistake in error.mistakes]
            raise ConfigError([f"hub {mistake.replace('providers.hub: ', '')}" for mistake in mistakes]) from error
        self.url = self._endpoint.base_url
        self._silence_s = silence_s
        self._clients: dict[bool, Client] = {}

    async def __aenter__(self) -> "Hub":
        """The hub itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()

    @asynccontextmanager
    async def get(self, path: str, first_byte: int = 0) -> AsyncIterator[HubReply]:
        """The answer to one GET, redirects followed. path: on the hub, or a whole address of its own.

        first_byte: from which on the body is wanted; the answer says whether it is.
        Raises UpstreamFailed if the hub cannot be reached or redirects without end, UpstreamTimeout if it is silent.
        """
        url = urllib.parse.urljoin(self.url + "/", path) if "://" in path else self._endpoint.url(path)
        for _ in range(_MAX_REDIRECTS + 1):
            request = self._request(url, first_byte)
            try:
                response = await request.__aenter__()
            except exceptions.RequestError as error:
                raise _fault(_origin(url), error) from error
            try:
                headers = {name.lower(): value for name, value in response.headers.items()}
                if response.status not in _REDIRECTS:
                    yield HubReply(
                        response.status, headers, retry_after_s(headers), response.body_reader, _origin(self.url)
                    )
                    return
            finally:
                await request.__aexit__(None, None, None)
            url = self._redirected(url, headers.get("location"))
        raise UpstreamFailed(f"{_origin(self.url)} redirects more than {_MAX_REDIRECTS} times")

    def is_own(self, url: str) -> bool:
        """Whether an address is of the hub's own origin."""
        return _origin(url) == _origin(self.url)

    def _redirected(self, url: str, location: str | None) -> str:
        target = ""
        try:
            target = urllib.parse.urljoin(url, location or "")
            parts = urllib.parse.urlsplit(target)
            is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            is_usable = is_usable and parts.username is None
        except ValueError:
            is_usable = False
        if not location or not is_usable:
            raise UpstreamFailed(f"{_origin(url)} redirects to no address of HTTP")
        if url.startswith("https:") and not target.startswith("https:"):
            raise UpstreamFailed(f"{_origin(url)} redirects to {_origin(target)}, without TLS; that is not followed")
        return target

    def _request(self, url: str, first_byte: int) -> StreamRequest:
        target = Endpoint("hub", urllib.parse.urlsplit(url)._replace(query="", fragment="").geturl())
        request = self._client(may_use_proxy=target.may_use_proxy).get(url).header("accept-encoding", "identity")
        if first_byte:
            request = request.header("range", f"bytes={first_byte}-")
        if self._endpoint.key is not None and self.is_own(url) and target.keeps_secrets:
            request = request.header("authorization", f"Bearer {self._endpoint.key}", is_sensitive=True)
        return request.streamed_read_buffer_limit(0).build_streamed()

    def _client(self, *, may_use_proxy: bool) -> Client:
        if may_use_proxy not in self._clients:
            builder = (
                ClientBuilder()
                .follow_redirects(False)
                .referer(False)
                .user_agent(f"embedgate/{VERSION}")
                .connect_timeout(timedelta(seconds=_CONNECT_S))
                .read_timeout(timedelta(seconds=self._silence_s))
                .gzip(False)
                .brotli(False)
                .zstd(False)
                .deflate(False)
            )
            self._clients[may_use_proxy] = (builder if may_use_proxy else builder.no_proxy()).build()
        return self._clients[may_use_proxy]


def _origin(url: str) -> str:
    """Scheme, host and port: never a path or query, in which hosts put credentials of their own."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    is_usual = port in (80, 443) and port == {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if is_usual else f":{port}")


def _fault(hub: str, error: exceptions.RequestError) -> UpstreamFailed | UpstreamTimeout:
    causes = [cause["message"] for cause in error.details["causes"] or ()]
    if isinstance(error, exceptions.RequestTimeoutError):
        return UpstreamTimeout(f"{hub} sent nothing for too long")
    return UpstreamFailed(f"{hub} cannot be reached or broke off: {causes[-1] if causes else error.message}")
