"""The driver against a real far side: deadlines, cancelled callers, broken connections, caps, where the key goes."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from embedgate.core.errors import (
    NOT_SENT,
    ConfigError,
    InternalError,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamLost,
    UpstreamNotAsked,
    UpstreamRejected,
    UpstreamTimeout,
)
from embedgate.core.models import DimRange, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers import openai
from embedgate.settings import TransportSettings
from embedgate.transport import CallTimeouts, Endpoint, HttpDriver, HttpProvider, HttpReply
from upstream import Answer, Ending, Upstream, error, running_upstream
from waiting import PATIENCE_S, until

KEY = "sk-proj-Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA"
DIM = 256
ROUTE = Route("acme", "m", DimRange(DIM, DIM, DIM), 8192, "unknown", accepts_base64=True)
LONGER_AND_LONGER_S = (0.2, 2, 20)
"""Deadlines of calls that must have been sent before: on a busy machine the first may be over too early."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@asynccontextmanager
async def driving(
    base_url: str,
    *,
    provider: HttpProvider | None = None,
    settings: TransportSettings | None = None,
    max_parallel: int = 8,
    timeouts: CallTimeouts | None = None,
) -> AsyncIterator[HttpDriver]:
    endpoint = Endpoint("acme", base_url, KEY, max_parallel=max_parallel)
    driver = HttpDriver(provider or openai.provider(), endpoint, settings or TransportSettings(), timeouts=timeouts)
    try:
        yield driver
    finally:
        await driver.aclose()


def asked(driver: HttpDriver, *texts: str, within_s: float = PATIENCE_S) -> asyncio.Task[ProviderReply]:
    batch = Batch(texts or ("a text",), expected_dim=DIM)
    return asyncio.create_task(driver.embed(batch, ROUTE, time.monotonic() + within_s))


async def test_vectors_come_back_in_order_and_the_key_is_in_its_header_only(upstream: Upstream) -> None:
    async with driving(upstream.base_url + "/") as driver:
        reply = await asked(driver, "one", "two", "three")
    assert np.array_equal(reply.vectors, np.stack([upstream.vector(text, DIM) for text in ("one", "two", "three")]))
    (seen,) = upstream.requests
    assert (seen.method, seen.path) == ("POST", "/v1/embeddings")
    assert [name for name, value in seen.headers.items() if KEY in value] == ["authorization"]
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert KEY.encode() not in seen.body


async def test_a_call_that_hangs_keeps_its_place_no_longer_than_a_call_may_take(upstream: Upstream) -> None:
    gate = threading.Event()
    upstream.script(Answer(gate=gate))
    async with driving(upstream.base_url, max_parallel=1, timeouts=CallTimeouts(attempt_s=1)) as driver:
        hanging, next_one = asked(driver, "a"), asked(driver, "b")
        with pytest.raises(UpstreamTimeout):
            await hanging
        await until(lambda: any("b" in seen.json["input"] for seen in upstream.requests))
        await asyncio.wait([next_one])
    gate.set()


async def test_a_call_ends_at_its_deadline_and_closes_its_connection(upstream: Upstream) -> None:
    gate = threading.Event()
    upstream.usually(Answer(gate=gate))
    async with driving(upstream.base_url) as driver:
        started_s = time.monotonic()
        for within_s in LONGER_AND_LONGER_S:
            with pytest.raises(UpstreamTimeout):
                await asked(driver, within_s=within_s)
            if upstream.requests:
                break
        assert time.monotonic() - started_s < PATIENCE_S
        with pytest.raises(UpstreamTimeout):
            await asked(driver, within_s=-1)
        gate.set()
        await until(lambda: upstream.open_connections == 0)
    assert len(upstream.requests) == 1


async def test_waiting_for_a_place_ends_at_the_deadline_too(upstream: Upstream) -> None:
    gate = threading.Event()
    upstream.usually(Answer(gate=gate))
    async with driving(upstream.base_url, max_parallel=1) as driver:
        first = asked(driver)
        await until(lambda: len(upstream.requests) == 1)
        with pytest.raises(UpstreamTimeout, match="max_parallel"):
            await asked(driver, within_s=0.1)
        gate.set()
        await first
        await asked(driver)


async def test_no_more_calls_are_in_flight_than_allowed(upstream: Upstream) -> None:
    gate = threading.Event()
    upstream.usually(Answer(gate=gate))
    async with driving(upstream.base_url, max_parallel=2) as driver:
        calls = [asked(driver) for _ in range(5)]
        await until(lambda: len(upstream.requests) == 2)
        await asyncio.sleep(0.05)
        assert len(upstream.requests) == 2
        gate.set()
        await asyncio.gather(*calls)
    assert upstream.connections == 2


