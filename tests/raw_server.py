"""A server of raw connections for the tests: bounds and a clock of theirs, and an application that says what it got."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from embedgate.server.connection import Connection
from embedgate.server.dialects import openai
from embedgate.server.exchange import exchange_of
from embedgate.server.gate import Gate, Placed
from embedgate.server.handshake import Handshake
from embedgate.settings import ServerSettings
from waiting import PATIENCE_S

MAX_HEAD_BYTES = 2_000
BOUNDS = ServerSettings(
    max_head_bytes=MAX_HEAD_BYTES, head_timeout_s=10, body_timeout_s=60, unread_timeout_s=30, max_connections=3
)
LARGE_ANSWER_BYTES = 20_000_000
KEEP_ALIVE_S = 75


class Now:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s


@dataclass(frozen=True)
class Reply:
    """One answer: header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: Any


async def settled() -> None:
    """Return once what was sent has arrived and was served as far as it can be."""
    await asyncio.sleep(0.005)  # the kernel's part
    for _ in range(20):  # and the loop's, whose steps take several turns
        await asyncio.sleep(0)


@dataclass
class Caller:
    """The other end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, *pieces: bytes) -> Reply:
        """Send the pieces, each on its own, and read an answer."""
        for piece in pieces:
            await self.send(piece)
        return await self.reply()

    async def send(self, piece: bytes) -> None:
        self.writer.write(piece)
        await self.writer.drain()
        await settled()

    async def reply(self) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Reply(int(first.split(" ")[1]), headers, json.loads(body))

    async def rest(self) -> bytes:
        """What comes until the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def stays(self) -> bool:
        """Whether the connection is open a moment later still."""
        try:
            async with asyncio.timeout(0.1):
                await self.reader.read()
        except TimeoutError:
            return True
        return False


@dataclass
class Server:
    """A server with a clock of ours, and an application that says what it was sent."""

    gate: Gate
    now: Now
    state: ServerState = field(default_factory=ServerState)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    served: int = 0
    gone: int = 0
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Method, path and body of each request whose body was read."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        has_more = scope["path"] != "/unread"
        if scope["path"] == "/held":
            await self.release.wait()
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            body += message["body"]
            has_more = message["more_body"]
        self.served += 1
        self.requests.append((scope["method"], scope["path"], body))
        fields = [name.decode() for name, _ in scope["headers"]]
        answer = json.dumps({"fields": fields, "body_bytes": len(body), "scheme": scope["scheme"]}).encode()
        if scope["path"] == "/large":
            answer = b" " * LARGE_ANSWER_BYTES
        exchange = exchange_of(scope)
        if exchange is not None and len(answer) < 100_000 and exchange.write(200, [], answer):
            return
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(answer), 100_000):
            has_more = start + 100_000 < len(answer)
            await send({"type": "http.response.body", "body": answer[start : start + 100_000], "more_body": has_more})

    def pass_time(self, duration_s: float) -> None:
        """Let so much time pass, then look at the connections, as the running server does each second."""
        self.now.s += duration_s
        self.gate.sweep()

    def connection(self, handshake: Placed | None = None) -> Connection:
        config = uvicorn.Config(
            self,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=50,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        return Connection(config, self.state, self.gate, handshake)


@dataclass
class Running:
    """A server that listens."""

    server: Server
    port: int
    callers: list[Caller] = field(default_factory=list)

    async def connect(self) -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port))
        self.callers.append(caller)
        await settled()
        return caller

    async def leave(self, caller: Caller) -> None:
        caller.writer.close()
        with suppress(ConnectionError):
            await caller.writer.wait_closed()
        await settled()


@asynccontextmanager
async def running(bounds: ServerSettings = BOUNDS, tls: ssl.SSLContext | None = None) -> AsyncIterator[Running]:
    """A server that listens until the end; then nothing of it is left. tls: for HTTPS."""
    now = Now()
    server = Server(Gate(bounds, openai, now), now)
    factory = server.connection if tls is None else partial(Handshake, server.gate, tls, server.connection)
    listener = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    found = Running(server, listener.sockets[0].getsockname()[1])
    try:
        yield found
    finally:
        server.release.set()
        for caller in found.callers:
            caller.writer.transport.abort()
        listener.close()
        while server.state.connections or server.state.tasks or server.gate.admitted:
            await asyncio.sleep(0.001)
    assert (server.gate.admitted, len(server.gate.refusing)) == (0, 0)


class Recorder(asyncio.Transport):
    """Stands in for a socket where the pieces that arrive must be exactly those that a test has cut."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written = b""
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass
