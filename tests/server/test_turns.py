"""Fair turns: a few pieces of work begin in one turn of the loop, and no address waits for all the work of another."""

import asyncio
from functools import partial

import pytest

from embedgate.server.connection import Connection
from embedgate.server.dialects import openai
from embedgate.server.gate import Gate
from embedgate.server.memory import MemoryBudget
from embedgate.server.parts import HEADS, LINES, Received
from embedgate.server.turns import FEWEST, Turns
from embedgate.settings import ServerSettings
from raw_server import Now, Recorder, Server
from waiting import until

STRANGERS = 200
MANY = ServerSettings(max_connections=2 * STRANGERS)
GET = b"GET /n HTTP/1.1\r\nhost: x\r\n\r\n"


class Used:
    """Processor time that passes by so much with each turn."""

    def __init__(self) -> None:
        self.s = 0.0
        self.turn_s = 0.003

    def __call__(self) -> float:
        self.s += self.turn_s
        return self.s


async def test_as_many_begin_in_a_turn_as_there_is_room_and_the_rest_in_the_next() -> None:
    turns, begun = Turns(Now(), Used()), list[int]()
    for number in range(10):
        turns.do("a", partial(begun.append, number))
    assert (begun, turns.waiting) == (list(range(FEWEST)), 10 - FEWEST)
    await asyncio.sleep(0)
    assert begun == list(range(2 * FEWEST))
    await asyncio.sleep(0)
    assert (begun, turns.waiting) == (list(range(10)), 0)
    await asyncio.sleep(0)
    assert turns.begins()


async def test_each_address_has_its_turn() -> None:
    turns, begun = Turns(Now(), Used()), list[str]()
    for address in "aaaaaaaaaaaaaaaabbc":
        turns.do(address, partial(begun.append, address))
    await until(lambda: turns.waiting == 0)
    assert "".join(begun) == "aaaa" + "abcabaaaaaaaaaa"


async def test_what_comes_later_does_not_pass_what_waits() -> None:
    turns, begun = Turns(Now(), Used()), list[str]()
    for number in range(FEWEST + 1):
        turns.do("a", partial(begun.append, str(number)))
    assert not turns.begins()
    turns.do("b", partial(begun.append, "later"))
    await until(lambda: turns.waiting == 0)
    assert begun == [*map(str, range(FEWEST + 1)), "later"]


@pytest.mark.parametrize(("turn_s", "most"), [(0.0001, 64), (0.003, FEWEST), (0.5, FEWEST)])
async def test_short_turns_begin_more_and_long_ones_fewer(turn_s: float, most: int) -> None:
    used = Used()
    turns, begun = Turns(Now(), used), list[int]()
    used.turn_s = turn_s
    for number in range(1_000):
        turns.do("a", partial(begun.append, number))
    each, before = [], 0
    while turns.waiting:
        await asyncio.sleep(0)
        each.append(len(begun) - before)
        before = len(begun)
    assert max(each[2:]) == most


async def test_it_says_how_long_the_first_has_waited() -> None:
    now = Now()
    turns = Turns(now, Used())
    assert turns.wait_s == 0
    now.s += 3_600  # without any work, which nobody has waited for
    for address in "aaaaaab":
        turns.do(address, lambda: None)
    now.s += 7
    assert turns.wait_s == 7
    await until(lambda: turns.waiting == 0)
    now.s += 60  # in which nothing is asked
    turns.wait("a", lambda: None)
    assert turns.wait_s == 0


async def test_what_nobody_wants_any_more_takes_nobodys_turn() -> None:
    turns, begun = Turns(Now(), Used()), list[int]()
    for number in range(FEWEST):
        turns.wait("b", partial(begun.append, number))
        for _ in range(200):
            turns.wait("a", lambda: False)
    await asyncio.sleep(0)
    assert (begun, turns.waiting) == (list(range(FEWEST)), 0)


def stranger(server: Server, address: str) -> tuple[Connection, Recorder]:
    """A connection from that address."""
    connection, transport = server.connection(), Recorder()
    transport._extra["peername"] = (address, 2)  # type: ignore[attr-defined]  # of asyncio's transports
    connection.connection_made(transport)
    return connection, transport


async def test_a_request_waits_a_few_turns_however_many_connections_of_another_address_pipeline() -> None:
    server = Server(Gate(MANY, openai), Now())
    strangers = [stranger(server, "127.0.0.9")[0] for _ in range(STRANGERS)]
    for each in strangers:
        each.data_received(GET * 2_000)
    for _ in range(20):
        await asyncio.sleep(0)
    served = server.served
    connection, transport = stranger(server, "127.0.0.2")
    connection.data_received(GET)
    turns = 0
    while not transport.written:
        await asyncio.sleep(0)
        turns += 1
    assert turns <= 4
    assert server.served - served <= 4 * 64
    for each in (*strangers, connection):
        each.connection_lost(None)


def get_for(caller: str) -> bytes:
    """A request that a proxy passes on for a caller."""
    return GET.replace(b"host: x\r\n", b"host: x\r\nx-forwarded-for: 10.0.0.7, %s\r\n" % caller.encode())


async def test_callers_behind_a_trusted_proxy_have_turns_of_their_own() -> None:
    bounds = ServerSettings(max_connections=2 * STRANGERS, trusted_proxies=("10.0.0.0/8",))
    server = Server(Gate(bounds, openai), Now())
    strangers = [stranger(server, "10.0.0.1")[0] for _ in range(STRANGERS)]
    connection, transport = stranger(server, "10.0.0.1")
    for each in strangers:
        each.data_received(get_for("203.0.113.9"))
    connection.data_received(get_for("203.0.113.10"))
    while not transport.written:
        await asyncio.sleep(0)
    assert server.served < STRANGERS // 2
    for each in (*strangers, connection):
        each.connection_lost(None)


async def test_who_is_no_trusted_proxy_gets_no_turns_for_others() -> None:
    server = Server(Gate(MANY, openai), Now())
    strangers = [stranger(server, "127.0.0.9")[0] for _ in range(STRANGERS)]
    connection, transport = stranger(server, "127.0.0.2")
    for number, each in enumerate(strangers):
        each.data_received(get_for(f"203.0.113.{number}"))
    connection.data_received(GET)
    while not transport.written:
        await asyncio.sleep(0)
    assert server.served < STRANGERS // 2
    for each in (*strangers, connection):
        each.connection_lost(None)


async def test_who_leaves_before_its_turn_is_not_served() -> None:
    server = Server(Gate(MANY, openai), Now())
    callers = [stranger(server, "127.0.0.9")[0] for _ in range(STRANGERS)]
    for each in callers:
        each.data_received(GET)
    for each in callers:
        each.connection_lost(None)
    await until(lambda: server.gate.turns.waiting == 0 and not server.state.tasks)
    assert server.served < FEWEST * 2


async def test_what_waits_to_be_parsed_counts_in_the_memory_budget_and_is_refused_beyond_it() -> None:
    ahead = GET * 2_000
    memory = MemoryBudget(10 * len(ahead), 1.0)
    server = Server(Gate(MANY, openai, memory=memory), Now())
    callers = [stranger(server, "127.0.0.9") for _ in range(20)]
    for connection, _ in callers:
        connection.data_received(ahead)
    assert memory.limit_bytes * 0.7 < memory.used_bytes <= memory.limit_bytes
    refused = [transport for _, transport in callers if b"HTTP/1.1 503 " in transport.written]
    assert 10 <= len(refused) <= 13
    for connection, _ in callers:
        connection.connection_lost(None)
    assert memory.used_bytes == 0


LINE = b"x-a: b\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        GET * 300,
        b"GET / HTTP/1.1\r\n" + LINE * 3_000 + b"\r\n" + GET,
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 5_000 + b"0\r\n\r\n",
        b"\r\n" * 5_000 + GET,
        b"no line at all",
    ],
)
def test_a_part_has_few_heads_and_lines_and_all_parts_are_the_whole(sent: bytes) -> None:
    received, parts = Received(), list[bytes]()
    received.add(sent)
    while received.data:
        parts.append(received.take(0))
    assert b"".join(parts) == sent
    assert max(part.count(b"\n") for part in parts) <= LINES
    assert max(part.count(b"\n\r\n") for part in parts) <= HEADS


def test_lines_in_a_body_of_known_length_cut_nothing() -> None:
    body = b"[\n" + b"1,\n" * 10_000 + b"1]"
    received = Received()
    received.add(b"left" + body + GET)
    assert received.take(4 + len(body)) == b"left" + body
    assert received.take(0) == GET
    assert received.data == b""


def test_what_comes_meanwhile_is_put_behind_what_waits() -> None:
    received = Received()
    received.add(GET * 10)
    first = received.take(0)
    received.add(b"more")
    rest = b""
    while received.data:
        rest += received.take(0)
    assert first + rest == GET * 10 + b"more"