async def test_a_cancelled_call_ends_and_frees_its_place(upstream: Upstream) -> None:
    gate = threading.Event()
    upstream.script(Answer(gate=gate))
    async with driving(upstream.base_url, max_parallel=1) as driver:
        call = asked(driver)
        await until(lambda: len(upstream.requests) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asked(driver)
        gate.set()
    assert upstream.connections == 2


async def test_a_caller_cancelled_while_waiting_for_a_place_takes_none(upstream: Upstream) -> None:
    gate = threading.Event()
    upstream.usually(Answer(gate=gate))
    async with driving(upstream.base_url, max_parallel=1) as driver:
        first = asked(driver)
        await until(lambda: len(upstream.requests) == 1)
        second = asked(driver)
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError, match=NOT_SENT):
            await second
        gate.set()
        await first
        await asked(driver)
    assert len(upstream.requests) == 2


async def test_closing_waits_for_every_call_and_then_refuses(upstream: Upstream) -> None:
    gate = threading.Event()
    upstream.usually(Answer(gate=gate))
    async with driving(upstream.base_url, max_parallel=1) as driver:
        calls = [asked(driver), asked(driver)]
        await until(lambda: len(upstream.requests) == 1)
        closing = asyncio.create_task(driver.aclose())
        await asyncio.sleep(0)
        with pytest.raises(InternalError):
            await asked(driver)
        assert not closing.done()
        gate.set()
        await closing
        assert all(call.done() for call in calls)
        await asyncio.gather(*calls)
    await until(lambda: upstream.open_connections == 0)


@pytest.mark.parametrize("ending", ["drop", "reset"])
async def test_a_call_that_was_sent_is_not_repeated_and_the_next_one_trusts_no_kept_connection(
    upstream: Upstream, ending: Ending
) -> None:
    upstream.script(Answer(), Answer(ending=ending))
    async with driving(upstream.base_url) as driver:
        await asked(driver)
        with pytest.raises(UpstreamLost, match="acme"):
            await asked(driver)
        assert [seen.connection for seen in upstream.requests] == [1, 1]
        for _ in range(3):
            await asked(driver)
        assert len({seen.connection for seen in upstream.requests[2:4]}) == 2
        assert len({seen.connection for seen in upstream.requests[3:]}) == 1


