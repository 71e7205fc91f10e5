"""Streamed and whole chat completions against a real far side: bytes, failures before and after the first, leaving."""

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from embedgate.core import errors
from embedgate.core.errors import (
    InternalError,
    UpstreamBusy,
    UpstreamError,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamRejected,
    UpstreamTimeout,
)
from embedgate.core.hints import RateHints
from embedgate.core.models import DimRange, Route
from embedgate.core.ports import ChatReply
from embedgate.core.types import ChatRequest, ChatUsage
from embedgate.providers import openai
from embedgate.settings import TransportSettings
from embedgate.transport import Chat, Endpoint, HttpDriver, HttpProvider
from speaking_provider import EVENTS, Line, Say, SpeakingProvider, speaking
from waiting import PATIENCE_S, until

KEY = "sk-proj-Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA"
TEXT = "My name is Ada Lovelace and my account number is 12-34-56."
HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
COUNT = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = (HELLO, COUNT, DONE)
USAGE = ChatUsage(9, 2)


def route(**facts: Any) -> Route:
    return Route("acme", "model-1", DimRange(0, 0, 0), 8192, "unknown", **facts)


def request(*, is_stream: bool = True, wants_usage: bool = False, **fields: object) -> ChatRequest:
    """A request whose fields are the JSON of these values; bytes are taken for JSON already."""
    written = {"messages": [{"role": "user", "content": TEXT}], "stream": is_stream} | fields
    raw = {name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in written.items()}
    return ChatRequest("m", raw, 1, 80, is_stream=is_stream, wants_usage=wants_usage)


@asynccontextmanager
async def driving(
    say: Say,
    *,
    chat: Chat | None = None,
    max_parallel: int = 8,
    settings: TransportSettings | None = None,
) -> AsyncIterator[tuple[HttpDriver, SpeakingProvider]]:
    """A driver, and the provider that it calls."""
    vendor = openai.provider()
    vendor = HttpProvider(vendor.build, vendor.parse, vendor.fault, chat=chat or Chat(asks_usage=True))
    async with speaking(say) as provider:
        endpoint = Endpoint("acme", provider.base_url, KEY, max_parallel=max_parallel)
        driver = HttpDriver(vendor, endpoint, settings or TransportSettings())
        try:
            yield driver, provider
        finally:
            await driver.aclose()


async def begin(driver: HttpDriver, asked: ChatRequest | None = None, within_s: float = PATIENCE_S) -> ChatReply:
    return await driver.chat(asked or request(), route(), time.monotonic() + within_s)


async def read(reply: ChatReply) -> bytes:
    """All of an answer, which is closed."""
    try:
        return b"".join([piece async for piece in reply.pieces()])
    finally:
        await reply.aclose()


def saying(*chunks: bytes, content_type: str | None = EVENTS, status: int = 200) -> Say:
    async def say(line: Line) -> None:
        await line.head(content_type, status)
        await line.send(*chunks)
        await line.end()

    return say


def sent_body(provider: SpeakingProvider) -> dict[str, Any]:
    return provider.requests[-1].json


async def test_a_piece_is_passed_on_before_the_next_is_sent() -> None:
    heard = asyncio.Event()

    async def say(line: Line) -> None:
        await line.head("text/event-stream; charset=utf-8")
        for chunk in (HELLO, b": ping\n\n", HELLO, DONE):
            heard.clear()
            await line.send(chunk)
            await heard.wait()
        await line.end()

    async with driving(say) as (driver, _):
        reply = await begin(driver)
        assert reply.content_type == "text/event-stream; charset=utf-8"
        pieces = []
        async for piece in reply.pieces():
            pieces.append(piece)
            heard.set()
        await reply.aclose()
    assert pieces == [HELLO, b": ping\n\n", HELLO, DONE]


