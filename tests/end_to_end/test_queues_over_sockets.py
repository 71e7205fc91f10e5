"""What waits for a provider: bounded, with a time for every call, and gone with those who asked for it."""

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from administrator import Administrator
from chat_upstream import Chat, running_chat_upstream
from crowd import LOCAL_OFF, MODEL, Caller, ask, exchange, metric
from embedgate.govern.keys import Key
from running import RunningGateway, gateway
from upstream import Answer, Upstream, error
from waiting import PATIENCE_S, until
from wire import Reply, call

MAX_QUEUED = 3
MAX_RETRY_AFTER_S = 77
CATALOG = f"""
    [[model]]
    id = "{MODEL}"
    [[model.route]]
    provider = "openai"
    max_inputs = 1
"""
"""Every text is a call of its own."""
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "How do you do ?"}]}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: Upstream) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("queues")
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG, encoding="utf-8")
    settings = f"""{LOCAL_OFF}
        [catalog]
        file = "{catalog}"
        [providers.openai]
        base_url = "{far_side.base_url}"
        max_parallel = 1
        [upstream]
        max_queued_calls = {MAX_QUEUED}
        max_retries = 0
        max_retry_after_s = {MAX_RETRY_AFTER_S}
        circuit_patience_s = 3600
        circuit_share = 1
    """
    with gateway(folder, settings, {"OPENAI_API_KEY": "sk-upstream"}) as started:
        yield started


@pytest.fixture(autouse=True)
def host(far_side: Upstream) -> Upstream:
    far_side.reset()
    return far_side


def new_text() -> str:
    return f"text {next(_numbers)}"


def sent(host: Upstream) -> list[str]:
    return [seen.json["input"][0] for seen in host.requests]


class Holding:
    """A provider with one place, which is taken until `gate` is set; further callers wait in the queue."""

    def __init__(self, running: RunningGateway, host: Upstream, secret: str) -> None:
        self.gate = threading.Event()
        self.running = running
        self.host = host
        self.secret = secret
        self.first = new_text()
        host.script(Answer(gate=self.gate))

    async def begin(self) -> "asyncio.Task[Reply | None]":
        """The request that takes the place, once the provider has it."""
        taking = self.come(self.first)
        await until(lambda: bool(self.host.requests))
        return taking

    def come(self, text: str, leaves: asyncio.Event | None = None) -> "asyncio.Task[Reply | None]":
        return asyncio.create_task(exchange(self.running.url, Caller(text, self.secret, leaves=leaves)))

    async def waiting(self, n: int) -> None:
        await self.until(lambda: metric(self.running, "embedgate_provider_waiting", provider="openai") == n)

    async def running_now(self, n: int) -> None:
        await self.until(lambda: metric(self.running, "embedgate_requests_running") == n)

    @staticmethod
    async def until(is_so: Callable[[], bool]) -> None:
        """As `waiting.until`, for conditions that ask the gateway."""
        async with asyncio.timeout(PATIENCE_S):
            while not await asyncio.to_thread(is_so):
                await asyncio.sleep(0.01)


async def test_who_leaves_the_queue_is_not_sent_and_pays_nothing(
    running: RunningGateway, admin: Administrator, host: Upstream, account: tuple[Key, str]
) -> None:
    held = Holding(running, host, account[1])
    first = await held.begin()
    gone, stays, leave = new_text(), new_text(), asyncio.Event()
    leaving = held.come(gone, leave)
    await held.waiting(1)
    staying = held.come(stays)
    await held.waiting(2)
    leave.set()
    assert await leaving is None
    await held.waiting(1)
    await held.running_now(2)
    held.gate.set()
    for reply in (await first, await staying):
        assert reply is not None
        assert reply.status == 200
    assert sent(host) == [held.first, stays]
    assert [entry.outcome for entry in admin.entries(account[0])] == ["ok", "ok"]
    assert sum(entry.tokens for entry in admin.entries(account[0])) == sum(host.billed)


async def test_a_text_that_two_wait_for_is_sent_once_for_the_one_who_stays(
    running: RunningGateway, admin: Administrator, host: Upstream, account: tuple[Key, str]
) -> None:
    for who_leaves in (0, 1):
        host.reset()
        held = Holding(running, host, account[1])
        first = await held.begin()
        text, leave = new_text(), asyncio.Event()
        both = []
        for number in (0, 1):
            both.append(held.come(text, leave if number == who_leaves else None))
            await held.running_now(2 + number)
        leave.set()
        assert await both[who_leaves] is None
        held.gate.set()
        await first
        reply = await both[1 - who_leaves]
        assert reply is not None
        assert reply.status == 200
        assert sent(host) == [held.first, text]
        await held.running_now(0)


