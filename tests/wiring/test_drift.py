"""A route whose vectors change, or never were right, raises an alarm; one that comes back ends it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from embedgate.config import Loaded, Secrets
from embedgate.core.types import EmbedRequest, EmbedResult
from embedgate.core.vectors import Vectors, normalise
from embedgate.engine.routing.compare import probes
from embedgate.engine.routing.drift import DriftWatch
from embedgate.observe import metrics
from embedgate.providers import fake
from embedgate.settings import CatalogSettings, ProviderSettings, Settings, StorageSettings, UpstreamSettings
from embedgate.wiring import Gateway, open_gateway
from embedgate.wiring.gateway import OPERATOR
from empty_database import write_empty_database
from governing import entries_in
from upstream import Upstream, error, running_upstream
from waiting import PATIENCE_S

DIM = 64
ROUTE = """
    [[model.route]]
    provider = "{provider}"
    upstream_model = "{model}"
    usd_per_million_input_tokens = "1"
"""
MODEL = """
    [[model]]
    id = "acme/{model}"
    dims = {{ default = 64 }}
    max_input_tokens = 512
    normalised = true
"""
MODELS = {"pair": ("left", "right"), "trio": ("left", "right", "third"), "single": ("left",)}
HOSTS = ("left", "right", "third")


def honest(item: str | tuple[int, ...], dim: int) -> Vectors:
    return fake.vector(item, dim)


def another(item: str | tuple[int, ...], dim: int) -> Vectors:
    """Of a model that has nothing to do with the first."""
    return fake.vector(f"another {item}", dim)


def shaken(item: str | tuple[int, ...], dim: int) -> Vectors:
    """As far off as computing in bfloat16 makes it, differently each time."""
    noise = np.random.default_rng().standard_normal(dim) * 0.001
    vector: Vectors = normalise((fake.vector(item, dim) + noise).astype(np.float32)[np.newaxis])[0]
    return vector


@pytest.fixture
def hosts() -> Iterator[dict[str, Upstream]]:
    """A server for each provider, all honest."""
    with ExitStack() as running:
        yield {name: running.enter_context(running_upstream()) for name in HOSTS}


@pytest.fixture
def settings(tmp_path: Path, hosts: dict[str, Upstream]) -> Settings:
    """Of a gateway in front of them."""
    tables = [
        MODEL.format(model=model) + "".join(ROUTE.format(provider=provider, model=model) for provider in providers)
        for model, providers in MODELS.items()
    ]
    (tmp_path / "models.toml").write_text("\n".join(tables), encoding="utf-8")
    for host in hosts.values():
        host.dim, host.vector_of = DIM, honest
    providers = {name: ProviderSettings(base_url=host.base_url) for name, host in hosts.items()}
    return Settings(
        storage=StorageSettings(data_dir=tmp_path / "data"),
        catalog=CatalogSettings(file=tmp_path / "models.toml"),
        providers={**providers, "local": ProviderSettings(enabled=False)},
    )


@pytest_asyncio.fixture
async def gateway(settings: Settings) -> AsyncIterator[Gateway]:
    write_empty_database(settings.storage.data_dir)
    opened = await open_gateway(Loaded(settings, None, Secrets({})), is_server=True)
    yield opened
    await opened.aclose()


@pytest.fixture
def alarms(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """The events of routes since the last call, each with its provider and model."""
    caplog.set_level(logging.INFO, logger="embedgate")

    def taken() -> list[tuple[str, str]]:
        found = []
        for record in caplog.records:
            if record.getMessage().startswith("route_"):
                fields: dict[str, Any] = record.__dict__["fields"]
                found.append((record.getMessage(), f"{fields['model'].removeprefix('acme/')} at {fields['provider']}"))
        caplog.clear()
        return found

    return taken


def gauges() -> dict[str, float]:
    """What the metric says of each route that was checked."""
    families = text_string_to_metric_families(metrics.text(None).decode())
    (drift,) = [family for family in families if family.name == "embedgate_route_drift"]
    return {
        f"{sample.labels['model'].removeprefix('acme/')} at {sample.labels['provider']}": sample.value
        for sample in drift.samples
    }


EVERY_ROUTE = {f"{model} at {provider}" for model, providers in MODELS.items() for provider in providers}


async def test_honest_routes_raise_no_alarm_although_they_never_repeat_themselves_exactly(
    gateway: Gateway, hosts: dict[str, Upstream], alarms: Callable[[], list[tuple[str, str]]]
) -> None:
    for host in hosts.values():
        host.vector_of = shaken
    for _ in range(3):
        await gateway.drift.check()
    assert alarms() == []
    assert gauges() == dict.fromkeys(EVERY_ROUTE, 0.0)


async def test_a_route_that_changes_is_found_alone_even_if_it_is_the_only_one(
    gateway: Gateway, hosts: dict[str, Upstream], alarms: Callable[[], list[tuple[str, str]]]
) -> None:
    await gateway.drift.check()
    hosts["left"].vector_of = another
    await gateway.drift.check()
    changed = {"pair at left", "trio at left", "single at left"}
    assert set(alarms()) == {("route_drifted", place) for place in changed}
    assert {place for place, value in gauges().items() if value} == changed
    assert gateway.drift.is_drifted("acme/single", "left")
    assert not gateway.drift.is_drifted("acme/pair", "right")
    (pair,) = await gateway.offer(OPERATOR, "", "acme/pair")
    assert [(at.route.provider, at.condition) for at in pair.routes] == [("left", "drifted"), ("right", "ok")]
    await gateway.drift.check()
    assert alarms() == []  # told once
    hosts["left"].vector_of = honest
    await gateway.drift.check()
    assert set(alarms()) == {("route_steady", place) for place in changed}
    assert set(gauges().values()) == {0.0}


async def test_a_route_that_never_was_right_is_found_and_is_right_once_it_is_mended(
    gateway: Gateway, hosts: dict[str, Upstream], alarms: Callable[[], list[tuple[str, str]]]
) -> None:
    hosts["third"].vector_of = another
    await gateway.drift.check()
    assert alarms() == [("route_drifted", "trio at third")]
    hosts["third"].vector_of = honest
    await gateway.drift.check()
    assert alarms() == [("route_steady", "trio at third")]
    hosts["third"].vector_of = another
    await gateway.drift.check()
    assert alarms() == [("route_drifted", "trio at third")]


async def test_a_route_that_does_not_answer_is_taken_to_be_as_it_was(
    gateway: Gateway, hosts: dict[str, Upstream], alarms: Callable[[], list[tuple[str, str]]]
) -> None:
    hosts["third"].usually(error(401, "no such key"))
    await gateway.drift.check()
    assert ("route_not_checked", "trio at third") in alarms()
    assert "trio at third" not in gauges()
    hosts["third"].reset()
    hosts["third"].dim, hosts["third"].vector_of = DIM, another
    await gateway.drift.check()
    hosts["third"].usually(error(401, "no such key"))
    await gateway.drift.check()
    assert gauges()["trio at third"] == 1


async def test_checks_are_in_the_ledger_of_the_operator_and_not_in_the_cache(
    gateway: Gateway, hosts: dict[str, Upstream]
) -> None:
    for _ in range(2):
        await gateway.drift.check()
    entries = entries_in(gateway.database)
    assert {(entry.user_id, entry.outcome, entry.items) for entry in entries} == {("operator", "ok", len(probes(512)))}
    assert len(entries) == 2 * 2 * len(EVERY_ROUTE)
    assert sum(entry.tokens for entry in entries) == sum(sum(host.billed) for host in hosts.values())
    assert sum(entry.cost_picodollars for entry in entries) == sum(entry.tokens for entry in entries) * 1_000_000


async def test_the_first_check_is_made_in_the_background_and_ends_with_the_gateway(
    settings: Settings, hosts: dict[str, Upstream]
) -> None:
    hosts["left"].vector_of = another
    often = settings.model_copy(update={"upstream": UpstreamSettings(verify_every_s=3600)})
    opened = await open_gateway(Loaded(often, None, Secrets({})), is_server=True)
    try:
        assert sum(len(host.requests) for host in hosts.values()) == 0  # the start did not wait for it
        async with asyncio.timeout(PATIENCE_S):
            while not opened.drift.is_drifted("acme/trio", "left"):
                await asyncio.sleep(0.01)
    finally:
        await opened.aclose()
    assert sum(len(host.requests) for host in hosts.values()) == 2 * len(EVERY_ROUTE)


async def test_a_check_can_be_stopped_at_any_moment() -> None:
    begun = asyncio.Event()

    async def never(request: EmbedRequest) -> EmbedResult:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError(request)

    watch = DriftWatch(fake.models, never, 3600)
    watch.start()
    await begun.wait()
    await watch.aclose()
    await watch.aclose()
    idle = DriftWatch(fake.models, never, 0)
    idle.start()
    await idle.aclose()