async def test_a_part_of_an_event_is_passed_on_at_once_where_nothing_is_taken_out() -> None:
    heard = asyncio.Event()

    async def say(line: Line) -> None:
        await line.head()
        await line.send(HELLO, b"data: {")
        await heard.wait()
        await line.send(b"}\n\n")
        await line.end()

    async with driving(say) as (driver, _):
        reply = await begin(driver, request(wants_usage=True))
        pieces = b""
        async for piece in reply.pieces():
            pieces += piece
            if pieces.endswith(b"{"):
                heard.set()
        await reply.aclose()
    assert pieces == HELLO + b"data: {}\n\n"


async def test_the_callers_fields_are_sent_as_they_were_written() -> None:
    messages = '[ {"role":"user",\t"content":"n\u00e4chste \\u00e9 \U0001f980", "n": 1.50} ]'.encode()
    asked = request(messages=messages, temperature=b"0.10", top_p=b"1e0", seed=b"null", model=b'"theirs"')
    async with driving(saying(*STREAM)) as (driver, provider):
        await read(
            await driver.chat(
                asked, route(required_params=(("seed", 7), ("extra.deep", True))), time.monotonic() + PATIENCE_S
            )
        )
    body = provider.requests[0].body
    assert (provider.requests[0].method, provider.requests[0].path) == ("POST", "/v1/chat/completions")
    assert messages in body
    assert b'"temperature":0.10' in body
    assert b'"top_p":1e0' in body
    assert sent_body(provider) == {
        "messages": json.loads(messages),
        "stream": True,
        "temperature": 0.1,
        "top_p": 1,
        "seed": 7,
        "extra": {"deep": True},
        "model": "model-1",
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (request(), {"include_usage": True}),
        (request(stream_options=None), {"include_usage": True}),
        (request(stream_options={}), {"include_usage": True}),
        (request(stream_options={"include_obfuscation": False}), {"include_obfuscation": False, "include_usage": True}),
        (request(stream_options={"include_usage": False}), {"include_usage": True}),
        (request(stream_options={"include_usage": True, "x": 1}, wants_usage=True), {"include_usage": True, "x": 1}),
        (request(stream_options="wrong"), "wrong"),
        (request(is_stream=False), None),
    ],
)
async def test_the_count_is_asked_for_in_streams_whose_callers_did_not(asked: ChatRequest, sent: object) -> None:
    async with driving(saying(*STREAM)) as (driver, provider):
        await read(await begin(driver, asked))
        assert sent_body(provider).get("stream_options") == sent
    async with driving(saying(*STREAM), chat=Chat(asks_usage=False)) as (driver, provider):
        await read(await begin(driver, asked))
        unasked = json.loads(asked.fields["stream_options"]) if "stream_options" in asked.fields else None
        assert sent_body(provider).get("stream_options") == unasked


async def test_only_a_count_that_the_caller_did_not_ask_for_is_taken_out() -> None:
    async with driving(saying(*STREAM)) as (driver, _):
        for asked, body in ((request(), HELLO + DONE), (request(wants_usage=True), b"".join(STREAM))):
            reply = await begin(driver, asked)
            assert await read(reply) == body
            assert reply.usage == USAGE
            assert reply.output_bytes == len("Hello")
    async with driving(saying(*STREAM), chat=Chat(asks_usage=False)) as (driver, _):
        reply = await begin(driver)
        assert await read(reply) == b"".join(STREAM)
        assert reply.usage == USAGE


async def test_an_answer_that_is_not_streamed_is_passed_on_whole() -> None:
    body = json.dumps(
        {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Gr\u00fc\u00dfe"}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
        },
        indent=3,
    ).encode()
    # Some hosts keep the connection alive with empty lines.
    chunks = (b"\n", b"\n", body[:50], body[50:])
    async with driving(saying(*chunks, content_type="application/json; charset=utf-8")) as (driver, provider):
        reply = await begin(driver, request(is_stream=False))
        assert (reply.usage, reply.output_bytes) == (ChatUsage(9, 2, 4), len("Gr\u00fc\u00dfe".encode()))
        assert await read(reply) == b"".join(chunks)
        assert reply.content_type == "application/json; charset=utf-8"
    assert "accept-encoding" in provider.requests[0].headers