async def test_a_large_request_leaves_with_what_is_queued_of_it_and_pays_for_what_was_sent(
    running: RunningGateway, admin: Administrator, host: Upstream, account: tuple[Key, str]
) -> None:
    gate = threading.Event()
    host.script(Answer(gate=gate))
    body = json.dumps({"model": MODEL, "input": [new_text() for _ in range(1 + MAX_QUEUED)]})
    await leaving(running, account[1], body, lambda: bool(host.requests))
    await Holding.until(lambda: metric(running, "embedgate_provider_waiting", provider="openai") == 0)
    gate.set()
    await Holding.until(lambda: bool(admin.entries(account[0])))
    (entry,) = admin.entries(account[0])
    assert (entry.outcome, entry.tokens) == ("cancelled", sum(host.billed))
    assert len(host.requests) == 1


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_chat_leaves_the_queue_with_its_caller_and_costs_nothing(
    running: RunningGateway, admin: Administrator, host: Upstream, account: tuple[Key, str], is_stream: bool
) -> None:
    other = admin.new_key()
    held = Holding(running, host, account[1])
    first = await held.begin()
    body = json.dumps(CHAT | {"stream": is_stream})
    queued = metric(running, "embedgate_provider_waiting", provider="openai") + 1

    def is_queued() -> bool:
        return metric(running, "embedgate_provider_waiting", provider="openai") == queued

    await leaving(running, other[1], body, is_queued, "/v1/chat/completions")
    await held.running_now(1)
    held.gate.set()
    await first
    assert sent(host) == [held.first]
    assert admin.entries(other[0]) == ()


async def test_more_than_may_wait_get_503_with_a_time_and_the_route_goes_on_working(
    running: RunningGateway, host: Upstream, account: tuple[Key, str]
) -> None:
    held = Holding(running, host, account[1])
    first = await held.begin()
    queued = []
    for number in range(MAX_QUEUED):
        queued.append(held.come(new_text()))
        await held.waiting(number + 1)
    refused = await asyncio.gather(*(held.come(new_text()) for _ in range(10)))
    for reply in refused:
        assert reply is not None
        assert (reply.status, reply.json["error"]["code"]) == (503, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        assert "upstream.max_queued_calls" in reply.json["error"]["message"]
    held.gate.set()
    assert {reply.status for reply in await asyncio.gather(first, *queued) if reply is not None} == {200}
    assert len(host.requests) == 1 + MAX_QUEUED
    assert metric(running, "embedgate_route_works", model="openai/text-embedding-3-small", provider="openai") == 1
    (after,) = await asyncio.to_thread(ask, running, [Caller(new_text(), account[1])])
    assert after.status == 200


@pytest.mark.parametrize("asked", ["86400", "900000000", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_provider_is_believed_for_so_long_and_no_longer_and_a_test_of_it_ends_the_wait(
    running: RunningGateway, host: Upstream, account: tuple[Key, str], asked: str
) -> None:
    host.script(error(429, "come again", headers={"retry-after": asked}))
    for _ in range(2):  # told by the provider, and by us while we wait
        (reply,) = ask(running, [Caller(new_text(), account[1])])
        assert reply.status in (502, 503)
        assert 0 < int(reply.headers["retry-after"]) <= MAX_RETRY_AFTER_S
    assert len(host.requests) == 1
    headers = {"authorization": f"Bearer {running.admin_key}"}
    tested = call(running.url, "/api/providers/openai/test", {}, headers)
    assert (tested.status, tested.json["ok"]) == (200, True)
    (reply,) = ask(running, [Caller(new_text(), account[1])])
    assert reply.status == 200


def test_every_kind_of_call_that_hangs_ends_in_its_own_time_though_there_is_no_other_route(
    tmp_path_factory: pytest.TempPathFactory, host: Upstream
) -> None:
    never = threading.Event()
    with running_chat_upstream() as chatting:
        settings = f"""{LOCAL_OFF}
            [providers.openai]
            base_url = "{chatting.base_url}"
            [providers.far]
            host = "openai"
            base_url = "{host.base_url}"
            models = ["{MODEL}"]
            api_key_env = "OPENAI_API_KEY"
            [upstream]
            attempt_timeout_s = 4
            completion_timeout_s = 1
            stream_idle_timeout_s = 1
            max_retries = 0
        """
        with gateway(tmp_path_factory.mktemp("hangs"), settings, {"OPENAI_API_KEY": "sk-upstream"}) as started:
            headers = {"authorization": f"Bearer {started.key}"}

            def embed() -> Reply:
                return call(started.url, "/v1/embeddings", {"model": f"{MODEL}:far", "input": "a"}, headers)

            def chat(*, is_stream: bool) -> Reply:
                return call(started.url, "/v1/chat/completions", CHAT | {"stream": is_stream}, headers)

            chatting.script_chats(Chat(events=[b'{"a":1}', b'{"b":1}'], pause=never))
            stopped = chat(is_stream=True)
            assert stopped.status == 200
            assert b"upstream.stream_idle_timeout_s" in stopped.body
            host.script(Answer(gate=never))
            chatting.script_chats(Chat(gate=never), Chat(gate=never))
            with ThreadPoolExecutor() as pool:
                late = [pool.submit(chat, is_stream=True), pool.submit(chat, is_stream=False), pool.submit(embed)]
            for asking, setting in zip(late, ("attempt", "completion", "attempt"), strict=True):
                assert asking.result().status == 504
                assert f"upstream.{setting}_timeout_s" in asking.result().json["error"]["message"]
            never.set()


async def leaving(
    running: RunningGateway, secret: str, body: str, may_leave: Callable[[], bool], path: str = "/v1/embeddings"
) -> None:
    """A caller who goes away without an answer as soon as it may."""
    address = urlsplit(running.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body.encode())
    await writer.drain()
    await Holding.until(may_leave)
    writer.transport.abort()
