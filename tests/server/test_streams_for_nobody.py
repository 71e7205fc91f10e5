"""Answers in pieces end with their callers: no piece is made for somebody who has gone."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest

from embedgate.server.answer import Answer
from embedgate.server.dialects import openai
from embedgate.server.exchange import exchange_of
from embedgate.server.gate import Gate
from embedgate.server.respond import send_answer
from raw_server import BOUNDS, Now, Server
from waiting import PATIENCE_S, until

PIECE = b"a,b,c\r\n" * 10_000


@dataclass
class Endless(Server):
    """A server whose answer never ends."""

    made: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        answer = Answer(200, [(b"content-type", b"text/csv")], b"", stream=self._pieces())
        await send_answer(send, answer, _refused, exchange_of(scope))

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                await asyncio.sleep(0)  # as one that comes from a worker thread
                self.made += 1
                yield PIECE
        finally:
            self.ended.set()


def _refused(error: Exception) -> Answer:
    raise error


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("reads", [0, 200_000])
async def test_a_stream_ends_when_its_caller_leaves(version: bytes, reads: int) -> None:
    server = Endless(Gate(BOUNDS, openai), Now())
    listener = await asyncio.get_running_loop().create_server(server.connection, "127.0.0.1", 0)
    async with listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.sockets[0].getsockname()[1])
        writer.write(b"GET / HTTP/%s\r\nhost: x\r\n\r\n" % version)
        async with asyncio.timeout(PATIENCE_S):
            await reader.readexactly(reads + 1)
            writer.transport.abort()
            await server.ended.wait()
    made = server.made
    await until(lambda: not server.state.tasks)
    assert server.made == made