async def test_what_an_answer_is_decides_and_not_what_was_asked_for() -> None:
    whole = b'{"choices":[{"message":{"content":"Hi"}}]}'
    async with driving(saying(whole, content_type="application/json")) as (driver, _):
        assert await read(await begin(driver, request(is_stream=True))) == whole
    async with driving(saying(*STREAM)) as (driver, _):
        assert await read(await begin(driver, request(is_stream=False))) == b"".join(STREAM)


async def test_a_stream_is_asked_for_uncompressed_and_read_all_the_same() -> None:
    async def say(line: Line) -> None:
        await line.head(content_encoding="gzip")
        await line.send(gzip.compress(b"".join(STREAM)))
        await line.end()

    async with driving(say) as (driver, provider):
        assert await read(await begin(driver)) == HELLO + DONE
    assert provider.requests[0].headers["accept-encoding"] == "identity"


async def test_connections_are_kept_after_whole_answers() -> None:
    async with driving(saying(*STREAM)) as (driver, provider):
        for _ in range(3):
            await read(await begin(driver))
    assert [seen.connection for seen in provider.requests] == [1, 1, 1]


@pytest.mark.parametrize("before", [b"", b": ping\n\n", b"\n\n", b"event: error\n"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"error": {"message": "boom", "code": 429}}, UpstreamBusy),
        ({"error": {"message": "boom", "code": "server_error"}, "choices": []}, UpstreamFailed),
        ({"error": {"message": "boom", "type": "overloaded_error"}}, UpstreamFailed),
        ({"error": {"message": "boom", "type": "rate_limit_error"}}, UpstreamBusy),
        ({"error": {"message": "boom", "type": "invalid_request_error"}}, UpstreamRejected),
        ({"error": {"message": "boom", "code": "insufficient_quota"}}, errors.UpstreamDenied),
        ({"error": "boom"}, UpstreamFailed),
        ({"object": "error", "message": "boom", "code": 40303}, UpstreamFailed),
    ],
)
async def test_an_error_in_place_of_the_first_event_is_a_failed_call(
    before: bytes, data: dict[str, Any], kind: type[UpstreamError]
) -> None:
    event = b"data: " + json.dumps(data).encode() + b"\n\n"
    async with driving(saying(before + event[:9], event[9:], HELLO), max_parallel=1) as (driver, _):
        for _ in range(2):
            with pytest.raises(kind, match=r"^acme .*\(status 200\): boom$"):
                await begin(driver)


async def test_an_error_in_a_whole_answer_is_a_failed_call() -> None:
    body = b'{"error":{"message":"no host left","code":502},"choices":[]}'
    async with driving(saying(body, content_type="application/json")) as (driver, _):
        with pytest.raises(UpstreamFailed, match="no host left"):
            await begin(driver)


async def test_an_error_after_the_first_event_is_passed_on() -> None:
    late = b'data: {"error":{"message":"boom"}}\n\n'
    async with driving(saying(HELLO, late)) as (driver, _):
        reply = await begin(driver)
        assert await read(reply) == HELLO + late
        assert reply.usage is None
        assert reply.output_bytes == len("Hello")


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        (EVENTS, b"", "first event"),
        (EVENTS, b": ping\n\n: ping\n\n", "first event"),
        ("text/html", b"<html>Welcome</html>", "text/html in place of a completion; check base_url"),
        ("application/x-ndjson", b"{}\n", "x-ndjson"),
        (None, b"{}", "something of no type"),
        ("application/json", b"[]", "not a JSON object"),
        ("application/json", b"", "not a JSON object"),
        ("application/json", b'{"choices": [', "not a JSON object"),
        ("application/json", b" " * 2_000_000, "1000000 bytes"),
    ],
)
async def test_what_is_no_completion_is_garbled(content_type: str | None, body: bytes, words: str) -> None:
    chunks = (body,) if body else ()
    settings = TransportSettings(max_reply_bytes=1_000_000)
    async with driving(saying(*chunks, content_type=content_type), settings=settings) as (driver, _):
        with pytest.raises(UpstreamGarbled, match=words):
            await begin(driver)


