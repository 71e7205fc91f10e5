"""Callers who leave while their requests wait: what was not sent is dropped for nothing, what was sent is paid."""

import asyncio

import pytest

from doubles import SECRET, Bench, Memory, ScriptedProvider, Step, model
from embedgate.core.access import LimitRule, Rules, Subject
from embedgate.core.demand import Demand, demand_of_task
from embedgate.core.errors import (
    CallerLeft,
    GatewayError,
    Overloaded,
    UpstreamFailed,
    UpstreamRejected,
    UpstreamTooLarge,
)
from embedgate.core.types import Batch, EmbedRequest, EmbedResult, Origin, ProviderReply
from embedgate.engine.upstream.limits import CredentialLimits, QueueLimits
from embedgate.settings import UpstreamSettings
from virtual_time import now, virtually

USER = Subject("user", "user_1")


def asking(bench: Bench, demand: Demand, *texts: str) -> "asyncio.Task[EmbedResult]":
    async def read() -> EmbedRequest:
        return EmbedRequest("acme/m", texts)

    origin = Origin(f"req_{'-'.join(texts)}", "openai", SECRET, demand=demand)
    return asyncio.ensure_future(bench.pipeline.embed(origin, read))


def fail_with(error: GatewayError) -> Step:
    def step(_batch: Batch, _reply: ProviderReply) -> ProviderReply:
        raise error

    return step


def inputs(provider: ScriptedProvider) -> list[tuple[object, ...]]:
    return [batch.inputs for batch in provider.batches]


async def assert_left(task: "asyncio.Task[EmbedResult]") -> None:
    with pytest.raises(CallerLeft):
        await task


@virtually
async def test_who_leaves_a_shared_call_before_it_is_made_is_not_part_of_it() -> None:
    provider = ScriptedProvider(gate=asyncio.Event())
    bench = Bench([model("a")], {"a": provider}, gathering={"a": 1})
    first, gone, stays = Demand(), Demand(), Demand()
    tasks = [asking(bench, first, "one"), asking(bench, gone, "two"), asking(bench, stays, "three")]
    await asyncio.sleep(0.1)
    gone.leave()
    await assert_left(tasks[1])
    assert provider.gate is not None
    provider.gate.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert inputs(provider) == [("one",), ("three",)]
    assert [entry.request_id for entry in bench.memory.entries] == ["req_one", "req_three"]


@virtually
async def test_what_waits_for_a_shared_call_is_bounded_in_bytes() -> None:
    provider = ScriptedProvider(gate=asyncio.Event())
    settings = UpstreamSettings(max_queued_bytes=10)
    bench = Bench([model("a")], {"a": provider}, gathering={"a": 1}, upstream=settings)
    tasks = [asking(bench, Demand(), "one"), asking(bench, Demand(), "longer than ten bytes")]
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded, match="bytes of inputs wait"):
        await asking(bench, Demand(), "two")
    assert provider.gate is not None
    provider.gate.set()
    await asyncio.gather(*tasks)
    await asking(bench, Demand(), "three")


@virtually
async def test_who_leaves_the_queue_of_a_users_limit_takes_no_turn() -> None:
    provider = ScriptedProvider(gate=asyncio.Event())
    rules = Rules(limits=(LimitRule(USER, requests_per_minute=3, max_parallel=1, max_waiting=1),))
    bench = Bench([model("a")], {"a": provider}, rules=rules)
    gone = Demand()
    tasks = [asking(bench, Demand(), "one"), asking(bench, gone, "two")]
    await asyncio.sleep(0.1)
    gone.leave()
    await assert_left(tasks[1])
    third = asking(bench, Demand(), "three")  # the place in the queue is free
    await asyncio.sleep(0.1)
    assert provider.gate is not None
    provider.gate.set()
    await asyncio.gather(tasks[0], third)
    assert inputs(provider) == [("one",), ("three",)]
    await asking(bench, Demand(), "four")  # nor did it count


