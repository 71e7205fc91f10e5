"""Providers that must be on the internet: the address that is connected to is the one that was checked."""

import ipaddress
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from embedgate.core.errors import UpstreamFailed
from embedgate.settings import TransportSettings
from embedgate.transport import Endpoint, HttpCall
from embedgate.transport.connection_pool import ConnectionPool
from embedgate.transport.public_host import KEPT_S, PublicHost
from upstream import Upstream, running_upstream
from waiting import PATIENCE_S

CALL = HttpCall("POST", "/embeddings", b'{"model": "m", "input": "a text"}')


class Names:
    """The resolver of the machine, as it answers from now on."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []
        self.asked: list[str] = []

    def __call__(self, host: str, port: Any, *_: object, **__: object) -> list[Any]:
        self.asked.append(host)
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    resolver = Names()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as found:
        yield found


def soon() -> float:
    return time.monotonic() + PATIENCE_S


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "2130706433", "0x7f.1", "0177.0.0.1", "127.1",
     "127.0.0.1.", "%31%32%37.0.0.1", "\uff11\uff12\uff17.0.0.1", "[2002:7f00:1::]"],
)  # fmt: skip
async def test_no_spelling_of_this_machine_is_connected_to(upstream: Upstream, host: str) -> None:
    pool = ConnectionPool(Endpoint("acme", f"http://{host}:{upstream.port}", is_public_only=True), TransportSettings())
    with pytest.raises(UpstreamFailed, match="not on the internet"):
        await pool.send(CALL, soon())
    with pytest.raises(UpstreamFailed, match="not on the internet"):
        await pool.open(CALL, soon())
    await pool.close()
    assert upstream.connections == 0


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["fec0::1"], ["::7f00:1"]])
async def test_a_name_that_leads_into_this_network_is_not_connected_to(
    upstream: Upstream, names: Names, addresses: list[str]
) -> None:
    names.answers = [addresses]
    endpoint = Endpoint("acme", f"http://rebound.example:{upstream.port}", is_public_only=True)
    pool = ConnectionPool(endpoint, TransportSettings())
    with pytest.raises(UpstreamFailed, match="not on the internet"):
        await pool.send(CALL, soon())
    await pool.close()
    assert upstream.connections == 0


@pytest.mark.parametrize("host", ["provider.example", "Provider.EXAMPLE", "provider.example."])
async def test_the_checked_address_is_connected_to_and_the_name_is_kept(
    upstream: Upstream, names: Names, host: str
) -> None:
    """The name is known to nobody but us: whoever asked the resolver again would not find the provider."""
    names.answers = [["127.0.0.1"]]
    base_url = f"http://{host}:{upstream.port}/v1"
    pool = ConnectionPool(Endpoint("acme", base_url, is_public_only=True), TransportSettings())
    pool._host = PublicHost("acme", base_url, is_allowed=lambda _: True)
    for _ in range(3):
        assert (await pool.send(CALL, soon())).status == 200
    await pool.close()
    assert len(names.asked) == 1
    assert upstream.connections == 1
    assert upstream.requests[0].headers["host"] == f"{host.lower()}:{upstream.port}"


async def test_a_name_is_asked_for_again_after_a_while_and_checked_again(names: Names) -> None:
    now_s = 0.0
    names.answers = [["1.1.1.1"], ["10.0.0.1"]]
    host = PublicHost("acme", "https://provider.example/v1", clock=lambda: now_s)
    assert await host.address(soon()) == "1.1.1.1"
    now_s = KEPT_S - 1
    assert await host.address(soon()) == "1.1.1.1"
    now_s = KEPT_S
    with pytest.raises(UpstreamFailed, match=r"10\.0\.0\.1"):
        await host.address(soon())


async def test_an_address_that_fails_gives_way_to_the_next(names: Names) -> None:
    names.answers = [["1.1.1.1", "8.8.8.8"], []]
    host = PublicHost(
        "acme", "https://provider.example/v1", is_allowed=lambda each: each != ipaddress.ip_address("::1")
    )
    assert await host.address(soon()) == "1.1.1.1"
    host.failed("1.1.1.1")
    assert await host.address(soon()) == "8.8.8.8"
    host.failed("1.1.1.1")  # told late, by another call
    assert await host.address(soon()) == "8.8.8.8"


async def test_a_host_that_is_not_found_is_told(names: Names) -> None:
    names.answers = [[]]
    host = PublicHost("acme", "https://provider.example/v1")
    with pytest.raises(UpstreamFailed, match="cannot be found"):
        await host.address(soon())
