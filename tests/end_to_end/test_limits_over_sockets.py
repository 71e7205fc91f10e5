"""Limits are exact to one request, and every answer says where its caller stands, in the words of its dialect."""

import asyncio
import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

import pytest

from administrator import Administrator
from crowd import LOCAL_OFF, Caller, Dialect, all_at_once, ask, in_both_dialects, metric, weight
from embedgate.core.access import Subject
from running import RunningGateway, gateway
from upstream import Answer, Upstream
from waiting import PATIENCE_S, until, wait_until
from wire import Reply, call

N_CALLERS = 500
TEXT = "caller {:04}"
DIALECTS: list[Dialect] = ["openai", "ziri"]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: Upstream) -> Iterator[RunningGateway]:
    settings = f'{LOCAL_OFF}[providers.openai]\nbase_url = "{far_side.base_url}"\n'
    with gateway(tmp_path_factory.mktemp("limits"), settings, {"OPENAI_API_KEY": "sk-upstream"}) as started:
        yield started


@pytest.fixture(autouse=True)
def host(far_side: Upstream) -> Upstream:
    far_side.reset()
    far_side.count_tokens = weight
    return far_side


def limited(
    running: RunningGateway,
    admin: Administrator,
    *,
    requests: int | None = None,
    tokens: int | None = None,
    parallel: int | None = None,
    waiting: int = 0,
) -> str:
    """A new key with these limits."""
    key, secret = admin.new_key()
    admin.set_limit(Subject("key", key.id), requests, tokens, parallel, waiting)
    admin.wait_until_in_force(running)
    return secret


def new_texts(n: int) -> list[str]:
    texts = [TEXT.format(next(_numbers)) for _ in range(n)]
    assert len({weight(text) for text in texts}) == 1
    return texts


def ask_once(running: RunningGateway, key: str, dialect: Dialect = "openai") -> Reply:
    return ask(running, [Caller(new_texts(1)[0], key, dialect)])[0]


def of_status(replies: Sequence[Reply], status: int) -> list[Reply]:
    return [reply for reply in replies if reply.status == status]


def assert_wait_is_told(reply: Reply) -> int:
    """A refusal for the minute says when to come again: in its header, in its words, and where the dialect has it."""
    wait_s = int(reply.headers["retry-after"])
    if "error" in reply.json and isinstance(reply.json["error"], dict):
        assert reply.json["error"]["code"] == "rate_limit_exceeded"
        message = reply.json["error"]["message"]
    else:
        assert reply.json["code"] == "RATE_LIMIT_EXCEEDED"
        assert reply.json["retryAfter"] == wait_s
        # By the clock of the answer, which may have been read some time ago.
        reset_s = int(datetime.fromisoformat(reply.json["resetAt"]).timestamp())
        assert 0 <= int(time.time()) + wait_s - reset_s <= PATIENCE_S
        assert reply.json["error"].startswith("Rate limit exceeded")
        message = reply.json["error"]
    said = re.search(r"Try again in (\d+) s", message)
    assert said is not None
    assert int(said[1]) == wait_s
    return wait_s


def test_of_500_callers_exactly_as_many_as_the_minute_allows_are_served(
    running: RunningGateway, admin: Administrator, host: Upstream
) -> None:
    key = limited(running, admin, requests=120)
    began_s = time.monotonic()
    replies = ask(running, in_both_dialects(new_texts(N_CALLERS), key))
    took_s = time.monotonic() - began_s
    assert Counter(reply.status for reply in replies) == {200: 120, 429: 380}
    assert len(host.requests) == 120
    for reply in of_status(replies, 429):
        assert 60 - took_s <= assert_wait_is_told(reply) <= 60
        is_openai = isinstance(reply.json["error"], dict)
        kind = "-requests" if is_openai else ""
        assert (reply.headers[f"x-ratelimit-limit{kind}"], reply.headers[f"x-ratelimit-remaining{kind}"]) == (
            "120",
            "0",
        )


def test_of_500_callers_no_more_tokens_are_served_than_the_minute_allows(
    running: RunningGateway, admin: Administrator, host: Upstream
) -> None:
    unit = weight(TEXT.format(0))
    key = limited(running, admin, tokens=90 * unit + unit - 1)
    replies = ask(running, in_both_dialects(new_texts(N_CALLERS), key))
    assert Counter(reply.status for reply in replies) == {200: 90, 429: 410}
    assert sum(host.billed) == 90 * unit
    for reply in of_status(replies, 429):
        assert_wait_is_told(reply)


