"""Who gets a place among the connections: a stranger with many idle ones keeps nobody out."""

import asyncio

import pytest

from embedgate.server.dialects import openai
from embedgate.server.gate import Gate, State, neighbourhood
from embedgate.settings import ServerSettings
from raw_server import Caller, Running, running, settled

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n"
PLACES = 6
FEW = ServerSettings(max_connections=PLACES)


async def connect_from(it: Running, address: str) -> Caller:
    """A connection whose other end has this address; all of 127.0.0.0/8 are of this machine."""
    caller = Caller(*await asyncio.open_connection("127.0.0.1", it.port, local_addr=(address, 0)))
    it.callers.append(caller)
    await settled()
    return caller


async def test_idle_connections_of_the_address_with_the_most_make_room_for_others() -> None:
    async with running(FEW) as it:
        stranger = [await connect_from(it, "127.0.0.9") for _ in range(PLACES)]
        for number in (2, 3):
            assert (await (await connect_from(it, f"127.0.0.{number}")).ask(GET)).status == 200
        assert [await caller.rest() for caller in stranger[:2]] == [b"", b""]  # those that were idle the longest
        assert [await caller.stays() for caller in stranger[2:]] == [True] * (PLACES - 2)
        assert it.server.gate.admitted == PLACES


async def test_half_a_head_is_idle_and_a_request_that_is_served_is_not() -> None:
    async with running(FEW) as it:
        stranger = [await connect_from(it, "127.0.0.9") for _ in range(PLACES)]
        for caller in stranger[:-1]:
            await caller.send(HELD)
        await stranger[-1].send(HELD[:-2])
        assert (await (await connect_from(it, "127.0.0.2")).ask(GET)).status == 200
        assert await stranger[-1].rest() == b""
        assert (await (await connect_from(it, "127.0.0.3")).ask(GET)).status == 503
        it.server.release.set()
        assert [(await caller.reply()).status for caller in stranger[:-1]] == [200] * (PLACES - 1)


async def test_a_body_that_does_not_come_keeps_nobody_out() -> None:
    """Without a key, too, a body may be waited for: that of a login."""
    async with running(FEW) as it:
        stranger = [await connect_from(it, "127.0.0.9") for _ in range(PLACES)]
        for caller in stranger:
            await caller.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        for number in (2, 3):
            assert (await (await connect_from(it, f"127.0.0.{number}")).ask(GET)).status == 200
        assert [await caller.rest() for caller in stranger[:2]] == [b"", b""]
        assert [await caller.stays() for caller in stranger[2:]] == [True] * (PLACES - 2)


async def test_an_address_takes_no_place_from_one_that_has_hardly_more() -> None:
    async with running(FEW) as it:
        for address in ("127.0.0.2", "127.0.0.3"):
            for _ in range(PLACES // 2):
                await (await connect_from(it, address)).ask(GET)
        assert (await (await connect_from(it, "127.0.0.2")).ask(GET)).status == 503
        assert (await (await connect_from(it, "127.0.0.4")).ask(GET)).status == 200


async def test_an_address_has_as_many_as_it_may_and_is_told_which_setting_says_so() -> None:
    async with running(ServerSettings(max_connections=PLACES, max_connections_per_address=2)) as it:
        within = [await connect_from(it, "127.0.0.9") for _ in range(2)]
        reply = await (await connect_from(it, "127.0.0.9")).ask(GET)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "server.max_connections_per_address" in reply.body["error"]["message"]
        assert (await (await connect_from(it, "127.0.0.2")).ask(GET)).status == 200
        await it.leave(within[0])
        assert (await (await connect_from(it, "127.0.0.9")).ask(GET)).status == 200


async def test_a_trusted_proxy_has_no_share_and_makes_no_room() -> None:
    bounds = ServerSettings(max_connections=PLACES, max_connections_per_address=2, trusted_proxies=("127.0.0.8/31",))
    async with running(bounds) as it:
        proxy = [await connect_from(it, "127.0.0.9") for _ in range(PLACES)]
        assert (await (await connect_from(it, "127.0.0.2")).ask(GET)).status == 503
        assert [(await caller.ask(GET)).status for caller in proxy] == [200] * PLACES


@pytest.mark.parametrize(
    ("peer", "counts_as"),
    [
        ("198.51.100.9", "198.51.100.9"),
        ("::ffff:198.51.100.9", "198.51.100.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_network_counts_as_one_address(peer: str, counts_as: str) -> None:
    assert neighbourhood(peer) == counts_as


class _Idle:
    """A connection that does nothing."""

    address = ""
    state: State = "idle"

    def close_if_late(self, now_s: float) -> None: ...

    def give_way(self) -> None: ...


@pytest.mark.parametrize("peer", ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7"])
def test_a_trusted_proxy_is_known_whatever_socket_it_comes_through(peer: str) -> None:
    """A socket for both families reports IPv4 addresses in the form of IPv6."""
    proxies = ("192.0.2.0/24", "2001:db8::/32")
    gate = Gate(ServerSettings(max_connections_per_address=2, trusted_proxies=proxies), openai)
    assert [gate.enter(_Idle(), peer) for _ in range(5)] == [None] * 5
