"""A stream has constant memory, goes at the pace of its reader, ends with its caller, and says when it breaks."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from administrator import Administrator, administrator
from chat_upstream import LAST_WORD, Chat, ChatUpstream, running_chat_upstream
from chatting import (
    MESSAGES,
    MODEL,
    STREAM,
    ask,
    chat_gateway,
    entry_of,
    forget_peak,
    listening,
    resident_bytes,
)
from crowd import metric
from embedgate.govern.keys import Key
from running import RunningGateway
from waiting import PATIENCE_S, wait_until
from wire import raw_socket

MB = 1_000_000
EVENT = b'{"choices":[{"index":0,"delta":{"content":"%s"}}]}' % (b"x" * 16_000)
FIRST = b'{"choices":[{"index":0,"delta":{"content":"first"}}]}'
ZIRI = {"provider": "openai", "model": "gpt-4o-mini", "messages": MESSAGES, "stream": True}


@pytest.fixture(scope="module")
def far_side() -> Iterator[ChatUpstream]:
    with running_chat_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: ChatUpstream) -> Iterator[RunningGateway]:
    with chat_gateway(tmp_path_factory.mktemp("streams"), far_side, "[server]\nunread_timeout_s = 30\n") as started:
        yield started


@pytest.fixture(autouse=True)
def host(far_side: ChatUpstream) -> ChatUpstream:
    far_side.reset()
    return far_side


def nothing_runs(running: RunningGateway) -> bool:
    return metric(running, "embedgate_requests_running") == 0


def test_the_first_piece_arrives_while_the_model_still_thinks(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    pause = threading.Event()
    host.script_chats(Chat(pause=pause))
    with listening(running, account[1], STREAM) as listener:
        listener.read_until(b"assistant")
        assert "x-accel-buffering: no" in listener.head
        assert admin.entries(account[0]) == ()
        pause.set()
        assert listener.read_to_the_end().endswith(LAST_WORD)
    assert entry_of(admin, account[0]).outcome == "ok"  # it was there before the last word was


def test_the_head_and_the_first_piece_are_one_write(
    running: RunningGateway, account: tuple[Key, str], host: ChatUpstream
) -> None:
    pause = threading.Event()
    host.script_chats(Chat(pause=pause))
    with raw_socket(running.url) as connection:
        ask(connection, account[1], STREAM)
        head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
        pause.set()
    assert head.lower().count(b"transfer-encoding: chunked") == 1
    assert b"connection: close" in head.lower()
    assert b"assistant" in body


def test_who_sends_what_is_no_request_during_a_stream_leaves_it(
    running: RunningGateway, account: tuple[Key, str], host: ChatUpstream
) -> None:
    host.script_chats(Chat(pause=threading.Event()))
    with raw_socket(running.url) as connection:
        ask(connection, account[1], STREAM, is_last=False)
        connection.recv(1 << 16)
        connection.sendall(b"this is no request\r\n\r\n")
        wait_until("the provider's connection is closed", lambda: bool(host.left_at_s))
        wait_until("nothing is left over", lambda: nothing_runs(running))


def test_who_leaves_while_the_model_thinks_closes_the_call_and_pays_for_what_came(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    host.script_chats(Chat(events=[FIRST, FIRST], pause=threading.Event()))
    with listening(running, account[1], STREAM) as listener:
        listener.read_until(b"first")
        left_at_s = time.monotonic()
        listener.leave()
    wait_until("the provider's connection is closed", lambda: bool(host.left_at_s))
    assert host.left_at_s[0] - left_at_s < PATIENCE_S
    entry = entry_of(admin, account[0])
    assert (entry.outcome, entry.tokens_estimated, entry.output_tokens) == ("cancelled", True, 2)  # 5 bytes
    assert entry.cost_picodollars > 0
    wait_until("nothing is left over", lambda: nothing_runs(running))


def test_who_leaves_before_the_first_byte_leaves_no_call_behind(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    gate = threading.Event()
    host.script_chats(Chat(gate=gate, events=[FIRST] * 2, pause=threading.Event()))
    with raw_socket(running.url) as connection:
        ask(connection, account[1], STREAM)
        wait_until("the provider is asked", lambda: bool(host.requests))
    entry = entry_of(admin, account[0])
    assert (entry.outcome, entry.output_tokens) == ("cancelled", 0)
    gate.set()  # at the latest now
    wait_until("the provider's connection is closed", lambda: bool(host.left_at_s))


def test_who_leaves_after_asking_for_more_on_the_same_connection_is_missed_with_the_next_piece(
    running: RunningGateway, account: tuple[Key, str], host: ChatUpstream
) -> None:
    pause = threading.Event()
    logged = len(running.log.read_text())
    host.script_chats(Chat(events=[FIRST, EVENT], repeat=10_000, pause=pause))
    body = json.dumps(STREAM).encode()
    request = f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-api-key: {account[1]}\r\n".encode()
    request += b"content-length: %d\r\n\r\n%s" % (len(body), body)
    with raw_socket(running.url) as connection:
        connection.sendall(request)
        wait_until("the stream has begun", lambda: b"first" in connection.recv(4096))
        connection.sendall(request)
    pause.set()
    wait_until("the provider's connection is closed", lambda: bool(host.left_at_s))
    assert host.sent_bytes < 100 * MB
    wait_until("nothing is left over", lambda: nothing_runs(running))
    assert len(host.requests) == 1
    assert "error" not in running.log.read_text()[logged:]


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat/completions"])
def test_an_upstream_that_breaks_off_is_told_in_the_last_event(
    running: RunningGateway,
    admin: Administrator,
    account: tuple[Key, str],
    host: ChatUpstream,
    ending: Any,
    path: str,
) -> None:
    host.script_chats(Chat(events=[FIRST], ending=ending))
    with listening(running, account[1], ZIRI if path.startswith("/api") else STREAM, path) as listener:
        first, last, rest = listener.read_to_the_end().split(b"\n\n")
    assert (first, rest) == (b"data: " + FIRST, b"")
    event = json.loads(last.removeprefix(b"data: "))
    if path.startswith("/api"):
        assert event.keys() == {"error", "code", "requestId"}
        assert event["code"] == "LLM_PROVIDER_ERROR"
    else:
        assert event["error"]["code"] == "upstream_error"
        assert "openai" in event["error"]["message"]
    entry = entry_of(admin, account[0])
    assert (entry.outcome, entry.tokens_estimated) == ("upstream_error", True)
    assert len(host.requests) == 1  # nothing is asked for again once an answer has begun


def test_the_sdk_raises_when_a_stream_breaks_off(
    running: RunningGateway, account: tuple[Key, str], host: ChatUpstream
) -> None:
    host.script_chats(Chat(events=[FIRST], ending="reset"))
    with (
        openai.OpenAI(api_key=account[1], base_url=f"{running.url}/v1", max_retries=0) as sdk,
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream,
    ):
        assert next(stream).choices[0].delta.content == "first"
        with pytest.raises(openai.APIError, match="openai"):
            next(stream)


def test_an_upstream_that_is_killed_is_told_too(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(running_chat_upstream())
        killing = stack.pop_all()
        with chat_gateway(tmp_path, upstream) as running:
            upstream.script_chats(Chat(events=[FIRST] * 2, pause=threading.Event()))
            with listening(running, running.key, STREAM) as listener:
                listener.read_until(b"first")
                killing.close()
                assert b'"code":"upstream_error"' in listener.read_to_the_end()


def test_memory_does_not_grow_with_the_stream(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("what a process holds is read from /proc")

    def stream(megabytes: int) -> int:
        """How many bytes a caller gets of so long a stream, and throws away."""
        host.script_chats(Chat(events=[EVENT], repeat=megabytes * MB // len(EVENT)))
        n_bytes = 0
        with listening(running, account[1], STREAM) as listener:
            while piece := listener.connection.recv(1 << 20):
                n_bytes += len(piece)
        return n_bytes

    stream(5)
    before = resident_bytes(running)
    forget_peak(running)
    assert stream(200) > 199 * MB
    assert resident_bytes(running, "VmHWM") - before < 25 * MB  # of the 200 that went through
    assert resident_bytes(running) - before < 25 * MB
    wait_until("both are in the ledger", lambda: len(admin.entries(account[0])) == 2)
    assert max(entry.output_tokens for entry in admin.entries(account[0])) > 49 * MB


def test_a_slow_reader_slows_the_provider_and_not_the_gateway(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: ChatUpstream
) -> None:
    host.script_chats(Chat(events=[EVENT], repeat=200 * MB // len(EVENT)))
    before = resident_bytes(running)
    with listening(running, account[1], STREAM, receive_bytes=65_536) as listener:
        sent_bytes = -1

        def has_stopped() -> bool:
            nonlocal sent_bytes
            sent_before, sent_bytes = sent_bytes, host.sent_bytes
            time.sleep(0.3)
            return sent_bytes == sent_before

        wait_until("the provider is held up", has_stopped)
        assert host.sent_bytes < 40 * MB  # what the kernel keeps of two connections
        assert resident_bytes(running) - before < 25 * MB
        assert json.loads(http_health(running)) == {"status": "ok"}
        listener.leave()
    wait_until("the provider's connection is closed", lambda: bool(host.left_at_s))
    assert entry_of(admin, account[0]).outcome == "cancelled"


def http_health(running: RunningGateway) -> bytes:
    with raw_socket(running.url) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        received = b""
        while piece := connection.recv(4096):
            received += piece
    return received.partition(b"\r\n\r\n")[2]


def test_the_time_of_a_chat_is_a_setting(tmp_path: Path, far_side: ChatUpstream) -> None:
    with chat_gateway(tmp_path, far_side, "[server]\nchat_timeout_s = 1\n") as running:
        far_side.script_chats(Chat(events=[FIRST] * 2, pause=threading.Event()))
        with listening(running, running.key, STREAM) as listener:
            assert b'"code":"upstream_timeout"' in listener.read_to_the_end()


def test_a_shutdown_lets_a_stream_end_and_cuts_one_that_does_not(tmp_path: Path, far_side: ChatUpstream) -> None:
    for settings, is_cut in (("", False), ("[server]\ndrain_timeout_s = 0.3\n", True)):
        pause = threading.Event()
        folder = tmp_path / str(is_cut)
        with chat_gateway(folder, far_side, settings) as running:
            far_side.script_chats(Chat(pause=pause))
            with listening(running, running.key, STREAM) as listener:
                listener.read_until(b"assistant")
                running.process.terminate()
                if not is_cut:
                    wait_until("it drains", lambda: "draining" in running.log.read_text())
                    pause.set()
                body = listener.read_to_the_end()
            assert running.process.wait(PATIENCE_S) == 0
        assert body.endswith(LAST_WORD) != is_cut
        assert (b"shutting down" in body) == is_cut
        with administrator(folder) as admin:
            (entry,) = admin.every_entry()
        assert entry.outcome == ("overloaded" if is_cut else "ok")
