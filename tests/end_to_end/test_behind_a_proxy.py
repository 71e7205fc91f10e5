"""Policies on addresses behind a trusted proxy: outsiders stay outside, however the proxy spells where they are."""

from collections.abc import Iterator

import pytest

from program import FAKE_ONLY
from running import RunningGateway, gateway
from wire import call, raw_socket, read_status

CONFIG = f"""
    {FAKE_ONLY}
    [server]
    trusted_proxies = ["127.0.0.1"]
"""


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that serves insiders only, the proxy's own machine among them."""
    with gateway(tmp_path_factory.mktemp("proxy"), CONFIG) as running:
        text = (
            '@id("insiders") forbid (principal, action, resource) unless { '
            'context.ip_address.isInRange(ip("127.0.0.0/8")) || context.ip_address.isInRange(ip("192.0.2.0/24")) };'
        )
        body = {"text": text}
        assert call(running.url, "/api/policies", body, {"x-api-key": running.admin_key}).status == 201
        yield running


def status_for(running: RunningGateway, *lines: str) -> int:
    """The status of an embedding whose head has these lines."""
    body = b'{"model":"fake/deterministic","input":"a"}'
    head = [
        "POST /v1/embeddings HTTP/1.1",
        "host: x",
        f"authorization: Bearer {running.key}",
        f"content-length: {len(body)}",
        *lines,
    ]
    with raw_socket(running.url) as connection:
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        return read_status(connection)


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Forwarded-For: 198.51.100.9:51234"],
        ["X-Forwarded-For: [2001:db8::9]:51234"],
        ["X-Forwarded-For: unknown"],
        ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 198.51.100.9"],
        ["X-Forwarded-For: 198.51.100.9", "X-Forwarded-For: 127.0.0.1"],
        ['Forwarded: for="[2001:db8::9]:4711"'],
        ["Forwarded: for=_hidden"],
        ["Forwarded: for=192.0.2.1", "X-Forwarded-For: 198.51.100.9"],
    ],
)
def test_an_outsider_is_refused_in_every_spelling(inside: RunningGateway, lines: list[str]) -> None:
    assert status_for(inside, *lines) == 403


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Forwarded-For: 192.0.2.1:51234"],
        ["X-Forwarded-For: 198.51.100.9", "X-Forwarded-For: 192.0.2.1, 127.0.0.1"],
        ['Forwarded: for="192.0.2.1:4711";proto=https'],
        ["X-Forwarded-For: 127.0.0.1"],
        [],
    ],
)
def test_an_insider_is_served_in_every_spelling(inside: RunningGateway, lines: list[str]) -> None:
    assert status_for(inside, *lines) == 200
