"""Every host that completes chats, one suite: what is sent, what is counted, and what a refusal means.

A file of `chat_replies/` holds what one host documents: streams and whole answers, each with the tokens (read, written,
out of a cache) that it says were used, and faults. A new host adds a file, not a test. `@key` stands for the key.
"""

import json
import time
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from embedgate.catalog import Catalog
from embedgate.core import errors
from embedgate.core.errors import UpstreamError
from embedgate.core.models import DimRange, Route
from embedgate.core.ports import ChatReply
from embedgate.core.types import ChatRequest, ChatUsage
from embedgate.providers import hosts
from embedgate.providers.hosts import Host
from embedgate.settings import TransportSettings
from embedgate.transport import Chat, Endpoint, HttpDriver
from recorded_replies import KEY, TABLE, filled
from upstream import Answer, Upstream
from waiting import PATIENCE_S

FIELDS = {
    "messages": b'[{"role": "user",\t"content": "What is the capital of Assyria?"}]',
    "temperature": b"0.10",
    "tools": b'[ {"type":"function","function":{"name":"f","parameters":{"type":"object"}}} ]',
    "seed": b"null",
}


class _Counted(msgspec.Struct):
    """An answer, and what it says was used."""

    usage: tuple[int, int, int] | None
    events: list[dict[str, Any] | str] = []
    body: dict[str, Any] = {}

    @property
    def counts(self) -> ChatUsage | None:
        return ChatUsage(*self.usage) if self.usage else None


class Recorded(msgspec.Struct):
    """What one host documents."""

    provider: str
    model: str
    path: str
    streams: list[_Counted]
    wholes: list[_Counted]
    faults: list[dict[str, Any]]
    sent_model: str | None = None
    base: str | None = None

    @property
    def host(self) -> Host:
        return TABLE[self.provider]

    @property
    def chat(self) -> Chat:
        assert self.host.chat is not None
        return self.host.chat

    @property
    def route(self) -> Route:
        return Route(self.provider, self.model, DimRange(0, 0, 0), 8192, "unknown")


CASES = [
    msgspec.convert(json.loads(file.read_text(encoding="utf-8")) | {"provider": file.stem}, Recorded)
    for file in sorted((Path(__file__).parent / "chat_replies").glob("*.json"))
]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.provider for case in CASES])


@pytest.fixture
async def driver(case: Recorded, upstream: Upstream) -> AsyncIterator[HttpDriver]:
    host = case.host
    path = case.base if host.base_url is None else urllib.parse.urlsplit(host.base_url).path
    base_url = f"http://127.0.0.1:{upstream.port}{path}"
    endpoint = Endpoint(case.provider, base_url, KEY, host.key_header, host.key_prefix)
    driver = HttpDriver(hosts.vendor(host), endpoint, TransportSettings())
    yield driver
    await driver.aclose()


def streamed(counted: _Counted, *, hides_usage: bool = False) -> bytes:
    """The events as they are sent, or as they are to be passed on."""
    texts = [
        event if isinstance(event, str) else json.dumps(event)
        for event in counted.events
        if not (hides_usage and isinstance(event, dict) and event.get("usage") and not event.get("choices"))
    ]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def stream_of(body: bytes) -> Answer:
    return Answer(200, body, {"content-type": "text/event-stream"})


async def begin(driver: HttpDriver, case: Recorded, *, is_stream: bool, wants_usage: bool = False) -> ChatReply:
    fields = FIELDS | ({"stream": b"true"} if is_stream else {})
    if wants_usage:
        fields["stream_options"] = b'{"include_usage": true}'
    request = ChatRequest(case.model, fields, 1, 100, is_stream=is_stream, wants_usage=wants_usage)
    return await driver.chat(request, case.route, time.monotonic() + PATIENCE_S)


async def read(reply: ChatReply) -> bytes:
    body = b"".join([piece async for piece in reply.pieces()])
    await reply.aclose()
    return body


