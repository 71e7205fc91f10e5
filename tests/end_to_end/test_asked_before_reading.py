"""What is asked before a body is read: limits and places of the caller, and memory. Bodies here never come whole."""

import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from program import FAKE_ONLY
from running import RunningGateway, gateway
from waiting import wait_until
from wire import call, raw_socket, read_status

MODEL = "fake/deterministic"
BODY_BYTES = 1_000_000
EXPECTS = "expect: 100-continue\r\n"
_numbers = itertools.count()
CONFIG = f"""
    {FAKE_ONLY}
    [server]
    max_memory_bytes = 16000000
    memory_wait_s = 0.2
    body_timeout_s = 120
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateway(tmp_path_factory.mktemp("asked"), CONFIG) as started:
        yield started


@pytest.fixture
def limited_key(running: RunningGateway) -> Iterator[str]:
    """A new key that may send one request a minute."""
    admin = {"x-api-key": running.admin_key}
    made = call(running.url, "/api/keys", {"user": "user", "name": f"limited {next(_numbers)}"}, admin).json
    path = f"/api/limits/key/{made['key']['id']}"
    assert call(running.url, path, {"requests_per_minute": 1}, admin, method="PUT").status == 200
    yield made["secret"]


def head(key: str, body_bytes: int = BODY_BYTES, path: str = "/v1/embeddings", extra: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{extra}content-length: {body_bytes}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions", "/v1/rerank"])
def test_a_limit_refuses_before_the_body_has_come(running: RunningGateway, limited_key: str, path: str) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(raw_socket(running.url)) for _ in range(2))
        first.sendall(head(limited_key, path=path, extra=EXPECTS))
        assert read_status(first) == 100  # it has its place
        second.sendall(head(limited_key, path=path, extra=EXPECTS))
        assert read_status(second) == 429  # and no 100
    wait_until("what came to nothing counts no more", lambda: small(running, limited_key) == 200)
    assert small(running, limited_key) == 429


def test_a_request_counts_once_and_its_tokens_when_they_are_known(running: RunningGateway, limited_key: str) -> None:
    body = json.dumps({"model": MODEL, "input": ["some more words to embed " * 8] * 2_000}).encode()
    with raw_socket(running.url) as connection:
        request = head(limited_key, len(body)) + body
        connection.sendall(request[:-1])
        connection.sendall(request[-1:])
        assert read_status(connection) == 200
    assert small(running, limited_key) == 429


def small(running: RunningGateway, key: str) -> int:
    reply = call(running.url, "/v1/embeddings", {"model": MODEL, "input": "a"}, {"authorization": f"Bearer {key}"})
    return reply.status


def test_memory_is_asked_for_before_the_body_has_come(running: RunningGateway) -> None:
    """With two at once the budget is used up: of four, some are refused before they send more than a byte."""

    def some_are_refused() -> bool:
        with ExitStack() as stack:
            callers = [stack.enter_context(raw_socket(running.url)) for _ in range(4)]
            for caller in callers:
                caller.sendall(head(running.key) + b"{")
            statuses = [status_within(caller, 1) for caller in callers]
            if 503 not in statuses:
                return False
            reply = call(running.url, "/readyz")
            assert (reply.status, reply.json["reached"]) == (200, ["memory"])
            assert small(running, running.key) == 200  # what needs little is served
        return True

    wait_until("some are refused", some_are_refused)
    assert "embedgate_memory_refusals_total" in call(running.url, "/metrics").body.decode()
    wait_until("it is given back", lambda: large(running) == 200)


def test_the_bodies_of_one_user_leave_memory_for_others(running: RunningGateway) -> None:
    """Two hold the share of a user: a third is refused, though there is room, and another user is served."""
    admin = {"x-api-key": running.admin_key}
    other = call(running.url, "/api/keys", {"user": "admin", "name": "other"}, admin).json["secret"]

    def third_is_refused_and_another_served() -> bool:
        with ExitStack() as stack:
            third, *holders = (stack.enter_context(raw_socket(running.url)) for _ in range(3))
            for holder in holders:
                holder.sendall(head(running.key, extra=EXPECTS))
                if read_status(holder) != 100:
                    return False
            third.sendall(head(running.key, 300_000) + b"{")
            served = large(running, other, 1_000)
            return (status_within(third, 1), served) == (503, 200)

    wait_until("only the third is refused", third_is_refused_and_another_served)
    assert "embedgate_memory_share_refusals_total" in call(running.url, "/metrics").body.decode()


def test_who_hardly_sends_is_cut_when_others_need_the_memory(running: RunningGateway) -> None:
    with ExitStack() as stack:
        holders = [stack.enter_context(raw_socket(running.url)) for _ in range(2)]
        for holder in holders:
            holder.sendall(head(running.key, extra=EXPECTS))
            assert read_status(holder) == 100
        wait_until("another is served", lambda: large(running) == 200)
        wait_until("one is cut", lambda: 408 in [status_within(holder, 1) for holder in holders])
        log = running.log.read_text(encoding="utf-8")
        assert "slow_caller_cut" in log


def status_within(connection: socket.socket, timeout_s: float) -> int:
    """The status of the answer that comes in that time; 0 without one."""
    connection.settimeout(timeout_s)
    try:
        return read_status(connection)
    except TimeoutError:
        return 0


def large(running: RunningGateway, key: str | None = None, texts: int = 2_000) -> int:
    body = {"model": MODEL, "input": ["some more words to embed " * 8] * texts}
    return call(running.url, "/v1/embeddings", body, {"authorization": f"Bearer {key or running.key}"}).status


def test_a_body_that_alone_needs_more_than_there_is_gets_413(running: RunningGateway) -> None:
    with raw_socket(running.url) as connection:
        connection.sendall(head(running.key, 4_000_000))
        assert read_status(connection) == 413