async def test_a_refusal_is_classified_and_shows_neither_key_nor_texts() -> None:
    words = f"Bad key {KEY} for the message '{TEXT}' of user-4711 with \u0007"
    body = json.dumps({"error": {"message": words, "code": "x"}}).encode() + b" " * 200_000
    message = {"role": "user", "content": [{"type": "text", "text": TEXT}], "name": "get_weather"}
    told = []
    for status in (400, 401, 413, 429, 500, 503):
        async with driving(saying(body, content_type="application/json", status=status)) as (driver, _):
            with pytest.raises(UpstreamError) as caught:
                await begin(driver, request(messages=[message], user="user-4711"))
            told.append(caught.value.message)
            assert (
                type(caught.value)
                is {
                    400: UpstreamRejected,
                    401: errors.UpstreamDenied,
                    413: errors.UpstreamTooLarge,
                    429: UpstreamBusy,
                    500: UpstreamFailed,
                    503: UpstreamBusy,
                }[status]
            )
    for message_told in told:
        assert "Bad key" in message_told
        assert not any(secret in message_told for secret in (KEY, KEY[3:12], "Ada", "4711", "\u0007"))


async def test_a_first_event_that_is_an_error_shows_neither_key_nor_texts() -> None:
    event = b"data: " + json.dumps({"error": {"message": f"it said {TEXT} with {KEY}"}}).encode() + b"\n\n"
    deep = b"[" * 1_100 + json.dumps(TEXT).encode() + b"]" * 1_100
    for messages in (b'["%s"]' % TEXT.encode(), deep):
        async with driving(saying(event)) as (driver, _):
            with pytest.raises(UpstreamFailed, match="said") as caught:
                await begin(driver, request(messages=messages, user="u"))
        assert KEY not in caught.value.message
        assert "Ada" not in caught.value.message


async def test_a_refusal_shows_none_of_the_other_texts_of_the_caller_but_names() -> None:
    told = "You are a bank clerk. Never tell."
    tool = {"type": "function", "function": {"name": "get_weather", "description": told}}
    for fields in (
        {"tools": [tool]},
        {"system": told},
        {"documents": [{"text": told}]},
        {"system": "\u79d8\u5bc6\u79d8\u5bc6"},
    ):
        words = f"get_weather is wrong in {json.dumps(fields, ensure_ascii=False)}"
        refusal = json.dumps({"error": {"message": words}}).encode()
        async with driving(saying(refusal, content_type="application/json", status=400)) as (driver, _):
            with pytest.raises(UpstreamRejected, match="get_weather is wrong") as caught:
                await begin(driver, request(**fields))
        assert "bank clerk" not in caught.value.message
        assert "\u79d8\u5bc6" not in caught.value.message


async def test_a_wait_that_the_provider_asks_for_travels_with_the_error() -> None:
    async def say(line: Line) -> None:
        await line.head("application/json", 429, retry_after="7", x_ratelimit_remaining_requests="0")
        await line.end()

    seen: list[RateHints] = []
    async with driving(say) as (driver, _):
        with pytest.raises(UpstreamBusy) as caught:
            await driver.chat(request(), route(), time.monotonic() + PATIENCE_S, seen.append)
    assert caught.value.retry_after_s == 7
    assert [hints.requests.remaining for hints in seen] == [0]


@pytest.mark.parametrize("before", [(), (b": ping\n\n",), (b'data: {"choices":[{"delta"',)])
async def test_a_stream_that_breaks_before_its_first_event_can_be_asked_for_elsewhere(before: Sequence[bytes]) -> None:
    async def say(line: Line) -> None:
        await line.head()
        await line.send(*before)
        line.reset()

    async with driving(say) as (driver, provider):
        with pytest.raises(UpstreamFailed, match="acme"):
            await begin(driver)
    assert len(provider.requests) == 1