def test_limits_of_different_subjects_hold_together(running: RunningGateway, admin: Administrator) -> None:
    """Two keys of one user: each within its own limit, both within the user's."""
    key, secret = admin.new_key()
    _, other = admin.add_key(key.user_id, "another")
    admin.set_limit(Subject("key", key.id), requests_per_minute=7)
    admin.set_limit(Subject("user", key.user_id), requests_per_minute=10)
    admin.wait_until_in_force(running)
    callers = in_both_dialects(new_texts(40), secret)
    assert Counter(reply.status for reply in ask(running, callers)) == {200: 7, 429: 33}
    callers = in_both_dialects(new_texts(40), other)
    assert Counter(reply.status for reply in ask(running, callers)) == {200: 3, 429: 37}


def test_every_answer_says_what_is_left_of_the_minute(running: RunningGateway, admin: Administrator) -> None:
    unit = weight(TEXT.format(0))
    key = limited(running, admin, requests=4, tokens=1000)
    left = []
    began_s = time.monotonic()
    for dialect in (*DIALECTS, *DIALECTS):
        headers = ask_once(running, key, dialect).headers
        least_s = 59 - (time.monotonic() - began_s)
        if dialect == "openai":
            left.append(int(headers["x-ratelimit-remaining-requests"]))
            assert headers["x-ratelimit-limit-requests"] == "4"
            assert headers["x-ratelimit-limit-tokens"] == "1000"
            assert int(headers["x-ratelimit-remaining-tokens"]) == 1000 - (4 - left[-1]) * unit
            for kind in ("requests", "tokens"):
                assert least_s < float(headers[f"x-ratelimit-reset-{kind}"].removesuffix("s")) <= 60
        else:
            left.append(int(headers["x-ratelimit-remaining"]))
            assert headers["x-ratelimit-limit"] == "4"
            assert least_s - 1 < int(headers["x-ratelimit-reset"]) - time.time() <= 61
    assert left == [3, 2, 1, 0]
    refused = [ask_once(running, key, dialect) for dialect in DIALECTS]
    assert [reply.status for reply in refused] == [429, 429]
    for reply in refused:
        assert_wait_is_told(reply)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embeddings"])
def test_also_a_request_that_cannot_be_read_is_told_the_limit_of_its_caller(
    running: RunningGateway, admin: Administrator, path: str
) -> None:
    key = limited(running, admin, requests=4)
    reply = call(running.url, path, b"{no JSON", {"x-api-key": key})
    assert reply.status == 400
    name = "x-ratelimit-remaining-requests" if path == "/v1/embeddings" else "x-ratelimit-remaining"
    assert reply.headers[name] == "4"  # it does not count


def test_who_finds_no_place_in_flight_waits_in_line_or_is_told_that_it_is_full(
    running: RunningGateway, admin: Administrator, host: Upstream
) -> None:
    key = limited(running, admin, parallel=2, waiting=3)
    gate = threading.Event()
    host.usually(Answer(gate=gate))

    def the_rest_is_refused() -> bool:
        refused = (metric(running, "embedgate_requests_total", dialect=each, outcome="overloaded") for each in DIALECTS)
        return sum(refused) == 15

    async def come() -> list[Reply | None]:
        replies = asyncio.create_task(all_at_once(running.url, in_both_dialects(new_texts(20), key)))
        await asyncio.to_thread(wait_until, "those beyond the line are refused", the_rest_is_refused)
        await until(lambda: len(host.requests) == 2)
        gate.set()
        return await replies

    replies = [reply for reply in asyncio.run(come()) if reply is not None]
    assert Counter(reply.status for reply in replies) == {200: 5, 503: 15}
    for reply in of_status(replies, 503):
        assert int(reply.headers["retry-after"]) >= 1
        body = reply.json
        assert body["error"]["code"] == "overloaded" if "code" not in body else body["code"] == "QUEUE_FULL"


def test_a_limit_that_is_taken_away_or_raised_is_followed(running: RunningGateway, admin: Administrator) -> None:
    key, secret = admin.new_key()
    subject = Subject("key", key.id)
    for requests, served in ((2, 2), (5, 3)):  # what was counted before stays counted
        admin.set_limit(subject, requests_per_minute=requests)
        admin.wait_until_in_force(running)
        replies = ask(running, in_both_dialects(new_texts(10), secret))
        assert Counter(reply.status for reply in replies)[200] == served
    admin.delete_limit(subject)
    admin.wait_until_in_force(running)
    replies = ask(running, in_both_dialects(new_texts(10), secret))
    assert Counter(reply.status for reply in replies) == {200: 10}
    assert "x-ratelimit-limit-requests" not in replies[0].headers
