"""Each text is embedded once: cached, joined in flight, gathered across callers, and never mixed up."""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from doubles import DIM, NO_RULES, Bench, ScriptedProvider, Step, model, vector_of, weight
from embedgate.core.access import BudgetRule, Subject
from embedgate.core.errors import BudgetExhausted, InputTooLong, UpstreamFailed, UpstreamRejected, UpstreamTooLarge
from embedgate.core.types import Batch, CachedVector, CacheStats, EmbedRequest, EmbedResult, ProviderReply
from embedgate.core.vectors import Vectors

PRICE = 7


class DictCache:
    """A cache that keeps everything: its real self has tests of its own."""

    def __init__(self) -> None:
        self.kept: dict[bytes, CachedVector] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        return [self.kept.get(key) for key in keys]

    def put_many(self, items: Sequence[tuple[bytes, CachedVector]]) -> None:
        self.kept.update((key, structs.replace(item, vector=item.vector.copy())) for key, item in items)

    def stats(self) -> CacheStats:
        raise NotImplementedError

    def clear(self) -> None:
        self.kept.clear()

    def close(self) -> None:
        pass


def request(*inputs: str, **changes: object) -> EmbedRequest:
    return structs.replace(EmbedRequest(model="acme/m", inputs=inputs), **changes)


def right(inputs: Sequence[str], dim: int = DIM) -> Vectors:
    rows = np.stack([vector_of(text) for text in inputs])[:, :dim]
    scaled: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def fail_once(error: Exception) -> Step:
    def step(_batch: Batch, _reply: ProviderReply) -> ProviderReply:
        raise error

    return step


def spoiled(_batch: Batch, reply: ProviderReply) -> ProviderReply:
    return structs.replace(reply, vectors=reply.vectors * 0)


texts = st.sampled_from(["a", "b b", "c c c", "d d d d", "e", "f f", "A", " a", "g g g g g"])
steps = st.sampled_from(["ok", "ok", "ok", "fail", "spoil"])


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(st.tuples(st.lists(texts, min_size=1, max_size=8), st.integers(1, DIM)), min_size=1, max_size=8),
    faults=st.lists(steps, max_size=10),
    max_inputs=st.integers(1, 4) | st.none(),
    gathers=st.booleans(),
    at_once=st.booleans(),
)
def test_every_vector_is_that_of_its_exact_text_whatever_is_reused(
    requests: list[tuple[list[str], int]], faults: list[str], max_inputs: int | None, gathers: bool, at_once: bool
) -> None:
    script: dict[str, Step] = {
        "ok": lambda _, reply: reply,
        "fail": fail_once(UpstreamFailed("passing")),
        "spoil": spoiled,
    }
    provider = ScriptedProvider(steps=[script[fault] for fault in faults])
    bench = Bench(
        [model("a", max_inputs=max_inputs)], {"a": provider}, cache=DictCache(), gathering={"a": 1} if gathers else {}
    )

    async def run() -> list[EmbedResult | BaseException]:
        asked = [bench.embed(request(*inputs, dim=dim)) for inputs, dim in requests]
        if at_once:
            return await asyncio.gather(*asked, return_exceptions=True)
        return [(await asyncio.gather(one, return_exceptions=True))[0] for one in asked]

    for (inputs, dim), result in zip(requests, asyncio.run(run()), strict=True):
        if isinstance(result, BaseException):
            assert isinstance(result, Exception)
            assert faults  # nothing fails by itself
            continue
        np.testing.assert_allclose(result.vectors, right(inputs, dim), atol=1e-6)
        assert result.usage.tokens == sum(map(weight, inputs))
    assert sum(entry.tokens for entry in bench.memory.entries) == provider.charged
    assert len(bench.pipeline.running) == 0


async def test_a_second_request_asks_only_for_what_is_missing_and_costs_only_that() -> None:
    provider = ScriptedProvider()
    bench = Bench([model("a")], {"a": provider}, cache=DictCache())
    await bench.embed(request("a", "b b"))
    result = await bench.embed(request("b b", "c c c", "a", "c c c"))
    assert [batch.inputs for batch in provider.batches] == [("a", "b b"), ("c c c",)]
    np.testing.assert_allclose(result.vectors, right(["b b", "c c c", "a", "c c c"]), atol=1e-6)
    assert (result.usage.tokens, result.usage.reused_tokens) == (9, 6)
    assert result.cost_picodollars == 3 * 7