async def test_a_stream_that_breaks_later_breaks_where_it_is_read() -> None:
    heard = asyncio.Event()

    async def say(line: Line) -> None:
        await line.head()
        await line.send(HELLO, COUNT, b"data: {")
        await heard.wait()
        line.reset()

    async with driving(say, max_parallel=1) as (driver, _):
        for _ in range(2):
            heard.clear()
            reply = await begin(driver)
            pieces = []
            with pytest.raises(UpstreamFailed, match="acme"):
                async for piece in reply.pieces():
                    pieces.append(piece)
                    heard.set()
            await reply.aclose()
            assert b"".join(pieces) == HELLO
            assert reply.usage == USAGE, "what counts all is known, though the last word is missing"


async def test_a_count_on_the_way_is_none() -> None:
    heard = asyncio.Event()
    counted = HELLO.replace(b"}]}", b'}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}', 1).replace(
        b"}}}]", b"}}]"
    )
    assert json.loads(counted[6:])["usage"]["completion_tokens"] == 1

    async def say(line: Line) -> None:
        await line.head()
        await line.send(counted)
        await heard.wait()
        await line.end() if len(provider.requests) == 1 else line.reset()

    async with driving(say) as (driver, provider):
        for usage in (ChatUsage(9, 1), None):
            heard.clear()
            reply = await begin(driver)
            try:
                async for _ in reply.pieces():
                    heard.set()
            except UpstreamFailed:
                pass
            await reply.aclose()
            assert reply.usage == usage


async def test_the_deadline_is_of_the_whole_answer() -> None:
    async def say(line: Line) -> None:
        await line.head()
        await line.send(HELLO)
        await asyncio.Event().wait()

    async with driving(say) as (driver, provider):
        for within_s in (0.3, 3, 30):
            with contextlib.suppress(UpstreamTimeout):  # where a busy machine takes so long for the first event
                reply = await begin(driver, within_s=within_s)
                break
        else:
            raise AssertionError("no answer began")
        with pytest.raises(UpstreamTimeout):
            await read(reply)
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)
        with pytest.raises(UpstreamTimeout):
            await begin(driver, within_s=-1)


def speaks_for_ever(first: bytes = HELLO) -> Say:
    async def say(line: Line) -> None:
        await line.head()
        await line.send(first)
        await asyncio.Event().wait()

    return say


async def test_closing_closes_the_connection() -> None:
    async with driving(speaks_for_ever()) as (driver, provider):
        reply = await begin(driver)
        await reply.aclose()
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)


async def test_a_reader_who_is_cancelled_and_closes_leaves_the_provider() -> None:
    async with driving(speaks_for_ever()) as (driver, provider):
        reply = await begin(driver)
        heard = asyncio.Event()
        reading = asyncio.ensure_future(_hear(reply, heard.set))
        await heard.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)


async def test_a_reader_who_is_cancelled_as_a_piece_arrives_leaves_too() -> None:
    async def say(line: Line) -> None:
        await line.head()
        for _ in range(300):
            await line.send(HELLO)
            await asyncio.sleep(0.001)
        await line.end()

    async with driving(say) as (driver, _):
        for moment in range(60):  # one in ten or so is the moment that matters
            reading = asyncio.ensure_future(_hear(await begin(driver), lambda: None))
            await asyncio.sleep(0.002 + moment / 10_000)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()


async def test_a_stream_ends_with_its_last_word_though_the_provider_stays() -> None:
    async def say(line: Line) -> None:
        await line.head()
        await line.send(*STREAM)
        await asyncio.Event().wait()

    async with driving(say) as (driver, provider):
        reply = await begin(driver)
        assert await asyncio.wait_for(read(reply), PATIENCE_S) == HELLO + DONE
        assert reply.usage == USAGE
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)


async def test_another_task_can_close_while_one_reads() -> None:
    async with driving(speaks_for_ever()) as (driver, provider):
        reply = await begin(driver)
        heard = asyncio.Event()
        reading = asyncio.ensure_future(_hear(reply, heard.set))
        await heard.wait()
        await asyncio.sleep(0)
        await asyncio.wait_for(reply.aclose(), PATIENCE_S)
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)
        with pytest.raises(UpstreamFailed, match="closed"):
            await reading
        with pytest.raises(UpstreamFailed, match="closed"):
            await read(reply)


