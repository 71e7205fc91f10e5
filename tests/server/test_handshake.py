"""TLS handshakes over real sockets: each counts as a connection from the start, and has no longer than a head."""

import asyncio
import ssl
from collections.abc import Iterator

import pytest

from certificates import write_certificate
from embedgate.settings import ServerSettings
from raw_server import Caller, Running, running, settled
from waiting import until

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PLACES = 4
FEW = ServerSettings(max_connections=PLACES, head_timeout_s=10)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ssl.SSLContext, ssl.SSLContext]]:
    """Those of the server and of its callers."""
    cert_file, key_file = write_certificate(tmp_path_factory.mktemp("tls"), "localhost")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert_file, key_file)
    yield server, ssl.create_default_context(cafile=str(cert_file))


async def secured(it: Running, context: ssl.SSLContext, address: str = "127.0.0.1") -> Caller:
    """A caller whose handshake is complete."""
    caller = Caller(
        *await asyncio.open_connection(
            "127.0.0.1", it.port, ssl=context, server_hostname="localhost", local_addr=(address, 0)
        )
    )
    it.callers.append(caller)
    return caller


async def silent(it: Running, address: str) -> Caller:
    """A caller who sends nothing."""
    caller = Caller(*await asyncio.open_connection("127.0.0.1", it.port, local_addr=(address, 0)))
    it.callers.append(caller)
    await settled()
    return caller


async def test_requests_are_served_after_a_handshake(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with running(FEW, contexts[0]) as it:
        for _ in range(2):
            caller = await secured(it, contexts[1])
            for _ in range(3):
                reply = await caller.ask(
                    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000
                )
                assert (reply.status, reply.body["body_bytes"], reply.body["scheme"]) == (200, 300_000, "https")
        assert it.server.gate.admitted == 2


async def test_handshakes_that_never_begin_count_and_are_closed(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with running(FEW, contexts[0]) as it:
        callers = [await silent(it, "127.0.0.9") for _ in range(PLACES)]
        assert it.server.gate.admitted == PLACES
        assert await (await silent(it, "127.0.0.9")).rest() == b""  # one too many
        it.server.pass_time(9)
        assert [await caller.stays() for caller in callers] == [True] * PLACES
        it.server.pass_time(2)
        assert [await caller.rest() for caller in callers] == [b""] * PLACES
        await until(lambda: it.server.gate.admitted == 0)


async def test_handshakes_that_never_begin_make_room_for_others(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with running(FEW, contexts[0]) as it:
        stranger = [await silent(it, "127.0.0.9") for _ in range(PLACES)]
        caller = await secured(it, contexts[1], "127.0.0.2")
        assert (await caller.ask(GET)).status == 200
        assert await stranger[0].rest() == b""
        assert await stranger[-1].stays()


@pytest.mark.parametrize("sent", [GET, b"P", b"GET / HTTP/1.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
async def test_plain_http_is_told_that_the_port_speaks_https(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], sent: bytes
) -> None:
    async with running(FEW, contexts[0]) as it:
        caller = await silent(it, "127.0.0.9")
        reply = await caller.ask(sent)
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert "https://" in reply.body["error"]["message"]
        assert await caller.rest() == b""
        await until(lambda: it.server.gate.admitted == 0)


async def test_rubbish_in_place_of_a_handshake_ends_the_connection(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with running(FEW, contexts[0]) as it:
        for number in range(2 * PLACES):
            caller = await silent(it, "127.0.0.9")
            await caller.send((b"\x16\x03\x01\x00\x05rubbish", b"\x00" * 50, b"\x80\x01", GET)[number % 4])
            await caller.rest()
        await until(lambda: it.server.gate.admitted == 0)
        assert (await (await secured(it, contexts[1])).ask(GET)).status == 200
