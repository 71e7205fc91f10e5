"""Over-long inputs are cut here where a host cannot: what is sent, billed, held, kept and told is the cut text."""

import asyncio
import dataclasses

import numpy as np
import pytest
from msgspec import structs

from doubles import Bench, DictCache, ScriptedProvider, model, vector_of
from embedgate.core.access import BudgetRule, Caller, Rules, Subject
from embedgate.core.errors import (
    BudgetExhausted,
    GatewayError,
    InputTooLong,
    TooManyTokens,
    UnsupportedOption,
    UpstreamFailed,
)
from embedgate.core.models import Model, Truncate
from embedgate.core.types import Batch, Candidate, EmbedRequest, ProviderReply
from embedgate.settings import LimitSettings, UpstreamSettings

LIMIT = 20  # of the doubles' models; their tokens are words
PRICE = 7
KEY = Subject("key", "key_1")
CALLER = Caller("user_1", "u", "key_1", subjects=(KEY,))
WORDS = [f"w{n}" for n in range(50)]
LONG, HEAD, TAIL = " ".join(WORDS), " ".join(WORDS[:LIMIT]), " ".join(WORDS[-LIMIT:])


def cutting(*providers: str, native: str = "", **changes: object) -> Model:
    """A model whose routes are cut here, but for one whose host does it."""
    found = model(*providers, **changes)  # type: ignore[arg-type]  # of the doubles' model
    routes = tuple(
        dataclasses.replace(route, accepts_truncate=route.provider == native, cuts_here=route.provider != native)
        for route in found.routes
    )
    return dataclasses.replace(found, routes=routes)


def request(*inputs: str | tuple[int, ...], truncate: Truncate = "end", **changes: object) -> EmbedRequest:
    return structs.replace(EmbedRequest("acme/m", inputs, truncate=truncate), **changes)


def broken(_batch: Batch, _reply: ProviderReply) -> ProviderReply:
    raise UpstreamFailed("broke")


def cut_by_host(_batch: Batch, reply: ProviderReply) -> ProviderReply:
    return structs.replace(reply, truncated=(0,))


@pytest.mark.parametrize(("side", "kept"), [("end", HEAD), ("start", TAIL)])
async def test_the_side_that_is_named_is_cut_off_and_only_the_rest_counts(side: Truncate, kept: str) -> None:
    provider = ScriptedProvider()
    bench = Bench([cutting("a", max_inputs=1)], {"a": provider})
    result = await bench.embed(request("short", LONG, "other", truncate=side))
    assert [batch.inputs for batch in provider.batches] == [("short",), (kept,), ("other",)]
    assert {batch.truncate for batch in provider.batches} == {"none"}
    assert result.truncated == (1,)
    np.testing.assert_allclose(result.vectors[1], vector_of(kept), atol=1e-6)
    (entry,) = bench.memory.entries
    assert entry.tokens == result.usage.tokens == provider.charged == LIMIT + 2


async def test_a_host_that_cuts_is_left_to_do_it() -> None:
    provider = ScriptedProvider(steps=[cut_by_host])
    bench = Bench([cutting("a", native="a")], {"a": provider})
    assert (await bench.embed(request(LONG))).truncated == (0,)
    assert (provider.batches[0].inputs, provider.batches[0].truncate) == ((LONG,), "end")


@pytest.mark.parametrize("native", ["a", "b"])
async def test_each_route_gets_what_it_takes_when_one_fails(native: str) -> None:
    first, second = ScriptedProvider(steps=[broken, broken]), ScriptedProvider()
    if native == "b":
        second.steps = [cut_by_host]
    bench = Bench([cutting("a", "b", native=native)], {"a": first, "b": second})
    result = await bench.embed(request(LONG))
    assert (result.provider, result.truncated) == ("b", (0,))
    assert first.batches[0].inputs == ((LONG if native == "a" else HEAD),)
    assert second.batches[0].inputs == ((HEAD if native == "a" else LONG),)


async def test_a_kept_vector_is_still_told_to_be_of_a_cut_text() -> None:
    provider = ScriptedProvider()
    bench = Bench([cutting("a")], {"a": provider}, cache=DictCache())
    first = await bench.embed(request(LONG, "x", LONG))
    again = await bench.embed(request("x", LONG))
    assert (first.truncated, again.truncated) == ((0, 2), (1,))
    assert [batch.inputs for batch in provider.batches] == [(HEAD, "x")]
    assert again.usage.tokens == again.usage.reused_tokens == LIMIT + 1
    other_side = await bench.embed(request(LONG, truncate="start"))
    np.testing.assert_allclose(other_side.vectors[0], vector_of(TAIL), atol=1e-6)
    with pytest.raises(InputTooLong):
        await bench.embed(request(LONG, truncate="none"))
    whole = await bench.embed(request(HEAD, truncate="none"))
    assert whole.truncated == ()


async def test_the_budget_pays_for_the_cut_text_alone() -> None:
    for cap, is_enough in ((LIMIT * PRICE, True), (LIMIT * PRICE - 1, False)):
        rules = Rules(budgets=(BudgetRule(KEY, "total", cap),))
        bench = Bench([cutting("a", price=PRICE)], {"a": ScriptedProvider()}, rules=rules)
        if is_enough:
            result = await bench.pipeline.embed_as("req_1", CALLER, request(LONG))
            assert result.cost_picodollars == cap
        else:
            with pytest.raises(BudgetExhausted):
                await bench.pipeline.embed_as("req_1", CALLER, request(LONG))


