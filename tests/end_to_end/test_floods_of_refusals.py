"""What callers can make the gateway store: bounded in size, and refusals that repeat are one event with a number."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from administrator import Administrator, administrator
from crowd import LOCAL_OFF, MODEL
from embedgate.core.access import Subject
from embedgate.govern.audit import AuditQuery, Event, list_events
from embedgate.govern.keys import Key
from running import RunningGateway, gateway
from upstream import Upstream
from wire import call

N = 200
CHAT = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}


def with_summaries(data_dir: Path, far_side: Upstream) -> AbstractContextManager[RunningGateway]:
    """A gateway that sums refusals up when it ends."""
    settings = f"""{LOCAL_OFF}
        [providers.openai]
        base_url = "{far_side.base_url}"
        [access]
        refusal_summary_s = 3600
    """
    return gateway(data_dir, settings, {"OPENAI_API_KEY": "sk-upstream"})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: Upstream) -> Iterator[RunningGateway]:
    with with_summaries(tmp_path_factory.mktemp("floods"), far_side) as started:
        yield started


def status(running: RunningGateway, secret: str, path: str = "/v1/embeddings", **fields: object) -> int:
    body = {"model": MODEL, "input": "a"} | fields
    return call(running.url, path, body, {"x-api-key": secret}).status


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": MODEL, "input": "a"}),
        ("/v1/embeddings", {"model": MODEL, "input": "a", "cache": "store", "some_option": 1}),
        ("/api/embeddings", {"provider": "openai", "model": MODEL.partition("/")[2], "input": "a"}),
        ("/v1/chat/completions", CHAT),
        ("/v1/rerank", {"model": "cohere/rerank-v3.5", "query": "q", "documents": ["d"]}),
    ],
)
def test_a_text_of_a_caller_that_is_stored_has_a_length(
    running: RunningGateway, account: tuple[Key, str], admin: Administrator, path: str, body: dict[str, object]
) -> None:
    for user in ("x" * 513, "é" * 257, "x" * 20_000_000):
        reply = call(running.url, path, body | {"user": user}, {"x-api-key": account[1]})
        assert reply.status == 400
        assert b"at most 512" in reply.body
        assert len(reply.body) < 1_000
    assert admin.entries(account[0]) == ()


def test_a_user_field_of_512_bytes_is_stored_as_it_is(
    running: RunningGateway, account: tuple[Key, str], admin: Administrator
) -> None:
    for user in ("x" * 512, "é" * 256, "é" * 128):
        assert status(running, account[1], user=user) == 200
        assert admin.entries(account[0])[-1].end_user == user


def test_equal_refusals_are_two_events_in_a_trail_that_is_still_whole(tmp_path: Path, far_side: Upstream) -> None:
    with with_summaries(tmp_path, far_side) as ending, administrator(tmp_path) as admin:
        key, secret = admin.new_key()
        admin.set_limit(Subject("key", key.id), 1)
        admin.wait_until_in_force(ending)
        statuses = [status(ending, secret) for _ in range(1 + N)]
        assert statuses == [200] + [429] * N
        at_once = refusals_of(admin, key)
        # A request is refused before its body is read, and then names no model, if that does not come with its head.
        assert 1 <= len(at_once) <= 2
        assert ending.terminate() == 0
        summed = [event for event in refusals_of(admin, key) if event.detail]
        assert 1 <= len(summed) <= len(at_once)
        assert sum(int(str(event.detail["count"])) for event in summed) == N - len(at_once)
        first_ms = min(int(event.at.timestamp() * 1000) for event in at_once)
        for event in summed:
            assert first_ms <= int(str(event.detail["first_ms"])) <= int(str(event.detail["last_ms"]))
        assert admin.trail_is_whole()


def refusals_of(admin: Administrator, key: Key) -> list[Event]:
    return list(admin.call(list_events, AuditQuery(actor=key.id, outcome="rate_limit_exceeded")).items)
