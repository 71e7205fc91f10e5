"""A provider that fails in every way there is, another that is gone, and two healthy ones: nobody notices.

The far side is real, on loopback sockets. What the bad provider does to each call is drawn from a fixed seed.
"""

import asyncio
import json
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from crowd import LOCAL_OFF
from embedgate.config import load
from embedgate.core.types import EmbedRequest, Origin
from embedgate.observe import metrics
from embedgate.wiring.gateway import Gateway, open_gateway
from empty_database import write_empty_database
from forms import dice as dice_of
from forms import scaled
from upstream import Answer, Upstream, error, running_upstream
from waiting import PATIENCE_S

MODEL = "openai/text-embedding-3-small"
DIM = 8
N_REQUESTS = scaled(2_000, 10_000)
N_CALLERS = 32
DEADLINE_S = 60.0
STALL_S = 200.0
MAX_CALLS = 1.2
SETTINGS = (
    LOCAL_OFF
    + """
    [server]
    request_timeout_s = {deadline_s}
    [providers.openai]
    base_url = "{chaotic}"
    [providers.gone]
    host = "openai"
    base_url = "{gone}"
    [providers.first]
    host = "openai"
    base_url = "{first}"
    [providers.second]
    host = "openai"
    base_url = "{second}"
    [upstream]
    attempt_timeout_s = 10.0
    {upstream}
"""
)
PROVIDERS = ("openai", "gone", "first")


