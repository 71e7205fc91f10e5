"""A provider that says, piece by piece, whatever a test wants to hear: the far side of streamed answers.

async def say(line: Line) -> None:
    await line.head("text/event-stream")
    await line.send(b"data: {}\\n\\n")
    await line.end()

async with speaking(say) as provider:
    ...                     # provider.base_url, provider.requests, provider.left
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

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


Say = Callable[[Line], Awaitable[None]]


class SpeakingProvider:
    """The running server. `left` is set once a caller has closed its connection before the answer was said."""

    def __init__(self, say: Say) -> None:
        self.requests: list[Seen] = []
        self.left = asyncio.Event()
        self.base_url = ""
        self._say = say
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """End what is still being said."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._connections += 1
        task = asyncio.ensure_future(self._serve(reader, writer, self._connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    seen = await read_request(reader, connection)
                    self.requests.append(seen)
                    await self._answer(Line(seen, writer), reader)
        finally:
            writer.close()

    async def _answer(self, line: Line, reader: asyncio.StreamReader) -> None:
        leaving = asyncio.ensure_future(_closed(reader))
        saying = asyncio.ensure_future(self._say(line))
        try:
            await asyncio.wait([leaving, saying], return_when=asyncio.FIRST_COMPLETED)
            if not saying.done():
                self.left.set()
                raise ConnectionResetError
            saying.result()
        finally:
            for task in (leaving, saying):
                task.cancel()
            await asyncio.wait([leaving, saying])


@asynccontextmanager
async def speaking(say: Say) -> AsyncIterator[SpeakingProvider]:
    """A provider on a free port, in the test's own loop. say: what every call is answered with."""
    provider = SpeakingProvider(say)
    server = await asyncio.start_server(provider.connected, "127.0.0.1", 0)
    provider.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield provider
    finally:
        server.close()
        await provider.stop()


async def _closed(reader: asyncio.StreamReader) -> None:
    """Return when the far side is gone. The next call is not read: nobody asks before the answer is complete."""
    while not reader.at_eof():
        await asyncio.sleep(0.005)
        if reader.exception() is not None:
            return
