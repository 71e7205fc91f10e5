"""What providers send is answered as it came; what we add to it is where the dialects have room for it."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from embedgate.core.access import Rate
from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import CallerLeft, GatewayError, InternalError, UpstreamFailed
from embedgate.core.types import Timing, Usage
from embedgate.server.answer import Answer
from embedgate.server.dialects import openai, ziri
from embedgate.server.respond import WritesErrors, send_answer

RESULT = ChatResult(
    model="openai/gpt-4o-mini",
    provider="openai",
    content_type="application/json; charset=utf-8",
    body=b'{"id":"x"}',
    usage=Usage(12, output_tokens=3),
    cached_tokens=4,
    cost_picodollars=3_600_000,
    timing=Timing(5.5, 0.25, 4.0),
    rate=Rate(limit_requests=9, remaining_requests=8, reset_requests_s=7),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5
)


async def sent(answer: Answer, dialect: WritesErrors = openai) -> list[dict[str, Any]]:
    """The messages that an answer is written with."""
    messages: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    def refuse(error: Exception) -> Answer:
        assert isinstance(error, GatewayError)
        return dialect.write_error(error, "req_1")

    await send_answer(send, answer, refuse)
    return messages


def body_of(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(message["body"] for message in messages[1:])


def stream_of(*pieces: bytes | GatewayError, content_type: str = "text/event-stream") -> ChatStream:
    async def following() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            if isinstance(piece, GatewayError):
                raise piece
            yield piece

    return ChatStream("openai/gpt-4o-mini", "openai", content_type, following())


def test_a_whole_answer_has_the_providers_body_and_our_headers() -> None:
    answer = openai.write_chat(replace(RESULT, usage=Usage(12, True, output_tokens=3)), "req_1")
    headers = dict(answer.headers)
    assert len(headers) == len(answer.headers)
    assert (answer.status, answer.body) == (200, RESULT.body)
    assert headers[b"content-type"] == b"application/json; charset=utf-8"
    assert headers[b"x-embedgate-model"] == b"openai/gpt-4o-mini"
    assert headers[b"x-embedgate-provider"] == b"openai"
    assert headers[b"x-embedgate-cost-usd"] == b"0.0000036"
    assert headers[b"x-embedgate-cached-tokens"] == b"4"
    assert headers[b"x-embedgate-usage"] == b"estimated"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-ratelimit-remaining-requests"] == b"8"


def test_the_ziri_answer_ends_with_meta() -> None:
    body = ziri.write_chat(RESULT, "req_1").body
    assert body.startswith(b'{"id":"x","_meta":{"requestId":"req_1",')
    assert json.loads(body)["_meta"] == {
        "requestId": "req_1",
        "cost": {
            "actual": 0.0000036,
            "inputTokens": 12,
            "outputTokens": 3,
            "cachedTokens": 4,
            "totalCost": 0.0000036,
        },
        "timing": {"totalMs": 5.5, "authMs": 0.25, "llmMs": 4.0},
    }


@given(st.dictionaries(st.text().filter(lambda name: name != "_meta"), json_values), st.sampled_from([None, 2]))
def test_meta_leaves_the_rest_as_it_was(content: dict[str, Any], indent: int | None) -> None:
    body = json.dumps(content, indent=indent).encode() + b" \n"
    found = ziri.write_chat(replace(RESULT, body=body), "req_1").body
    read = json.loads(found)
    assert read.pop("_meta")["requestId"] == "req_1"
    assert read == content
    assert found.startswith(body.rstrip()[:-1].rstrip())


@pytest.mark.parametrize("body", [b"", b"[1]", b"text", b"{half"])
def test_what_is_no_object_gets_no_meta(body: bytes) -> None:
    assert ziri.write_chat(replace(RESULT, body=body), "req_1").body == body


async def test_a_stream_goes_out_as_it_came_and_says_that_nobody_may_keep_it() -> None:
    for dialect in (openai, ziri):
        answer = dialect.write_chat(stream_of(b"data: 1\n\n", b"\xff"), "req_1")
        headers = dict(answer.headers)
        assert headers[b"content-type"] == b"text/event-stream"
        assert headers[b"x-accel-buffering"] == b"no"
        assert headers[b"cache-control"] == b"no-store"
        assert b"x-embedgate-cost-usd" not in headers
        messages = await sent(answer)
        assert body_of(messages) == b"data: 1\n\n\xff"
        assert [message.get("more_body") for message in messages] == [None, True, True, False]


async def test_what_breaks_a_stream_off_is_its_last_event_in_the_shape_of_the_dialect() -> None:
    broken = UpstreamFailed("openai broke")
    for before, lead in (
        ((), b""),
        ((b"data: 1\n\n",), b""),
        ((b"data: 1\r\n\r\n",), b""),
        ((b'data: {"ha',), b"\n\n"),
    ):
        messages = await sent(openai.write_chat(stream_of(*before, broken), "req_1"))
        start = b"".join(before) + lead + b'data: {"error":{"message":"openai broke",'
        assert body_of(messages).startswith(start)
        assert body_of(messages).endswith(b"}\n\n")
        assert messages[-1]["more_body"] is False
    messages = await sent(ziri.write_chat(stream_of(b"x\n\n", broken), "req_1"), ziri)
    event = json.loads(body_of(messages).removeprefix(b"x\n\ndata: "))
    assert event == {"error": "openai broke", "code": "LLM_PROVIDER_ERROR", "requestId": "req_1"}


async def test_nothing_is_written_to_one_who_has_left() -> None:
    messages = await sent(openai.write_chat(stream_of(b"data: 1\n\n", CallerLeft("gone")), "req_1"))
    assert [message.get("more_body") for message in messages] == [None, True]


async def test_what_is_no_stream_of_events_is_cut_off() -> None:
    answer = openai.write_chat(stream_of(b"{", InternalError("x"), content_type="application/json"), "req_1")
    with pytest.raises(InternalError):
        await sent(answer)
