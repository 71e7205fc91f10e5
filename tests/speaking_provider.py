"""A provider that says, piece by piece, whatever a test wants to hear: the far side of streamed answers.

async def say(line: Line) -> None:
    await line.head("text/event-stream")
    await line.send(b"data: {}\\n\\n")
    await line.end()

async with speaking(say) as provider:
    ...                     # provider.base_url, provider.requests, provider.left
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from loopback import LoopbackServer, unless_left
from upstream import Seen, read_request, reset_connection

EVENTS = "text/event-stream"


class Line:
    """One connection, on which one call has come."""

    def __init__(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        self.seen = seen
        self._writer = writer

    async def head(self, content_type: str | None = EVENTS, status: int = 200, **headers: str) -> None:
        """Send the head of a chunked answer."""
        named = {"content-type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
        lines = [f"{name}: {value}" for name, value in named.items() if value is not None]
        head = "\r\n".join([f"HTTP/1.1 {status} Status", "transfer-encoding: chunked", *lines, "", ""])
        self._writer.write(head.encode())
        await self._writer.drain()

    async def send(self, *chunks: bytes) -> None:
        """Send chunks of the body."""
        for chunk in chunks:
            self._writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await self._writer.drain()

    async def end(self) -> None:
        """Send the end of the body; the connection stays."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def reset(self) -> None:
        """Break off."""
        reset_connection(self._writer)


Say = Callable[[Line], Coroutine[Any, Any, None]]


class SpeakingProvider:
    """The running server. `left` is set once a caller has closed its connection before the answer was said."""

    def __init__(self, say: Say) -> None:
        self.requests: list[Seen] = []
        self.left = asyncio.Event()
        self.server = LoopbackServer(self._serve)
        self._say = say

    @property
    def base_url(self) -> str:
        """What a provider's base_url is set to."""
        return f"http://127.0.0.1:{self.server.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        while True:
            seen = await read_request(reader, connection)
            self.requests.append(seen)
            try:
                await unless_left(reader, self._say(Line(seen, writer)))
            except ConnectionError:
                self.left.set()
                return


@asynccontextmanager
async def speaking(say: Say) -> AsyncIterator[SpeakingProvider]:
    """A provider on a free port, in the test's own loop. say: what every call is answered with."""
    provider = SpeakingProvider(say)
    await provider.server.start()
    try:
        yield provider
    finally:
        await provider.server.close()