async def test_a_prefix_stays_and_counts() -> None:
    found = cutting("a")
    route = dataclasses.replace(found.routes[0], query_prefix="find this: ")
    provider = ScriptedProvider()
    bench = Bench([dataclasses.replace(found, routes=(route,))], {"a": provider})
    await bench.embed(request(LONG, truncate="start", input_type="query"))
    assert provider.batches[0].inputs == ("find this: " + " ".join(WORDS[2 - LIMIT :]),)


@pytest.mark.parametrize("reads_ids", [True, False])
async def test_token_ids_are_cut_as_ids_or_as_their_text(reads_ids: bool) -> None:
    ids = tuple(n % 10 for n in range(50))
    provider = ScriptedProvider()
    bench = Bench([cutting("a", accepts_token_ids=reads_ids)], {"a": provider})
    result = await bench.embed(request(ids, truncate="start"))
    sent = provider.batches[0].inputs
    if reads_ids:
        assert (sent, result.truncated) == ((ids[-LIMIT:],), (0,))
    else:  # the doubles' text of digits is a single word
        assert (sent, result.truncated) == (("".join(map(str, ids)),), ())


async def test_token_ids_that_are_none_are_refused_by_their_place() -> None:
    bench = Bench([cutting("a")], {"a": ScriptedProvider()})
    with pytest.raises(GatewayError, match=r"input\[1\]"):
        await bench.embed(request("x", (11,)))


@pytest.mark.parametrize(("delays", "winner"), [((60.0, 0.0), "b"), ((0.05, 60.0), "a")])
@pytest.mark.parametrize("native", ["a", "b"])
async def test_of_two_calls_the_one_that_counts_says_what_was_cut(
    delays: tuple[float, float], winner: str, native: str
) -> None:
    class Slow(ScriptedProvider):
        delay_s = 0.0

        async def embed(self, batch: Batch, *rest: object) -> ProviderReply:
            await asyncio.sleep(self.delay_s)
            return await super().embed(batch, *rest)  # type: ignore[arg-type]  # route and deadline

    asked = cutting("a", "b", native=native)
    providers: dict[str, ScriptedProvider] = {}
    for name, delay_s in zip("ab", delays, strict=True):
        providers[name] = slow = Slow(steps=[cut_by_host] if name == native else [])
        slow.delay_s = delay_s
    bench = Bench([asked], providers, upstream=UpstreamSettings(hedge=True, max_retries=0))
    health = bench.states.of(Candidate(asked, asked.routes[0]))
    for _ in range(50):
        health.succeeded(0.01)
    result = await bench.pipeline.embed_as("req_1", CALLER, request(LONG))
    assert (result.provider, result.truncated) == (winner, (0,))


async def test_truncation_is_advised_where_a_route_that_is_on_can_do_it() -> None:
    """The model has a route that could, but its provider is off: the advice would be refused."""
    found = cutting("a", "b", native="b")
    off = dataclasses.replace(found.routes[0], cuts_here=False)
    found = dataclasses.replace(found, routes=(off, found.routes[1]))
    bench = Bench([found], {"a": ScriptedProvider()})
    with pytest.raises(InputTooLong) as refused:
        await bench.embed(request(LONG, truncate="none"))
    assert "truncate" not in refused.value.message
    bench = Bench([found], {"a": ScriptedProvider(), "b": ScriptedProvider(steps=[cut_by_host])})
    with pytest.raises(InputTooLong, match='send "truncate": "end"'):
        await bench.embed(request(LONG, truncate="none"))
    with pytest.raises(InputTooLong) as pinned:
        await bench.embed(request(LONG, truncate="none", provider="a"))
    assert "truncate" not in pinned.value.message
    assert (await bench.embed(request(LONG))).truncated == (0,)


async def test_the_limit_of_a_request_counts_what_is_left_of_each_text() -> None:
    bench = Bench([cutting("a")], {"a": ScriptedProvider()}, limits=LimitSettings(max_tokens=LIMIT + 1))
    assert (await bench.embed(request(LONG))).truncated == (0,)
    with pytest.raises(TooManyTokens, match="several requests"):
        await bench.embed(request(LONG, LONG + " more"))
    bench = Bench([cutting("a")], {"a": ScriptedProvider()}, limits=LimitSettings(max_tokens=LIMIT - 1))
    with pytest.raises(TooManyTokens, match="Split the longest"):
        await bench.embed(request(LONG))


@pytest.mark.parametrize("native", ["", "a"])
async def test_a_cut_at_the_start_leaves_the_prefix(native: str) -> None:
    provider = ScriptedProvider()
    found = cutting("a", native=native)
    routes = tuple(dataclasses.replace(route, query_prefix="find: ", cuts_here=True) for route in found.routes)
    bench = Bench([dataclasses.replace(found, routes=routes)], {"a": provider})
    result = await bench.embed(request(LONG, truncate="start", input_type="query"))
    (batch,) = provider.batches
    kept = " ".join(WORDS[-LIMIT + 1 :])
    assert (batch.inputs, batch.truncate, result.truncated) == ((f"find: {kept}",), "none", (0,))


async def test_a_host_that_would_cut_the_prefix_off_is_not_asked() -> None:
    found = cutting("a", native="a")
    routes = tuple(dataclasses.replace(route, query_prefix="find: ") for route in found.routes)
    bench = Bench([dataclasses.replace(found, routes=routes)], {"a": ScriptedProvider()})
    with pytest.raises(UnsupportedOption, match="at their start"):
        await bench.embed(request(LONG, truncate="start", input_type="query"))
    assert (await bench.embed(request("short", truncate="end", input_type="query"))).truncated == ()
