"""A gateway in front of a provider that limits each key: the limits are kept, and callers notice nothing of them."""

import asyncio
import json
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from embedgate.config import load
from embedgate.core.errors import UpstreamLimited
from embedgate.core.types import EmbedRequest, EmbedResult
from embedgate.wiring import Gateway, open_gateway
from embedgate.wiring.gateway import OPERATOR
from empty_database import write_empty_database
from upstream import Answer, Seen, Upstream, error, running_upstream
from waiting import until

MODEL = "openai/text-embedding-3-small"
KEYS = {"FIRST": "sk-first", "SECOND": "sk-second"}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


class Limited:
    """So many requests in each window for each key; more get 429.

    Where limits are told, a window begins with its first request, and as many again are let pass in it: those that left
    in the window before and were long on their way. Where they are not told, it ends a while after the first refusal.
    """

    def __init__(self, limit: int, window_s: float, *, tells: bool) -> None:
        self.served: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._limit = limit
        self._window_s = window_s
        self._tells = tells
        self._used: Counter[str] = Counter()
        self._ends_s: dict[str, float] = {}

    def __call__(self, seen: Seen) -> Answer:
        key = seen.headers["authorization"].removeprefix("Bearer ")
        now = time.monotonic()
        if now >= self._ends_s.get(key, math.inf):
            del self._ends_s[key], self._used[key]
        is_served = self._used[key] < (2 * self._limit if self._tells else self._limit)
        if self._tells or not is_served:
            self._ends_s.setdefault(key, now + self._window_s)
        left_s = self._ends_s.get(key, now) - now
        self._used[key] += is_served
        (self.served if is_served else self.refused)[key] += 1
        if not is_served:
            return error(429, "slow down", headers={"retry-after-ms": str(int(left_s * 1000) + 1)})
        headers = {
            "x-ratelimit-limit-requests": str(self._limit),
            "x-ratelimit-remaining-requests": str(max(0, self._limit - self._used[key])),
            "x-ratelimit-reset-requests": f"{left_s:.6f}s",
        }
        return Answer(headers=headers if self._tells else {})


@asynccontextmanager
async def gateway(folder: Path, upstream: Upstream, settings: str) -> AsyncIterator[Gateway]:
    file = folder / "embedgate.toml"
    file.write_text(
        f"""
        [storage]
        data_dir = {json.dumps(str(folder / "data"))}
        [providers.local]
        enabled = false
        [providers.openai]
        base_url = "{upstream.base_url}"
        api_key_env = ["FIRST", "SECOND"]
        {settings}
        """
    )
    write_empty_database(folder / "data")
    gateway = await open_gateway(load(file, KEYS))
    try:
        yield gateway
    finally:
        await gateway.aclose()


async def embed(gateway: Gateway, text: str) -> EmbedResult:
    request = EmbedRequest(MODEL, (text,), cache="no-store")
    return await gateway.pipeline.embed_as(f"req_{text}", OPERATOR, request)


async def test_limits_that_are_set_are_kept_with_every_key(tmp_path: Path, upstream: Upstream) -> None:
    limited = Limited(10, 1000, tells=False)
    upstream.usually(limited)
    async with gateway(tmp_path, upstream, "requests_per_minute = 10") as opened:
        began_s = time.monotonic()
        await asyncio.gather(*(embed(opened, str(n)) for n in range(20)))
        assert limited.served == {"sk-first": 10, "sk-second": 10}
        with pytest.raises(UpstreamLimited) as caught:
            await embed(opened, "one more")
    took_s = time.monotonic() - began_s
    assert caught.value.retry_after_s is not None
    assert 59 - took_s <= caught.value.retry_after_s <= 61
    assert "openai" in caught.value.message
    assert "sk-" not in caught.value.message
    assert limited.refused == {}


async def test_tokens_are_limited_by_what_texts_weigh_and_not_by_their_bytes(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.count_tokens = lambda item: len(item) // 5
    async with gateway(tmp_path, upstream, "tokens_per_minute = 5000\nmax_parallel = 8") as opened:
        await asyncio.gather(*(embed(opened, "word " * 200 + str(n)) for n in range(40)))
        assert sum(upstream.billed) == 40 * 200
        with pytest.raises(UpstreamLimited):
            await asyncio.gather(*(embed(opened, "word " * 900 + str(n)) for n in range(3)))
    assert sum(upstream.billed) <= 2 * 5000


async def test_limits_that_are_told_are_kept_and_no_caller_gets_a_429(tmp_path: Path, upstream: Upstream) -> None:
    limited = Limited(4, 0.25, tells=True)
    upstream.usually(limited)
    async with gateway(tmp_path, upstream, "max_parallel = 16") as opened:
        for n in range(2):
            await embed(opened, f"first words {n}")
        await asyncio.gather(*(embed(opened, str(n)) for n in range(24)))
    assert sum(limited.served.values()) == 26
    assert set(limited.served) == set(KEYS.values())
    assert limited.refused == {}


async def test_limits_that_nobody_knows_cost_refusals_but_no_caller_gets_one(
    tmp_path: Path, upstream: Upstream
) -> None:
    limited = Limited(4, 0.25, tells=False)
    upstream.usually(limited)
    async with gateway(tmp_path, upstream, "max_parallel = 4") as opened:
        await asyncio.gather(*(embed(opened, str(n)) for n in range(24)))
    assert sum(limited.served.values()) == 24
    assert limited.refused


async def test_a_refused_key_is_replaced_by_the_other(tmp_path: Path, upstream: Upstream) -> None:
    def answer(seen: Seen) -> Answer:
        return error(401, "no such key") if "sk-first" in seen.headers["authorization"] else Answer()

    upstream.usually(answer)
    async with gateway(tmp_path, upstream, "") as opened:
        for n in range(6):
            await embed(opened, str(n))
    assert sum("sk-first" in seen.headers["authorization"] for seen in upstream.requests) == 1


async def test_the_cap_holds_for_all_keys_together(tmp_path: Path, upstream: Upstream) -> None:
    gate = threading.Event()
    upstream.usually(Answer(gate=gate))
    async with gateway(tmp_path, upstream, "max_parallel = 3") as opened:
        calls = [asyncio.create_task(embed(opened, str(n))) for n in range(8)]
        await until(lambda: len(upstream.requests) == 3)
        await asyncio.sleep(0.05)
        assert len(upstream.requests) == 3
        assert len({seen.headers["authorization"] for seen in upstream.requests}) == 2
        gate.set()
        await asyncio.gather(*calls)