async def test_every_size_and_a_full_vector_come_from_one_entry() -> None:
    provider = ScriptedProvider()
    cache = DictCache()
    bench = Bench([model("a", accepts_dim=True)], {"a": provider}, cache=cache)
    for dim in (4, 2, None, DIM):
        result = await bench.embed(request("x", dim=dim))
        np.testing.assert_allclose(result.vectors, right(["x"], dim or DIM), atol=1e-6)
    assert len(provider.batches) == len(cache.kept) == 1


async def test_no_store_neither_reads_nor_writes_the_cache() -> None:
    provider = ScriptedProvider()
    cache = DictCache()
    bench = Bench([model("a")], {"a": provider}, cache=cache)
    await bench.embed(request("x", cache="no-store"))
    assert not cache.kept
    await bench.embed(request("x"))
    await bench.embed(request("x", cache="no-store"))
    assert len(provider.batches) == 3


async def test_users_do_not_share_vectors_unless_the_settings_say_so() -> None:
    provider = ScriptedProvider()
    bench = Bench([model("a")], {"a": provider}, cache=DictCache(), scope="user")
    await bench.embed(request("x"))
    bench.memory.key = dataclasses.replace(bench.memory.key, user_id="user_2")
    await bench.embed(request("x"))
    assert len(provider.batches) == 2


async def test_a_wrong_answer_is_not_kept() -> None:
    cache = DictCache()
    bench = Bench([model("a")], {"a": ScriptedProvider(steps=[spoiled, spoiled])}, cache=cache)
    with pytest.raises(Exception, match="zeros"):
        await bench.embed(request("x"))
    assert not cache.kept


async def test_a_text_in_flight_is_joined_and_survives_the_first_callers_leaving() -> None:
    gate = asyncio.Event()
    provider = ScriptedProvider(gate=gate)
    bench = Bench([model("a")], {"a": provider})
    first = asyncio.create_task(bench.embed(request("x", "y")))
    while not provider.batches:
        await asyncio.sleep(0)
    others = [asyncio.create_task(bench.embed(request("y"))) for _ in range(20)]
    await asyncio.sleep(0.01)
    first.cancel()
    gate.set()
    for result in await asyncio.gather(*others):
        np.testing.assert_allclose(result.vectors, right(["y"]), atol=1e-6)
        assert result.cost_picodollars == 0
    assert len(provider.batches) == 1
    assert len(bench.memory.entries) == 21


async def test_a_failure_reaches_each_waiter_as_an_error_of_its_own() -> None:
    gate = asyncio.Event()
    provider = ScriptedProvider(gate=gate, steps=[fail_once(UpstreamRejected("no"))])
    bench = Bench([model("a")], {"a": provider})
    tasks = [asyncio.create_task(bench.embed(request("x"))) for _ in range(5)]
    await asyncio.sleep(0.01)
    gate.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, UpstreamRejected) for error in errors)
    assert len({id(error) for error in errors}) == 5
    assert len(provider.batches) == 1


async def test_anothers_mistake_in_a_joined_call_is_not_mine() -> None:
    gate = asyncio.Event()
    provider = ScriptedProvider(gate=gate, steps=[fail_once(InputTooLong.measured(0, 99, 20))])
    bench = Bench([model("a")], {"a": provider})
    bad = asyncio.create_task(bench.embed(request("too long", "y")))
    while not provider.batches:
        await asyncio.sleep(0)
    mine = asyncio.create_task(bench.embed(request("y")))
    await asyncio.sleep(0.01)
    gate.set()
    with pytest.raises(InputTooLong, match=r"^input\[0\]"):
        await bad
    np.testing.assert_allclose((await mine).vectors, right(["y"]), atol=1e-6)


async def test_an_idle_route_is_called_at_once_and_a_busy_one_gathers() -> None:
    gate = asyncio.Event()
    provider = ScriptedProvider(gate=gate)
    bench = Bench([model("a", max_inputs=8)], {"a": provider}, gathering={"a": 2})
    tasks = [asyncio.create_task(bench.embed(request(f"t{i}"))) for i in range(18)]
    await asyncio.sleep(0.01)
    assert [len(batch.inputs) for batch in provider.batches] == [1, 1]
    gate.set()
    results = await asyncio.gather(*tasks)
    for i, result in enumerate(results):
        np.testing.assert_allclose(result.vectors, right([f"t{i}"]), atol=1e-6)
    assert [len(batch.inputs) for batch in provider.batches] == [1, 1, 8, 8]
    assert [entry.tokens for entry in bench.memory.entries] == [1] * 18