def test_every_host_with_chat_has_recorded_answers() -> None:
    assert {case.provider for case in CASES} == {name for name, host in TABLE.items() if host.chat is not None}


def test_every_host_does_something() -> None:
    assert [name for name, host in TABLE.items() if not host.embeds and host.chat is None] == []


def test_no_host_with_chat_wants_calls_signed() -> None:
    for case in CASES:
        assert hosts.vendor(case.host).signer is None, "the key would not go into its header"
        assert hosts.vendor(case.host).chat == case.host.chat


def test_every_chat_route_of_the_catalogue_is_at_a_host_with_chat() -> None:
    routes = {
        route.provider for model in Catalog.builtin().models() if model.action == "chat" for route in model.routes
    }
    assert routes <= {case.provider for case in CASES}


@every_case
async def test_a_call_is_as_documented(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for is_stream, wants_usage in ((False, False), (True, False), (True, True)):
        upstream.script(stream_of(streamed(case.streams[0])))
        await read(await begin(driver, case, is_stream=is_stream, wants_usage=wants_usage))
        seen = upstream.requests[-1]
        assert (seen.method, seen.path) == ("POST", case.path)
        assert seen.headers["content-type"] == "application/json"
        assert all(b'"%s":%s' % (name.encode(), raw) in seen.body for name, raw in FIELDS.items())
        asks = wants_usage or (is_stream and case.chat.asks_usage)
        assert {name: value for name, value in seen.json.items() if name not in FIELDS} == {
            "model": case.sent_model or case.model,
            **({"stream": True} if is_stream else {}),
            **({"stream_options": {"include_usage": True}} if asks else {}),
        }


@every_case
async def test_the_key_is_in_its_header_and_nowhere_else(
    case: Recorded, driver: HttpDriver, upstream: Upstream
) -> None:
    upstream.script(stream_of(streamed(case.streams[0])))
    await read(await begin(driver, case, is_stream=True))
    (seen,) = upstream.requests
    header = case.chat.key_header or case.host.key_header
    prefix = case.host.key_prefix if case.chat.key_prefix is None else case.chat.key_prefix
    assert {name: value for name, value in seen.headers.items() if KEY in value} == {header: prefix + KEY}
    assert KEY not in seen.path
    assert KEY.encode() not in seen.body


@every_case
async def test_a_stream_is_passed_on_and_counted(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for recorded in case.streams:
        for wants_usage in (True, False):
            upstream.script(stream_of(streamed(recorded)))
            reply = await begin(driver, case, is_stream=True, wants_usage=wants_usage)
            hides_usage = case.chat.asks_usage and not wants_usage
            assert await read(reply) == streamed(recorded, hides_usage=hides_usage)
            assert reply.usage == recorded.counts
            assert reply.output_bytes > 0


@every_case
async def test_a_whole_answer_is_passed_on_and_counted(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for recorded in case.wholes:
        body = json.dumps(recorded.body, indent=1).encode()
        upstream.script(Answer(200, body))
        reply = await begin(driver, case, is_stream=False)
        assert reply.usage == recorded.counts
        assert reply.output_bytes == len("Hi")
        assert await read(reply) == body


@every_case
async def test_a_documented_fault_means_what_it_says(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for recorded in case.faults:
        status, body = recorded["status"], recorded["body"]
        raw = body.encode() if isinstance(body, str) else json.dumps(filled(body)).encode()
        headers = recorded.get("headers", {})
        answers = [Answer(status, raw, headers)]
        if status == 200:
            answers.append(stream_of(b"data: " + raw + b"\n\n"))
        for answer in answers:
            upstream.script(answer)
            with pytest.raises(UpstreamError) as caught:
                await begin(driver, case, is_stream=True)
            assert type(caught.value) is getattr(errors, recorded["error"]), recorded
            assert caught.value.retry_after_s == recorded.get("retry_after_s")
            assert KEY not in caught.value.message
            assert f"(status {status})" in caught.value.message