async def test_who_leaves_before_the_first_event_leaves_the_provider() -> None:
    pinged = asyncio.Event()

    async def say(line: Line) -> None:
        await line.head()
        await line.send(b": ping\n\n")
        await asyncio.sleep(0.02)  # on the way
        pinged.set()
        await asyncio.Event().wait()

    async with driving(say, max_parallel=1) as (driver, provider):
        for calls in (1, 2):
            provider.left.clear()
            beginning = asyncio.ensure_future(begin(driver))
            await asyncio.wait_for(pinged.wait(), PATIENCE_S)
            pinged.clear()
            assert len(provider.requests) == calls
            beginning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await beginning
            await asyncio.wait_for(provider.left.wait(), PATIENCE_S)


async def test_who_leaves_before_the_head_leaves_the_provider_when_it_comes() -> None:
    gate = asyncio.Event()

    async def say(line: Line) -> None:
        await gate.wait()
        await speaks_for_ever()(line)

    async with driving(say, max_parallel=1) as (driver, provider):
        beginning = asyncio.ensure_future(begin(driver))
        await until(lambda: bool(provider.requests))
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        gate.set()
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)
        await (await begin(driver)).aclose()


async def test_an_answer_has_its_place_until_it_is_closed() -> None:
    async with driving(saying(*STREAM), max_parallel=1) as (driver, provider):
        reply = await begin(driver)
        with pytest.raises(UpstreamTimeout, match="max_parallel"):
            await begin(driver, within_s=0.05)
        waiting = asyncio.ensure_future(begin(driver))
        await asyncio.sleep(0)
        assert b"".join([piece async for piece in reply.pieces()]) == HELLO + DONE
        assert len(provider.requests) == 1
        await reply.aclose()
        await reply.aclose()
        second = await waiting
        with pytest.raises(UpstreamTimeout, match="max_parallel"):
            await begin(driver, within_s=0.05)
        await second.aclose()


async def test_closing_the_driver_waits_for_answers_and_then_refuses() -> None:
    async with driving(saying(*STREAM)) as (driver, _):
        reply = await begin(driver)
        closing = asyncio.ensure_future(driver.aclose())
        await asyncio.sleep(0)
        assert not closing.done()
        assert await read(reply) == HELLO + DONE
        await closing
        with pytest.raises(InternalError):
            await begin(driver)


async def test_a_host_without_chat_says_so() -> None:
    async with driving(saying(*STREAM)) as (_, provider):
        driver = HttpDriver(openai.provider(), Endpoint("acme", provider.base_url), TransportSettings())
        with pytest.raises(UpstreamRejected, match="acme is not known to complete chats"):
            await begin(driver)
        await driver.aclose()


@pytest.mark.parametrize(
    ("model", "prefix", "path"),
    [
        ("m 1/x", "", "/d/m%201%2Fx/c?v=1"),
        ("m", "google/", "/d/google%2Fm/c?v=1"),
        ("meta/m", "google/", "/d/meta%2Fm/c?v=1"),
    ],
)
async def test_the_name_of_the_model_may_stand_in_the_path_and_behind_an_author(
    model: str, prefix: str, path: str
) -> None:
    chat = Chat(path="/d/{model}/c?v=1", model_prefix=prefix, key_header="x-key", key_prefix="Token ")
    named = Route("acme", model, DimRange(0, 0, 0), 8192, "unknown")
    async with driving(saying(*STREAM), chat=chat) as (driver, provider):
        await read(await driver.chat(request(), named, time.monotonic() + PATIENCE_S))
    (seen,) = provider.requests
    assert seen.path == "/v1" + path
    assert seen.json["model"] == path.split("/")[2].replace("%20", " ").replace("%2F", "/")
    assert {name: value for name, value in seen.headers.items() if KEY in value} == {"x-key": f"Token {KEY}"}


async def _hear(reply: ChatReply, heard: Callable[[], None]) -> None:
    try:
        async for _ in reply.pieces():
            heard()
    finally:
        await reply.aclose()