async def test_what_a_fault_of_the_connection_means_for_the_bill(upstream: Upstream) -> None:
    """A call is free only where the provider cannot have read the whole of it."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}"
    no_host = f"http://{'x' * 64}.invalid"  # too long a label for a look-up to leave this machine
    for base_url in (gone, no_host, upstream.base_url.replace("http:", "https:")):
        async with driving(base_url) as driver:
            with pytest.raises(UpstreamFailed) as caught:
                await asked(driver)
        assert not caught.value.may_be_billed, base_url
    for ending in ("drop", "reset", "half"):
        upstream.script(Answer(ending=ending))
        async with driving(upstream.base_url) as driver:
            with pytest.raises(UpstreamLost) as caught:
                await asked(driver)
        assert caught.value.may_be_billed
    upstream.usually(Answer(gate=threading.Event()))
    async with driving(upstream.base_url) as driver:
        for within_s in LONGER_AND_LONGER_S:
            with pytest.raises(UpstreamTimeout) as late:
                await asked(driver, within_s=within_s)
            if late.value.may_be_billed:
                break
        else:
            raise AssertionError("no call that was sent may be billed")
        with pytest.raises(UpstreamNotAsked) as unasked:
            await asked(driver, within_s=0)
        assert not unasked.value.may_be_billed


async def test_an_idle_connection_that_was_closed_is_not_used(upstream: Upstream) -> None:
    upstream.script(Answer(ending="close"))
    async with driving(upstream.base_url) as driver:
        await asked(driver)
        await until(lambda: upstream.open_connections == 0)
        await asked(driver)
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("status", [200, 500])
async def test_a_reset_in_the_middle_of_a_body_is_a_failure_and_not_repeated(upstream: Upstream, status: int) -> None:
    upstream.script(Answer(status, ending="half"))
    async with driving(upstream.base_url) as driver:
        with pytest.raises(UpstreamFailed):
            await asked(driver)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("is_gzipped", [False, True])
async def test_an_answer_over_the_cap_is_refused_however_small_on_the_wire(
    upstream: Upstream, is_gzipped: bool
) -> None:
    upstream.script(Answer(body=b" " * 3_000_000, is_gzipped=is_gzipped))
    async with driving(upstream.base_url, settings=TransportSettings(max_reply_bytes=1_000_000)) as driver:
        with pytest.raises(UpstreamGarbled, match="1000000 bytes"):
            await asked(driver)
        await asked(driver)


async def test_compressed_answers_are_read(upstream: Upstream) -> None:
    upstream.script(Answer(is_gzipped=True))
    async with driving(upstream.base_url) as driver:
        reply = await asked(driver, "hello")
    assert np.array_equal(reply.vectors[0], upstream.vector("hello", DIM))
    assert upstream.requests[0].headers["accept-encoding"] == "gzip"


async def test_large_answers_are_parsed_on_the_worker(upstream: Upstream) -> None:
    threads = []

    def parse(reply: HttpReply, batch: Batch, route: Route) -> ProviderReply:
        threads.append(threading.current_thread().name)
        return openai.parse(reply, batch, route)

    vendor = openai.provider()
    async with driving(upstream.base_url, provider=HttpProvider(vendor.build, parse, vendor.fault)) as driver:
        await asked(driver, "small")
        texts = [f"text {n}" for n in range(600)]
        reply = await asked(driver, *texts)
    assert threads[0] == threading.main_thread().name
    assert threads[1].startswith("parse-acme")
    assert np.array_equal(reply.vectors[599], upstream.vector("text 599", DIM))


async def test_redirects_are_not_followed(upstream: Upstream) -> None:
    upstream.script(Answer(307, b"", {"location": f"{upstream.base_url}/elsewhere/embeddings"}))
    async with driving(upstream.base_url) as driver:
        with pytest.raises(UpstreamRejected, match="base_url"):
            await asked(driver)
    assert len(upstream.requests) == 1


async def test_no_message_shows_key_input_or_vector(upstream: Upstream) -> None:
    text = "My name is Ada Lovelace and my account number is 12-34-56."
    words = f"Bad key {KEY} [0.1, -0.2, 3e-05, 0.4] for input '{text}'\u0007\n"
    upstream.script(error(401, words), error(400, f"cannot embed {text[:40]}..."), Answer(500, words.encode()))
    async with driving(upstream.base_url) as driver:
        for fault in (UpstreamDenied, UpstreamRejected, UpstreamFailed):
            with pytest.raises(fault) as caught:
                await asked(driver, text)
            message = caught.value.message
            assert "acme" in message
            assert not any(secret in message for secret in (KEY, KEY[3:12], "Ada", "0.1", "3e-05", "\u0007", "\n"))


async def test_a_wait_that_the_provider_asks_for_travels_with_the_error(upstream: Upstream) -> None:
    upstream.script(error(429, "slow down", headers={"Retry-After": "7", "x-odd": "\u00e9"}))
    async with driving(upstream.base_url) as driver:
        with pytest.raises(UpstreamBusy) as caught:
            await asked(driver)
    assert caught.value.retry_after_s == 7


async def test_an_address_where_nobody_listens_is_a_failure() -> None:
    async with driving("http://127.0.0.1:1/v1") as driver:
        with pytest.raises(UpstreamFailed, match="cannot be reached"):
            await asked(driver)


async def test_system_proxies_serve_remote_tls_hosts_only(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = f"http://127.0.0.1:{upstream.port}"
    for variable in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, proxy)
        monkeypatch.setenv(variable.lower(), proxy)
    upstream.usually(Answer(502, b""))
    for base_url in ("https://acme.invalid/v1", "https://127.0.0.1:1/v1", "https://localhost:1/v1"):
        async with driving(base_url) as driver:
            with pytest.raises(UpstreamFailed):
                await asked(driver)
    assert [(seen.method, seen.path) for seen in upstream.requests] == [("CONNECT", "acme.invalid:443")]
    assert not Endpoint("acme", "http://10.0.0.8:8000/v1").may_use_proxy


@pytest.mark.parametrize(
    ("base_url", "key"),
    [
        ("ftp://host/v1", None),
        ("host/v1", None),
        ("http://", None),
        ("http://[::1/v1", None),
        ("https://me:secret@host/v1", None),
        ("https://host/v1?key=secret", None),
        ("https://host/v1", "two\nlines-secret"),
        ("https://host/v1", ""),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused_without_showing_what_it_holds(
    base_url: str, key: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint("acme", base_url, key)
    assert "acme" in str(caught.value)
    assert "secret" not in str(caught.value)