@virtually
async def test_nothing_is_repeated_for_who_has_left() -> None:
    demand = Demand()
    provider = ScriptedProvider(steps=[fail_with(UpstreamFailed("broke"))] * 3)
    settings = UpstreamSettings(max_retries=2, retry_wait_s=5)
    bench = Bench([model("a")], {"a": provider}, upstream=settings)
    task = asking(bench, demand, "one")
    while not provider.batches:
        await asyncio.sleep(0)
    demand.leave()
    await assert_left(task)
    assert inputs(provider) == [("one",)]


@virtually
async def test_a_call_that_was_too_large_is_not_halved_for_who_has_left() -> None:
    demand = Demand()
    provider = ScriptedProvider(gate=asyncio.Event(), steps=[fail_with(UpstreamTooLarge("at most 1"))])
    bench = Bench([model("a")], {"a": provider})
    task = asking(bench, demand, "one", "two")
    while not provider.batches:
        await asyncio.sleep(0)
    demand.leave()
    assert provider.gate is not None
    provider.gate.set()
    await assert_left(task)
    assert inputs(provider) == [("one", "two")]


@virtually
async def test_a_shared_call_that_failed_is_repeated_without_who_has_left() -> None:
    provider = ScriptedProvider(gate=asyncio.Event())
    bench = Bench([model("a")], {"a": provider}, gathering={"a": 1})
    first, gone, stays = Demand(), Demand(), Demand()
    tasks = [asking(bench, first, "one")]
    await asyncio.sleep(0.1)
    tasks += [asking(bench, gone, "two"), asking(bench, stays, "three")]
    await asyncio.sleep(0.1)
    provider.steps.append(fail_with(UpstreamRejected("one of them")))
    provider.gate, gate = asyncio.Event(), provider.gate
    assert gate is not None
    gate.set()
    await tasks[0]
    while len(provider.batches) < 2:
        await asyncio.sleep(0)
    gone.leave()
    provider.gate.set()
    await assert_left(tasks[1])
    await tasks[2]
    assert inputs(provider) == [("one",), ("two", "three"), ("three",)]


@virtually
async def test_a_text_that_another_has_joined_is_asked_for_again_when_the_first_caller_left() -> None:
    first, second = Demand(), Demand()
    provider = ScriptedProvider(steps=[fail_with(UpstreamFailed("broke"))])
    bench = Bench([model("a")], {"a": provider}, upstream=UpstreamSettings(max_retries=1, retry_wait_s=5))
    tasks = [asking(bench, first, "one"), asking(bench, second, "one")]
    while not provider.batches:
        await asyncio.sleep(0)
    first.leave()
    result = await tasks[1]
    assert result.provider == "a"
    assert inputs(provider) == [("one",), ("one",)]
    await asyncio.wait(tasks)


@virtually
async def test_what_was_sent_for_who_left_runs_to_its_end_and_is_paid() -> None:
    demand = Demand()
    provider = ScriptedProvider(gate=asyncio.Event())
    bench = Bench([model("a")], {"a": provider}, memory=Memory())
    task = asking(bench, demand, "one")
    await asyncio.sleep(0.1)
    demand.leave()
    assert provider.gate is not None
    provider.gate.set()
    await task
    assert [(entry.outcome, entry.tokens) for entry in bench.memory.entries] == [("ok", 1)]


@virtually
async def test_a_call_leaves_the_queue_of_a_credential_with_its_caller() -> None:
    limits = CredentialLimits("acme#1", QueueLimits(60.0, 1), requests_per_minute=1, clock=now)
    (await limits.enter("m", 0, now() + 90)).end()
    demand = Demand()

    async def enter() -> None:
        demand_of_task.set(demand)
        await limits.enter("m", 0, now() + 90)

    leaving = asyncio.ensure_future(enter())
    await asyncio.sleep(1)
    demand.leave()
    with pytest.raises(CallerLeft):
        await leaving
    (await limits.enter("m", 0, now() + 90)).end()  # its place in the queue is free, and it did not count