def vectors_of(model: str, dim: int) -> Answer:
    """Two vectors of another model than was asked for."""
    vectors = [Upstream.vector(f"{model} {n}", dim).tolist() for n in range(2)]
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    body = {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    return Answer(body=json.dumps(body).encode())


FAULTS = {
    "dropped": Answer(ending="drop"),
    "reset": Answer(ending="reset"),
    "reset in the body": Answer(ending="half"),
    "429 for a second": error(429, "slow down", headers={"retry-after": "1"}),
    "429 for a moment": error(429, "slow down", headers={"retry-after-ms": "20"}),
    "429": error(429, "slow down"),
    "401": error(401, "bad key"),
    "404": error(404, "no such deployment"),
    "500": error(500, "something broke"),
    "503": error(503, "overloaded"),
    "529": error(529, "overloaded"),
    "stall": Answer(delay_s=STALL_S),
    "truncated": Answer(twist="truncated_json"),
    "one missing": Answer(twist="one_missing"),
    "one too many": Answer(twist="one_extra"),
    "one index": Answer(twist="same_index"),
    "short": Answer(twist="short_vector"),
    "zeros": Answer(twist="zeros"),
    "nan": Answer(twist="nan"),
    "another model by name": vectors_of("text-embedding-3-large", DIM),
    "another model by size": vectors_of("text-embedding-ada-002", 1536),
}
RIGHT = [Answer(), Answer(twist="shuffled"), Answer(twist="no_usage")]


@pytest.fixture
def hosts() -> Iterator[tuple[Upstream, Upstream, Upstream]]:
    """One to be made chaotic, and two healthy ones."""
    with running_upstream() as chaotic, running_upstream() as first, running_upstream() as second:
        yield chaotic, first, second


@asynccontextmanager
async def opened(data_dir: Path, hosts: Sequence[Upstream], upstream: str = "") -> AsyncIterator[Gateway]:
    """A gateway in this process. Its providers, in the order of the list: chaotic, not there, healthy, healthy.

    upstream: further settings of that section.
    """
    chaotic, first, second = (host.base_url for host in hosts)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    urls = {"chaotic": chaotic, "gone": gone, "first": first, "second": second}
    text = SETTINGS.format(deadline_s=DEADLINE_S, **urls, upstream=upstream)
    file = data_dir / "embedgate.toml"
    file.write_text(text, encoding="utf-8")
    write_empty_database(data_dir)
    gateway = await open_gateway(load(file, {"OPENAI_API_KEY": "sk-upstream"}, {"storage": {"data_dir": data_dir}}))
    try:
        yield gateway
    finally:
        await gateway.pipeline.running.drain(10)
        await gateway.aclose()


@dataclass
class Crowd:
    """Callers that ask one request after the other, each for two texts that nobody else has."""

    gateway: Gateway
    seconds: list[float] = field(default_factory=list)
    providers: Counter[str] = field(default_factory=Counter)

    async def ask(self, numbers: Iterator[int]) -> None:
        """Ask until the numbers are used up. Every answer must be right."""
        assert self.gateway.first_keys is not None
        for number in numbers:
            texts = (f"first text {number}", f"second text {number}")
            request = EmbedRequest(MODEL, texts, dim=DIM, cache="no-store")

            async def read(request: EmbedRequest = request) -> EmbedRequest:
                return request

            began_s = time.monotonic()
            result = await self.gateway.pipeline.embed(
                Origin(f"req_{number}", "openai", self.gateway.first_keys.user_key), read
            )
            self.seconds.append(time.monotonic() - began_s)
            self.providers[result.provider] += 1
            right = np.stack([Upstream.vector(text, DIM) for text in texts])
            np.testing.assert_allclose(result.vectors, right, atol=1e-6)

    async def come(self, n: int) -> None:
        """So many requests, from all callers at once."""
        numbers = iter(range(n))
        await asyncio.gather(*(self.ask(numbers) for _ in range(N_CALLERS)))


def metric(name: str, **labels: str) -> float:
    """The sum of a metric of this process, over the labels that are not given."""
    families = text_string_to_metric_families(metrics.text(None).decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.mark.hostile
async def test_of_many_requests_none_fails_none_is_wrong_and_few_are_asked_twice(
    tmp_path: Path, hosts: tuple[Upstream, Upstream, Upstream]
) -> None:
    dice = dice_of("faults of the first host")
    hosts[0].script(*(dice.choice([*FAULTS.values(), *RIGHT]) for _ in range(N_REQUESTS)))
    calls_before = metric("embedgate_provider_calls_total")
    async with opened(tmp_path, hosts) as gateway:
        crowd = Crowd(gateway)
        await crowd.come(N_REQUESTS)
        assert [metric("embedgate_route_works", model=MODEL, provider=name) for name in PROVIDERS] == [0, 0, 1]
    calls = metric("embedgate_provider_calls_total") - calls_before
    assert len(crowd.seconds) == N_REQUESTS
    assert N_REQUESTS <= calls <= N_REQUESTS * MAX_CALLS
    assert sum(len(host.requests) for host in hosts) <= N_REQUESTS * MAX_CALLS
    assert sorted(crowd.seconds)[int(N_REQUESTS * 0.99)] < DEADLINE_S


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_route_that_always_fails_in_one_way_is_soon_asked_no_more(
    tmp_path: Path, hosts: tuple[Upstream, Upstream, Upstream], fault: str
) -> None:
    hosts[0].usually(FAULTS[fault])
    never_probed = "circuit_wait_s = 3600\n    circuit_max_wait_s = 3600"
    async with opened(tmp_path, hosts, never_probed) as gateway:
        crowd = Crowd(gateway)
        await crowd.come(3 * N_CALLERS)
        n_calls = len(hosts[0].requests)
        await crowd.come(3 * N_CALLERS)
    assert crowd.providers == {"first": 6 * N_CALLERS}
    assert 0 < n_calls <= 2 * N_CALLERS
    assert len(hosts[0].requests) == n_calls


async def test_a_route_that_seldom_fails_is_kept_and_its_faults_reach_nobody(
    tmp_path: Path, hosts: tuple[Upstream, Upstream, Upstream]
) -> None:
    dice = dice_of("seldom faults")
    faults = [FAULTS[name] for name in ("reset", "500", "503", "truncated", "zeros")]
    hosts[0].script(*(dice.choice(faults) if dice.random() < 0.05 else Answer() for _ in range(2_000)))
    async with opened(tmp_path, hosts, 'order = "weight"') as gateway:
        crowd = Crowd(gateway)
        await crowd.come(1_000)
    assert min(crowd.providers[name] for name in ("openai", "first", "second")) > 200  # of the third that each draws
    assert sum(len(host.requests) for host in hosts) <= 1_000 * MAX_CALLS


async def test_a_route_that_works_again_is_found_out_at_the_operators_cost_and_gets_its_requests_back(
    tmp_path: Path, hosts: tuple[Upstream, Upstream, Upstream]
) -> None:
    chaotic = hosts[0]
    chaotic.usually(error(503, "overloaded"))
    async with opened(tmp_path, hosts, "circuit_wait_s = 0.05") as gateway:
        crowd = Crowd(gateway)
        await crowd.come(200)
        assert crowd.providers["openai"] == 0
        chaotic.usually(Answer())
        give_up_s = time.monotonic() + PATIENCE_S
        while crowd.providers["openai"] == 0:
            assert time.monotonic() < give_up_s
            await crowd.come(50)
        await crowd.come(50)
        assert metric("embedgate_route_works", model=MODEL, provider="openai") == 1
    with sqlite3.connect(tmp_path / "embedgate.db") as database:
        rows = database.execute(
            "SELECT provider, items, outcome, cost_picodollars FROM ledger WHERE user_id = 'operator'"
        )
        probes = rows.fetchall()
    good = [row for row in probes if row[:3] == ("openai", 1, "ok")]
    assert len(good) >= 3
    assert all(cost > 0 for *_, cost in good)


async def test_slow_answers_are_outrun_by_another_route_where_that_is_set(
    tmp_path: Path, hosts: tuple[Upstream, Upstream, Upstream]
) -> None:
    async with opened(tmp_path, hosts, "hedge = true") as gateway:
        crowd = Crowd(gateway)
        await crowd.come(200)
        hosts[0].script(*[Answer(delay_s=STALL_S), *[Answer()] * 30] * 10)
        won_before = metric("embedgate_hedged_calls_total", result="won")
        await crowd.come(10 * 31)
        # The first three second calls go to the provider that is not there.
        assert metric("embedgate_hedged_calls_total", result="won") - won_before >= 5
    assert max(crowd.seconds) < DEADLINE_S
    assert crowd.providers["openai"] > 200
