"""Probes are requests of the operator: one at a time for each route, never in the way of anybody."""

import asyncio
from dataclasses import dataclass, field

from doubles import Bench, ScriptedProvider, model
from embedgate.core.access import Caller
from embedgate.core.errors import GatewayError, InternalError, NotPermitted, UpstreamFailed
from embedgate.core.types import Candidate, EmbedRequest, EmbedResult
from embedgate.engine.routing.probe import Prober

OPERATOR = Caller("operator", "operator", "command line", is_admin=True)
FAILED = UpstreamFailed("broke")


def candidates(*providers: str) -> list[Candidate]:
    found = model(*providers)
    return [Candidate(found, route) for route in found.routes]


@dataclass
class Embeds:
    """Remembers what it was asked, and waits for the gate before it answers or fails."""

    bench: Bench
    error: GatewayError | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[EmbedRequest] = field(default_factory=list)

    async def __call__(self, request: EmbedRequest) -> EmbedResult:
        """One request of the operator."""
        self.asked.append(request)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await self.bench.pipeline.embed_as(f"req_probe_{len(self.asked)}", OPERATOR, request)


def bench_of(*providers: ScriptedProvider) -> Bench:
    names = [chr(ord("a") + n) for n in range(len(providers))]
    return Bench([model(*names)], dict(zip(names, providers, strict=True)))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_route_is_probed_once_at_a_time_by_a_real_embedding_with_an_entry_of_its_own() -> None:
    provider = ScriptedProvider()
    bench = bench_of(provider)
    embeds = Embeds(bench)
    probe = Prober(embeds)
    (candidate,) = candidates("a")
    assert [probe.probe(candidate) for _ in range(3)] == [True] * 3
    embeds.gate.set()
    await settled()
    assert len(provider.batches) == len(embeds.asked) == 1
    assert (embeds.asked[0].provider, embeds.asked[0].cache) == ("a", "no-store")
    (entry,) = bench.memory.entries
    assert (entry.user_id, entry.provider) == ("operator", "a")
    assert entry.cost_picodollars > 0
    assert probe.probe(candidate)
    await settled()
    assert len(provider.batches) == 2


async def test_routes_are_probed_beside_each_other() -> None:
    embeds = Embeds(bench_of(ScriptedProvider(), ScriptedProvider()))
    probe = Prober(embeds)
    assert all(probe.probe(candidate) for candidate in candidates("a", "b"))
    await settled()
    assert len(embeds.asked) == 2
    await probe.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_where_the_policies_forbid_it_requests_have_to_find_out() -> None:
    bench = bench_of(ScriptedProvider())
    (candidate,) = candidates("a")
    for error, is_possible in ((FAILED, True), (InternalError("the disk is full"), True), (NotPermitted("no"), False)):
        embeds = Embeds(bench, error)
        embeds.gate.set()
        probe = Prober(embeds)
        assert probe.probe(candidate)
        await settled()
        assert probe.probe(candidate) is is_possible
        await probe.aclose()
