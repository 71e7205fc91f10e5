"""Where requests begin and end on a connection: no byte of a body is ever read as a request, however bytes are cut."""

import asyncio
import random
import socket

import pytest

from embedgate.server.connection import Connection
from embedgate.server.dialects import openai
from embedgate.server.gate import Gate
from embedgate.settings import ServerSettings
from raw_server import Caller, Now, Recorder, Server, running, settled
from waiting import PATIENCE_S, until

WIDE = ServerSettings(max_head_bytes=4_000, max_connections=50, max_pipelined=8)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\nPOST /smuggled HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
"""What every JDK client and `curl --http2` offers with a first request."""
OFFERS = (b"", H2C, b"upgrade: websocket, h2c\r\nconnection: keep-alive, upgrade\r\n", b"upgrade: TLS/1.0\r\n")


def declared(path: bytes, body: bytes, offer: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n%s" % (path, offer, len(body), body)


def chunked(path: bytes, body: bytes, offer: bytes, cuts: random.Random) -> bytes:
    """The body in chunks of random sizes, with extensions, and trailers that look like framing."""
    parts, start = [], 0
    while start < len(body):
        size = min(cuts.randint(1, 60), len(body) - start)
        extension = cuts.choice([b"", b";a=b", b';a="x"'])
        parts.append(b"%x%s\r\n%s\r\n" % (size, extension, body[start : start + size]))
        start += size
    trailers = cuts.choice(
        [b"", b"x-sum: 1\r\n", b"upgrade: h2c\r\nconnection: upgrade\r\n", b"expect: 100-continue\r\n"]
    )
    head = b"POST %s HTTP/1.1\r\nhost: x\r\n%stransfer-encoding: chunked\r\n\r\n" % (path, offer)
    return head + b"".join(parts) + b"0\r\n" + trailers + b"\r\n"


def conversation(cuts: random.Random) -> tuple[bytes, list[tuple[str, str, bytes]]]:
    """Requests one after the other, and what must be served of them."""
    sent, expected = b"", []
    for number in range(cuts.randint(1, 12)):
        offer = cuts.choice(OFFERS)
        path = b"/%d" % number
        kind = cuts.choice(["bare", "declared", "chunked"])
        body = (
            b"" if kind == "bare" else cuts.choice([b"", b"{}", SMUGGLED, SMUGGLED * 5, b"\r\n\r\n" * 40, b"a" * 500])
        )
        if kind == "bare":
            sent += b"GET %s HTTP/1.1\r\nhost: x\r\n%s\r\n" % (path, offer)
        elif kind == "declared":
            sent += declared(path, body, offer)
        else:
            sent += chunked(path, body, offer, cuts)
        expected.append(("GET" if kind == "bare" else "POST", path.decode(), body))
    return sent, expected


def pieces(sent: bytes, cuts: random.Random) -> list[bytes]:
    most = cuts.choice([1, 3, 40, 700, len(sent)])
    found, start = [], 0
    while start < len(sent):
        size = cuts.randint(1, most)
        found.append(sent[start : start + size])
        start += size
    return found


@pytest.mark.parametrize("seed", range(60))
async def test_every_request_is_served_once_with_its_own_body_however_it_is_cut(seed: int) -> None:
    cuts = random.Random(seed)
    sent, expected = conversation(cuts)
    server = Server(Gate(WIDE, openai), Now())
    connection, transport = server.connection(), Recorder()
    connection.connection_made(transport)
    for piece in pieces(sent, cuts):
        connection.data_received(piece)
        for _ in range(cuts.randint(0, 3)):
            await asyncio.sleep(0)
    await until(lambda: len(server.requests) >= len(expected) or transport.is_closing())
    await settled()
    assert server.requests == expected, f"seed {seed}"
    assert transport.written.count(b"HTTP/1.1 200 ") == len(expected)
    connection.connection_lost(None)


@pytest.mark.parametrize("seed", range(20))
async def test_the_same_over_a_socket(seed: int) -> None:
    cuts = random.Random(1_000 + seed)
    sent, expected = conversation(cuts)
    async with running(WIDE) as it:
        caller = await it.connect()
        caller.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces(sent, cuts):
            caller.writer.write(piece)
            await asyncio.sleep(0)
        assert [(await caller.reply()).status for _ in expected] == [200] * len(expected)
        assert it.server.requests == expected, f"seed {seed}"


@pytest.mark.parametrize("offer", OFFERS[1:])
@pytest.mark.parametrize("splits_after_head", [False, True])
async def test_an_offer_to_upgrade_is_ignored_and_its_body_read(offer: bytes, splits_after_head: bool) -> None:
    request = declared(b"/v1/embeddings", SMUGGLED, offer)
    end = len(request) - len(SMUGGLED)
    async with running(WIDE) as it:
        caller = await it.connect()
        reply = await caller.ask(*([request[:end], request[end:]] if splits_after_head else [request]))
        assert (reply.status, reply.body["body_bytes"]) == (200, len(SMUGGLED))
        assert "upgrade" not in reply.headers
        assert (await caller.ask(b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n")).status == 200
        assert [path for _, path, _ in it.server.requests] == ["/v1/embeddings", "/next"]


async def test_the_head_of_an_offer_is_bounded_like_any_other() -> None:
    async with running(WIDE) as it:
        caller = await it.connect()
        reply = await caller.ask(b"GET / HTTP/1.1\r\nhost: x\r\n" + H2C + b"x: " + b"y" * 5_000 + b"\r\n\r\n")
        assert reply.status == 400


AMBIGUOUS = [
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
    b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    b"content-length: 5\r\ncontent-length: 6\r\n",
    b"content-length: 5, 5\r\n",
    b"content-length: +5\r\n",
    b"content-length: 0x5\r\n",
    b"transfer-encoding: gzip\r\n",
    b"transfer-encoding: chunked, identity\r\n",
    b"transfer-encoding : chunked\r\n",
    b"content-length: 5\r\n" + H2C + b"transfer-encoding: chunked\r\n",
]


@pytest.mark.parametrize("framing", AMBIGUOUS)
async def test_a_body_whose_end_is_ambiguous_ends_the_connection(framing: bytes) -> None:
    async with running(WIDE) as it:
        caller = await it.connect()
        reply = await caller.ask(b"POST / HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n0\r\n\r\n" + SMUGGLED)
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert await caller.rest() == b""
        await settled()
        assert [path for _, path, _ in it.server.requests if path == "/smuggled"] == []


@pytest.mark.parametrize("connection", [b"", b"connection: close\r\n"])
@pytest.mark.parametrize("splits", [1, 2, 7])
async def test_a_body_that_follows_an_early_answer_is_no_request(connection: bytes, splits: int) -> None:
    body = SMUGGLED * 200
    head = b"POST /unread HTTP/1.1\r\nhost: x\r\n" + connection + b"content-length: %d\r\n\r\n" % len(body)
    async with running(WIDE) as it:
        caller = await it.connect()
        assert (await caller.ask(head)).status == 200
        size = len(body) // splits + 1
        for start in range(0, len(body), size):
            await caller.send(body[start : start + size])
        if connection:
            assert await caller.rest() == b""
        else:
            assert (await caller.ask(b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n")).status == 200
        assert "/smuggled" not in [path for _, path, _ in it.server.requests]


async def test_an_expected_body_that_is_not_wanted_ends_the_connection_with_its_answer() -> None:
    head = b"POST /unread HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(SMUGGLED)
    for follows in (b"", SMUGGLED):
        async with running(WIDE) as it:
            caller = await it.connect()
            reply = await caller.ask(head, *([follows] if follows else []))
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await caller.rest() == b""
            assert [path for _, path, _ in it.server.requests] == ["/unread"]


async def test_an_expected_body_that_is_wanted_is_asked_for() -> None:
    async with running(WIDE) as it:
        caller = await it.connect()
        await caller.send(
            b"POST / HTTP/1.1\r\nhost: x\r\n" + H2C + b"expect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        )
        async with asyncio.timeout(PATIENCE_S):
            assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await caller.ask(b"body")).body["body_bytes"] == 4


async def sends_without_reading(caller: Caller, requests: bytes, most_bytes: int) -> int:
    """Bytes that the network and the server take of a caller that reads nothing, until they take no more."""
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can do both
    taken = turns_without = 0
    while taken < most_bytes and turns_without < 20:
        if caller.writer.transport.get_write_buffer_size() < len(requests):
            caller.writer.write(requests)
            taken += len(requests)
            turns_without = 0
        turns_without += 1
        await settled()
    return taken


REQUEST = b"GET /n HTTP/1.1\r\nhost: x\r\n\r\n"
MORE_THAN_A_NETWORK_HOLDS = 100_000_000


async def test_pipelined_requests_wait_in_the_network_while_one_is_served() -> None:
    async with running(WIDE) as it:
        caller = await it.connect()
        await caller.send(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (
            await sends_without_reading(caller, REQUEST * 20_000, MORE_THAN_A_NETWORK_HOLDS) < MORE_THAN_A_NETWORK_HOLDS
        )
        (connection,) = it.server.state.connections
        assert isinstance(connection, Connection)
        assert WIDE.max_pipelined <= len(connection.pipeline) < WIDE.max_pipelined + 8
        caller.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        it.server.release.set()
        for _ in range(100):
            assert (await caller.reply()).status == 200


async def test_a_caller_that_reads_no_answers_is_not_read_from() -> None:
    async with running(WIDE) as it:
        caller = await it.connect()
        assert (
            await sends_without_reading(caller, REQUEST * 20_000, MORE_THAN_A_NETWORK_HOLDS) < MORE_THAN_A_NETWORK_HOLDS
        )
        (connection,) = it.server.state.connections
        assert connection.transport.get_write_buffer_size() < 200_000
        served = it.server.served
        caller.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        for _ in range(served + 10):
            assert (await caller.reply()).status == 200