async def test_one_bad_input_fails_alone_in_a_gathered_call() -> None:
    gate = asyncio.Event()

    class Picky(ScriptedProvider):
        async def embed(self, batch, route, deadline_s):  # type: ignore[no-untyped-def]  # as its base
            reply = await super().embed(batch, route, deadline_s)
            if "poison" in batch.inputs:
                self.charged -= reply.tokens or 0
                raise UpstreamRejected("there is something wrong with one of these")
            return reply

    provider = Picky(gate=gate)
    bench = Bench([model("a")], {"a": provider}, gathering={"a": 1})
    names = ["first", *(f"t{i}" for i in range(10)), "poison", *(f"u{i}" for i in range(10))]
    tasks = [asyncio.create_task(bench.embed(request(name))) for name in names]
    await asyncio.sleep(0.01)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [name for name, outcome in zip(names, outcomes, strict=True) if isinstance(outcome, BaseException)]
    assert failed == ["poison"]
    assert len(provider.batches) <= 2 + 2 * 5  # found by halving, not one by one


class PickyAndSmall(ScriptedProvider):
    """Bills the half of a gathered call that comes before the one that it refuses."""

    async def embed(self, batch, route, deadline_s):  # type: ignore[no-untyped-def]  # as its base
        reply = await super().embed(batch, route, deadline_s)
        if len(batch.inputs) > 4 or "poison" in batch.inputs:
            self.charged -= reply.tokens or 0
            raise UpstreamTooLarge("at most 4") if len(batch.inputs) > 4 else UpstreamRejected("one of these")
        return reply


async def test_what_was_billed_for_half_of_a_gathered_call_is_charged_though_the_call_is_repeated() -> None:
    gate = asyncio.Event()
    provider = PickyAndSmall(gate=gate)
    bench = Bench([model("a")], {"a": provider}, gathering={"a": 1})
    names = ["first", "b b", "c c c", "d", "e", "f", "poison"]
    tasks = [asyncio.create_task(bench.embed(request(name))) for name in names]
    await asyncio.sleep(0.01)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, BaseException) for outcome in outcomes] == [False] * 6 + [True]
    assert sum(entry.tokens for entry in bench.memory.entries) == provider.charged > 1 + 2 + 3 + 1 + 1 + 1
    for name, outcome in zip(names[:-1], outcomes, strict=False):
        assert isinstance(outcome, EmbedResult)
        assert outcome.usage.tokens == weight(name)


async def test_a_gathered_call_that_was_billed_by_half_is_repeated_within_the_budget() -> None:
    """Each request may cost what its first call costs, and no more: the repetition is covered, or it is not made."""
    gate = asyncio.Event()
    provider = PickyAndSmall(gate=gate)
    names = ["first", "b b", "c c c", "d", "e", "f", "poison"]
    cap = sum(map(weight, names)) * PRICE
    rules = dataclasses.replace(NO_RULES, budgets=(BudgetRule(Subject("key", "key_1"), "total", cap),))
    bench = Bench([model("a", price=PRICE)], {"a": provider}, gathering={"a": 1}, rules=rules)
    tasks = [asyncio.create_task(bench.embed(request(name))) for name in names]
    await asyncio.sleep(0.01)
    (state,) = await bench.budgets.state()
    assert state.held_picodollars == cap  # all are admitted, and nothing is left
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(outcome, BudgetExhausted) for outcome in outcomes)
    spent = sum(entry.cost_picodollars for entry in bench.memory.entries)
    assert spent == provider.charged * PRICE <= cap


async def test_a_call_that_is_too_large_is_halved_and_never_repeated_at_its_size() -> None:
    class Small(ScriptedProvider):
        async def embed(self, batch, route, deadline_s):  # type: ignore[no-untyped-def]  # as its base
            reply = await super().embed(batch, route, deadline_s)
            if len(batch.inputs) > 3:
                self.charged -= reply.tokens or 0
                raise UpstreamTooLarge("at most 3")
            return reply

    provider = Small()
    bench = Bench([model("a")], {"a": provider})
    inputs = [f"t{i}" for i in range(10)]
    result = await bench.embed(request(*inputs))
    np.testing.assert_allclose(result.vectors, right(inputs), atol=1e-6)
    sizes = [len(batch.inputs) for batch in provider.batches]
    assert sizes == [10, 5, 2, 3, 5, 2, 3]
    (entry,) = bench.memory.entries
    assert entry.tokens == provider.charged == 10


