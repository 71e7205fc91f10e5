"""A stream opens at once, is never silent for long, and is booked as what became of it."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from administrator import Administrator
from chat_upstream import LAST_WORD, Chat, ChatUpstream, running_chat_upstream
from chatting import FALLBACK, MESSAGES, MODEL, STREAM, chat_gateway, entry_of, listening
from crowd import metric
from embedgate.engine.chat.stream import HEARTBEAT
from embedgate.govern.keys import Key
from running import RunningGateway
from waiting import wait_until
from wire import call

COMMENT = b": the host is at work\n\n"
FIRST = b'{"choices":[{"index":0,"delta":{"content":"first"}}]}'
LAST = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
ZIRI: dict[str, Any] = {"provider": "openai", "model": "gpt-4o-mini", "messages": MESSAGES, "stream": True}
# With patience: what one test has failed must not keep the next one from its provider.
SETTINGS = "[upstream]\nmax_retries = 0\ncircuit_patience_s = 3600\n[server]\nstream_heartbeat_s = {}\n"


@pytest.fixture(scope="module")
def far_side() -> Iterator[ChatUpstream]:
    with running_chat_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: ChatUpstream) -> Iterator[RunningGateway]:
    """A gateway without heartbeats."""
    with chat_gateway(tmp_path_factory.mktemp("quiet"), far_side, SETTINGS.format(0)) as started:
        yield started


@pytest.fixture(scope="module")
def beating(tmp_path_factory: pytest.TempPathFactory, far_side: ChatUpstream) -> Iterator[RunningGateway]:
    """A gateway whose streams are hardly ever silent."""
    with chat_gateway(tmp_path_factory.mktemp("beating"), far_side, SETTINGS.format(0.02)) as started:
        yield started


@pytest.fixture(autouse=True)
def host(far_side: ChatUpstream) -> ChatUpstream:
    far_side.reset()
    return far_side


def events_of(body: bytes) -> list[bytes]:
    """The data of a stream's events, without its comments."""
    lines = [part for part in body.split(b"\n\n") if part and not part.startswith(b":")]
    return [line.removeprefix(b"data: ") for line in lines]


@pytest.mark.parametrize("comments", [COMMENT, b""])
def test_the_head_and_the_hosts_comments_arrive_while_the_model_thinks(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream, comments: bytes
) -> None:
    silence = threading.Event()
    host.script_chats(Chat(comments=comments, silence=silence))
    with listening(running, account[1], STREAM) as listener:
        listener.read_until(comments)
        assert "content-type: text/event-stream" in listener.head
        assert "x-embedgate-provider" not in listener.head  # another one may still have to answer
        silence.set()
        assert listener.read_to_the_end().endswith(LAST_WORD)
    assert entry_of(admin, account[0]).outcome == "ok"


