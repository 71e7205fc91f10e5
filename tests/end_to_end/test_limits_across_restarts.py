"""A limit per minute holds across restarts, also when the process is killed: its window is read from the trail."""

import time
from pathlib import Path

from administrator import administrator
from crowd import LOCAL_OFF
from embedgate.core.access import Subject
from running import RunningGateway, gateway
from wire import Reply, call

SETTINGS = f"{LOCAL_OFF}[providers.fake]\nenabled = true\n"
SLOW_S = 50
"""A machine on which the test takes longer than this sees the window slide."""


def embed(running: RunningGateway, secret: str, text: str = "one two") -> Reply:
    return call(running.url, "/v1/embeddings", {"model": "fake/deterministic", "input": text}, {"x-api-key": secret})


def test_a_limit_of_ten_a_minute_serves_ten_over_three_processes(tmp_path: Path) -> None:
    with gateway(tmp_path, SETTINGS) as running, administrator(tmp_path) as admin:
        key, secret = admin.new_key()
        admin.set_limit(Subject("user", key.user_id), requests_per_minute=10, tokens_per_minute=1000)
        admin.wait_until_in_force(running)
        began_s = time.monotonic()
        replies = [embed(running, secret) for _ in range(4)]
        tokens_left = int(replies[-1].headers["x-ratelimit-remaining-tokens"])
        assert running.terminate() == 0
    with gateway(tmp_path, SETTINGS) as running:
        replies += [embed(running, secret) for _ in range(3)]
        first = replies[4].headers
        running.process.kill()
    with gateway(tmp_path, SETTINGS) as running:
        replies += [embed(running, secret) for _ in range(10)]
    if time.monotonic() - began_s > SLOW_S:
        return
    assert [reply.status for reply in replies] == [200] * 10 + [429] * 7
    assert first["x-ratelimit-remaining-requests"] == "5"
    assert int(first["x-ratelimit-remaining-tokens"]) == 1000 - 5 * (1000 - tokens_left) // 4
    assert 0 < int(replies[-1].headers["retry-after"]) <= 60
