"""Connections over real sockets: heads too large or too slow, too many callers, and what nobody reads or ends."""

import asyncio
import itertools
import logging
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedgate.server.dialects import openai
from embedgate.server.gate import MAX_REFUSING, Gate
from raw_server import BOUNDS, KEEP_ALIVE_S, LARGE_ANSWER_BYTES, MAX_HEAD_BYTES, Now, Recorder, Server, running, settled
from waiting import until

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"


LARGE = {
    "one_field": b"x: " + b"y" * 3_000 + b"\r\n",
    "many_fields": b"".join(b"x-%d: y\r\n" % number for number in range(300)),
    "one_name": b"x" * 3_000 + b": y\r\n",
}


@pytest.mark.parametrize("fields", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("piece_bytes", [100, 1_000, 100_000])
async def test_a_head_that_is_too_large_is_refused_and_the_connection_closed(fields: bytes, piece_bytes: int) -> None:
    request = HEAD + fields + b"\r\n"
    async with running() as it:
        caller = await it.connect()
        pieces = [request[start : start + piece_bytes] for start in range(0, len(request), piece_bytes)]
        reply = await caller.ask(*pieces[: 1 + (MAX_HEAD_BYTES // piece_bytes)], *pieces[-1:])
        assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request")
        assert str(MAX_HEAD_BYTES) in reply.body["error"]["message"]
        assert "server.max_head_bytes" in reply.body["error"]["message"]
        assert reply.headers["connection"] == "close"
        assert reply.headers["x-request-id"].startswith("req_")
        assert await caller.rest() == b""
        assert it.server.served == 0


async def test_an_address_that_is_too_long_is_refused() -> None:
    async with running() as it:
        caller = await it.connect()
        reply = await caller.ask(b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert reply.status == 400


async def test_a_head_that_never_ends_is_refused_before_it_does() -> None:
    async with running() as it:
        caller = await it.connect()
        reply = await caller.ask(HEAD + b"x: ", *[b"y" * 500] * 5)
        assert reply.status == 400


async def test_a_large_body_is_no_large_head() -> None:
    body = b"z" * 100 * MAX_HEAD_BYTES
    async with running() as it:
        caller = await it.connect()
        request = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
        for pieces in ([request], [request[:500], request[500:]], [request, GET]):
            reply = await caller.ask(*pieces)
            assert (reply.status, reply.body["body_bytes"]) == (200, len(body))
        assert (await caller.reply()).status == 200


async def test_many_small_chunks_are_no_large_head() -> None:
    async with running() as it:
        caller = await it.connect()
        chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
        reply = await caller.ask(chunked, *[b"2\r\nab\r\n" * 200] * 20, b"0\r\n\r\n")
        assert (reply.status, reply.body["body_bytes"]) == (200, 8_000)


@pytest.mark.parametrize("piece", [b"1;" + b"x" * 1_000 + b"\r\na\r\n", b"0\r\n" + b"x: y\r\n" * 200])
async def test_extensions_and_trailers_count_like_headers(piece: bytes) -> None:
    async with running() as it:
        caller = await it.connect()
        first = HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n"
        await caller.send(first)
        reply = await caller.ask(*([piece] * 3 if piece.startswith(b"1") else [piece, b"x: y\r\n" * 400]))
        assert reply.status == 400
        assert await caller.rest() == b""


async def test_trailers_are_not_taken_for_headers() -> None:
    async with running() as it:
        caller = await it.connect()
        request = HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-api-key: y\r\nx-other: z\r\n\r\n"
        assert (await caller.ask(request)).body["fields"] == ["host", "transfer-encoding"]
        assert (await caller.ask(GET)).body["fields"] == ["host"]


async def test_trailers_are_kept_nowhere_however_many_chunks_came_before() -> None:
    """Small chunks are more framing than body, and must not be a credit for trailers, which would be kept."""
    now = Now()
    server = Server(Gate(BOUNDS, openai, now), now)
    connection = server.connection()
    connection.connection_made(Recorder())
    connection.data_received(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10_000 + b"0\r\n")
    for _ in range(20):
        connection.data_received(b"x: y\r\n" * 1_000)
    assert len(connection.headers) == 2
    connection.data_received(b"\r\n")
    await until(lambda: bool(server.requests))
    assert server.requests == [("POST", "/", b"a" * 10_000)]
    connection.connection_lost(None)


async def test_a_slow_head_is_cut_while_a_request_beside_it_is_answered() -> None:
    async with running() as it:
        slow, quick = await it.connect(), await it.connect()
        await slow.send(b"GET / HTTP/1.1\r\n")
        it.server.pass_time(9)
        await slow.send(b"x: y\r\n")
        assert (await quick.ask(GET)).status == 200
        assert await slow.stays()
        it.server.pass_time(2)
        assert await slow.rest() == b""
        assert (await quick.ask(GET)).status == 200


async def test_a_new_connection_that_sends_nothing_is_closed_and_one_that_was_used_may_wait() -> None:
    async with running() as it:
        silent, used = await it.connect(), await it.connect()
        await used.ask(GET)
        it.server.pass_time(11)
        assert await silent.rest() == b""
        it.server.pass_time(60)
        assert (await used.ask(GET)).status == 200


async def test_an_idle_connection_is_closed_after_its_keep_alive_and_counts_as_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "embedgate")
    async with running() as it:
        caller = await it.connect()
        for _ in range(3):  # each request begins the wait anew
            await caller.ask(GET)
            it.server.pass_time(KEEP_ALIVE_S - 1)
        assert (await caller.ask(GET)).status == 200
        it.server.pass_time(KEEP_ALIVE_S + 1)
        assert await caller.rest() == b""
        it.server.pass_time(1)
    assert caplog.records == []


async def test_empty_lines_do_not_keep_a_connection() -> None:
    async with running() as it:
        caller = await it.connect()
        await caller.ask(GET)
        for _ in range(3):
            await caller.send(b"\r\n")
            it.server.pass_time(4)
        assert await caller.rest() == b""


async def test_a_request_that_is_served_has_no_hurry_nor_has_the_one_behind_it() -> None:
    async with running() as it:
        caller = await it.connect()
        await caller.send(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n" + GET[:10])
        it.server.pass_time(300)
        it.server.release.set()
        assert (await caller.reply()).status == 200
        it.server.pass_time(9)
        assert (await caller.ask(GET[10:])).status == 200
        await caller.send(GET[:10])
        it.server.pass_time(11)
        assert await caller.rest() == b""


async def test_a_body_that_comes_after_its_answer_is_read_but_not_for_ever() -> None:
    async with running() as it:
        caller = await it.connect()
        reply = await caller.ask(b"POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        assert reply.status == 200
        for _ in range(5):
            await caller.send(b"x" * 10)
            it.server.pass_time(11)
        assert await caller.stays()
        it.server.pass_time(11)
        assert await caller.rest() == b""


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    async with running() as it:
        caller = await it.connect()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can do both
        await caller.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        it.server.pass_time(29)
        await settled()
        assert len(it.server.state.connections) == 1
        it.server.pass_time(2)
        await until(lambda: not it.server.state.connections and not it.server.state.tasks)


async def test_an_answer_that_is_read_slowly_arrives() -> None:
    async with running() as it:
        caller = await it.connect()
        await caller.send(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        size = 0
        while chunk := await caller.reader.read(1_000_000):
            size += len(chunk)
            await asyncio.sleep(0)
            it.server.pass_time(0.5)
        assert size > LARGE_ANSWER_BYTES


async def test_a_connection_too_many_is_told_so_until_there_is_room() -> None:
    async with running() as it:
        within = [await it.connect() for _ in range(BOUNDS.max_connections)]
        extra = await it.connect()
        reply = await extra.ask(GET)
        assert (reply.status, reply.body["error"]["code"]) == (503, "overloaded")
        assert "server.max_connections" in reply.body["error"]["message"]
        assert (reply.headers["retry-after"], reply.headers["connection"]) == ("1", "close")
        assert await extra.rest() == b""
        assert [(await caller.ask(GET)).status for caller in within] == [200] * BOUNDS.max_connections
        await it.leave(within[0])
        assert (await (await it.connect()).ask(GET)).status == 200


async def test_connections_too_many_that_send_nothing_do_not_stay() -> None:
    async with running() as it:
        for _ in range(BOUNDS.max_connections):
            await (await it.connect()).ask(GET)
        waiting = [await it.connect() for _ in range(MAX_REFUSING)]
        beyond = await it.connect()
        assert await beyond.rest() == b""
        assert await waiting[0].stays()
        it.server.pass_time(1)
        assert [await caller.rest() for caller in waiting] == [b""] * MAX_REFUSING
        assert it.server.gate.admitted == BOUNDS.max_connections


@pytest.mark.parametrize("rubbish", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET http://[ HTTP/1.1\r\n\r\n"])
async def test_what_is_no_http_is_answered_as_every_other_mistake(rubbish: bytes) -> None:
    async with running() as it:
        caller = await it.connect()
        reply = await caller.ask(rubbish)
        assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request")
        assert await caller.rest() == b""


async def test_a_mistake_in_a_body_is_answered_and_its_request_ends() -> None:
    async with running() as it:
        caller = await it.connect()
        assert (await caller.ask(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"no length\r\n")).status == 400
        await settled()
        assert (it.server.served, it.server.gone) == (0, 1)


async def test_rubbish_behind_a_request_is_not_its_answer() -> None:
    async with running() as it:
        caller = await it.connect()
        await caller.send(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        await caller.send(b"\x00\x01\r\n\r\n")
        assert await caller.rest() == b""


async def test_what_was_turned_away_is_one_line_per_sweep(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "embedgate"):
        async with running() as it:
            for _ in range(3):
                await (await it.connect()).ask(b"GET\r\n\r\n")
            for _ in range(BOUNDS.max_connections + 2):
                await it.connect()
            it.server.pass_time(11)
            it.server.pass_time(1)
            await settled()
    lines = [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records]
    assert lines == [
        ("connections_refused", {"connections": 2, "max_connections": 3}),
        ("connections_cut", {"malformed": 3, "slow": 3}),
    ]


@settings(max_examples=150, deadline=None)
@given(
    fields=st.lists(st.integers(1, 900), max_size=6),
    body_bytes=st.integers(0, 6_000),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    n_before=st.integers(0, 2),
)
def test_only_the_size_of_a_head_decides_however_it_is_cut(
    fields: list[int], body_bytes: int, cuts: list[float], n_before: int
) -> None:
    head = HEAD + b"".join(b"x: " + b"y" * size + b"\r\n" for size in fields) + b"content-length: %d\r\n" % body_bytes
    size = len(head) - len(b"POST  HTTP/1.1\r\n")
    before = HEAD + b"content-length: 3000\r\n\r\n" + b"z" * 3_000
    sent = before * n_before + head + b"\r\n" + b"z" * body_bytes
    places = sorted({0, len(sent), *(math.floor(cut * len(sent)) for cut in cuts)})

    async def statuses() -> list[Any]:
        server = Server(Gate(BOUNDS, openai), Now())
        connection, transport = server.connection(), Recorder()
        connection.connection_made(transport)
        for start, end in itertools.pairwise(places):
            if not transport.is_closing():
                connection.data_received(sent[start:end])
            for _ in range(10):  # what came is served before more comes
                await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0)
        return re.findall(rb"HTTP/1.1 (\d+) ", transport.written)

    # Answers of requests still to be served are given up where a head behind them in the same piece is too large.
    found = asyncio.run(statuses())
    if size <= MAX_HEAD_BYTES:
        assert found == [b"200"] * (n_before + 1)
    else:
        assert found in (
            [b"200"] * n_served + refused for n_served in range(n_before + 1) for refused in ([], [b"400"])
        )
        assert found.count(b"200") <= n_before


async def test_a_request_that_was_on_its_way_when_the_server_ends_is_answered() -> None:
    async with running() as it:
        used, new = await it.connect(), await it.connect()
        assert (await used.ask(GET)).headers.get("connection") is None
        for caller in (used, new):
            caller.writer.write(GET)  # sent, and not read yet: the server runs on the same loop
        for connection in tuple(it.server.state.connections):
            connection.shutdown()
        for caller in (used, new):
            reply = await caller.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await caller.rest() == b""


async def test_a_server_that_ends_waits_for_nobody_who_asks_nothing() -> None:
    async with running() as it:
        used, new = await it.connect(), await it.connect()
        await used.ask(GET)
        for connection in tuple(it.server.state.connections):
            connection.shutdown()
        assert [await caller.rest() for caller in (used, new)] == [b"", b""]