def test_a_stream_that_is_open_may_be_served_by_another_route(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    silence = threading.Event()
    host.script_chats(Chat(comments=COMMENT, silence=silence, events=[], ending="reset"), Chat())
    with listening(running, account[1], STREAM | {"provider": {"fallback": FALLBACK}}) as listener:
        listener.read_until(COMMENT)
        silence.set()
        assert listener.read_to_the_end().endswith(LAST_WORD)
    assert [request.json["model"] for request in host.requests] == ["gpt-4o-mini", "claude-haiku-4-5"]
    assert "ok" in [entry.outcome for entry in admin.entries(account[0])]


def test_an_error_of_a_stream_that_is_open_is_its_last_event(
    running: RunningGateway, account: tuple[Key, str], host: ChatUpstream
) -> None:
    silence = threading.Event()
    refusal = b'{"error":{"message":"no such parameter","type":"invalid_request_error"}}'
    host.script_chats(Chat(comments=COMMENT, silence=silence, events=[refusal]))
    with listening(running, account[1], STREAM) as listener:
        listener.read_until(COMMENT)
        silence.set()
        (event,) = events_of(listener.read_to_the_end())
    assert json.loads(event)["error"]["code"] == "upstream_rejected"


def test_silence_is_broken_before_the_answer_and_within_it_and_clients_read_it(
    beating: RunningGateway, host: ChatUpstream
) -> None:
    gate, pause = threading.Event(), threading.Event()
    host.script_chats(Chat(gate=gate, pause=pause))
    with listening(beating, beating.key, STREAM) as listener:
        listener.read_until(HEARTBEAT)
        gate.set()
        listener.read_until(b"assistant")
        listener.body = b""
        listener.read_until(HEARTBEAT)
        pause.set()
        listener.read_until(LAST_WORD)

    thinks = threading.Event()
    host.script_chats(Chat(pause=thinks))
    with openai.OpenAI(api_key=beating.key, base_url=f"{beating.url}/v1", max_retries=0) as sdk:
        stream = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        thinks.set()
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert said == "Hello there , how are you ?"


def test_no_heartbeat_is_within_an_event(beating: RunningGateway, host: ChatUpstream) -> None:
    rest = threading.Event()
    wanting = STREAM | {"stream_options": {"include_usage": True}}  # so that nothing is held back to be read
    host.script_chats(Chat(comments=b"event: completion\n", silence=rest, events=[FIRST, LAST]))
    with listening(beating, beating.key, wanting) as listener:
        rest.set()
        body = listener.read_to_the_end()
    assert b"event: completion\ndata: " + FIRST + b"\n\n" in body


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat/completions"])
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (b'{"error":{"message":"the machine is gone","code":500}}', "upstream_error"),
        (b'{"error":{"message":"it has become too long","code":"invalid_request_error"}}', "upstream_rejected"),
        (b'{"object":"error","message":"slow down","code":429}', "upstream_error"),
        (b'{"error":"no more","choices":[{"index":0,"delta":{},"finish_reason":"error"}]}', "upstream_error"),
    ],
)
@pytest.mark.parametrize("ending", ["done", "close"])
def test_an_error_within_a_stream_is_booked_as_one_and_told_once(
    running: RunningGateway,
    admin: Administrator,
    account: tuple[Key, str],
    host: ChatUpstream,
    path: str,
    fault: bytes,
    outcome: str,
    ending: Any,
) -> None:
    labels = {"provider": "openai", "outcome": outcome}
    before = metric(running, "embedgate_provider_calls_total", **labels)
    host.script_chats(Chat(events=[FIRST, fault], ending=ending))
    with listening(running, account[1], ZIRI if path.startswith("/api") else STREAM, path) as listener:
        assert events_of(listener.read_to_the_end()) == [FIRST, fault]
    entry = entry_of(admin, account[0])
    assert (entry.outcome, entry.tokens_estimated) == (outcome, True)
    assert metric(running, "embedgate_provider_calls_total", **labels) - before == 1
    assert last_failure(running) == outcome


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat/completions"])
def test_a_stream_that_ends_without_an_end_is_told_and_booked(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream, path: str
) -> None:
    host.script_chats(Chat(events=[FIRST, FIRST]))
    with listening(running, account[1], ZIRI if path.startswith("/api") else STREAM, path) as listener:
        *pieces, told = events_of(listener.read_to_the_end())
    assert pieces == [FIRST, FIRST]
    error = json.loads(told)["error"]
    assert "without a finish reason" in (error if isinstance(error, str) else error["message"])
    assert entry_of(admin, account[0]).outcome == "upstream_error"
    assert last_failure(running) == "upstream_error"


@pytest.mark.parametrize("events", [[FIRST, LAST], [FIRST, b"[DONE]"]])
def test_a_finish_reason_or_a_last_word_is_an_end(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream, events: list[bytes]
) -> None:
    host.script_chats(Chat(events=events))
    with listening(running, account[1], STREAM) as listener:
        assert events_of(listener.read_to_the_end()) == events
    assert entry_of(admin, account[0]).outcome == "ok"


def last_failure(running: RunningGateway) -> str | None:
    """How the last failed call of the model's route ended."""
    listed = call(running.url, "/v1/models", None, {"x-api-key": running.key}).json["data"]
    (model,) = [model for model in listed if model["id"] == MODEL]
    code: str | None = model["routes"][0]["health"]["last_failure_code"]
    return code


def test_streams_that_fail_often_open_the_circuit(running: RunningGateway, host: ChatUpstream) -> None:
    for _ in range(8):
        host.script_chats(Chat(events=[FIRST]))
        with listening(running, running.key, STREAM) as listener:
            listener.read_to_the_end()
    wait_until(
        "the circuit is open", lambda: metric(running, "embedgate_route_works", model=MODEL, provider="openai") == 0
    )
