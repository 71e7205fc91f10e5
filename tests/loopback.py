"""A server on a loopback port for the tests' far sides: listens from the first moment, and ends every connection.

Owns the listening socket and the tasks of the connections. What is said on a connection belongs to who serves it.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]
"""Serves one connection until it returns; the connection is closed then. The number counts connections from 1."""


class LoopbackServer:
    """Calls `serve` for each connection. `close` ends all of them, and returns once no socket is left open."""

    def __init__(self, serve: Serve) -> None:
        """Listens at once, on a free port; connections are taken after `start`."""
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.port: int = self._socket.getsockname()[1]
        self.connections = 0

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    async def start(self) -> None:
        """Take connections, in the running loop."""
        self._server = await asyncio.start_server(self._connected, sock=self._socket)

    async def close(self) -> None:
        """Stop listening and abort every connection."""
        assert self._server is not None
        self._server.close()
        tasks = list(self._open)
        for task, writer in self._open.items():
            writer.transport.abort()  # what was not sent yet would keep the socket open
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: one that is cancelled before its first step closes nothing.
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve_one(reader, writer, self.connections))
        self._open[task] = writer
        task.add_done_callback(self._open.pop)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._serve(reader, writer, number)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def unless_left(reader: asyncio.StreamReader, answering: Coroutine[Any, Any, T]) -> T:
    """What `answering` returns. Raises ConnectionError when the caller closes its end first."""
    leaving = asyncio.ensure_future(reader.read(1))  # nobody sends the next call before the answer is complete
    answer = asyncio.ensure_future(answering)
    try:
        await asyncio.wait([leaving, answer], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ConnectionResetError("the caller has left")
        return answer.result()
    finally:
        leaving.cancel()
        answer.cancel()
        await asyncio.gather(leaving, answer, return_exceptions=True)