async def test_a_thousand_callers_with_cancellations_and_failures_leave_nothing_behind() -> None:
    dice = random.Random(7)

    class Shaky(ScriptedProvider):
        async def embed(self, batch, route, deadline_s):  # type: ignore[no-untyped-def]  # as its base
            await asyncio.sleep(dice.random() * 0.002)
            reply = await super().embed(batch, route, deadline_s)
            if dice.random() < 0.2:
                self.charged -= reply.tokens or 0
                raise UpstreamFailed("passing")
            return reply

    provider = Shaky()
    bench = Bench([model("a", max_inputs=16)], {"a": provider}, cache=DictCache(), gathering={"a": 4})

    async def caller(i: int) -> None:
        inputs = [f"text {dice.randrange(400)}" for _ in range(dice.randrange(1, 6))]
        task = asyncio.create_task(bench.embed(request(*inputs)))
        if dice.random() < 0.4:
            await asyncio.sleep(dice.random() * 0.003)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, UpstreamFailed):
            np.testing.assert_allclose((await task).vectors, right(inputs), atol=1e-6)

    await asyncio.gather(*(caller(i) for i in range(1000)))
    assert await bench.pipeline.running.drain(10) == 0
    await asyncio.sleep(0.01)
    assert len(bench.pipeline.running) == 0
    assert len(asyncio.all_tasks()) == 1
    assert sum(entry.tokens for entry in bench.memory.entries) == provider.charged


async def test_a_model_is_not_answered_with_what_is_kept_of_another_one_of_its_space() -> None:
    large, small = model("a", name="acme/large"), model("b", name="acme/small")
    providers = {"a": ScriptedProvider(space="large"), "b": ScriptedProvider(space="small")}
    bench = Bench([large, small], providers, cache=DictCache())
    for _ in range(2):
        for name in ("large", "small"):
            result = await bench.embed(structs.replace(request("x"), model=f"acme/{name}"))
            np.testing.assert_allclose(result.vectors, [vector_of("x", name)], atol=1e-6)
    assert [len(provider.batches) for provider in providers.values()] == [1, 1]


async def test_what_a_fallback_model_answered_is_kept_as_its_own() -> None:
    large, small = model("a", name="acme/large"), model("b", name="acme/small")
    providers = {
        "a": ScriptedProvider(space="large", steps=[fail_once(UpstreamRejected("no"))]),
        "b": ScriptedProvider(space="small"),
    }
    bench = Bench([large, small], providers, cache=DictCache())
    asked = structs.replace(request("x"), model="acme/large")
    for wished, space in (
        (structs.replace(asked, fallback_model="acme/small"), "small"),
        (asked, "large"),
        (structs.replace(asked, model="acme/small"), "small"),
    ):
        np.testing.assert_allclose((await bench.embed(wished)).vectors, [vector_of("x", space)], atol=1e-6)
    assert [len(provider.batches) for provider in providers.values()] == [2, 1]


async def test_what_a_route_that_knows_types_answered_is_not_kept_for_every_type() -> None:
    found = model("plain", "typed")
    plain, typed = found.routes
    typed = dataclasses.replace(typed, query_prefix="query: ", document_prefix="document: ")
    mixed = dataclasses.replace(found, routes=(plain, typed))
    down = [fail_once(UpstreamRejected("no"))] * 2
    providers = {"plain": ScriptedProvider(steps=down), "typed": ScriptedProvider()}
    bench = Bench([mixed], providers, cache=DictCache())
    for kind in ("query", "document"):
        result = await bench.embed(request("x", input_type=kind))
        np.testing.assert_allclose(result.vectors, [vector_of(f"{kind}: x")], atol=1e-6)


async def test_routes_whose_vectors_differ_in_size_do_not_find_each_others() -> None:
    found = model("a", "b", matryoshka=False)
    wide, narrow = found.routes
    narrow = dataclasses.replace(narrow, dims=dataclasses.replace(narrow.dims, default=4, minimum=4, maximum=4))
    mixed = dataclasses.replace(found, routes=(wide, narrow))
    bench = Bench([mixed], {"a": ScriptedProvider(), "b": ScriptedProvider(dim=4)}, cache=DictCache())
    for provider, size in (("a", DIM), ("b", 4), ("a", DIM)):
        result = await bench.embed(request("x", provider=provider))
        assert result.vectors.shape == (1, size)
