"""Places for calls to one provider: the queue in front of them is bounded, and those leave it whom nobody waits for."""

import asyncio
import logging

import pytest

from embedgate.core.demand import Demand, SharedDemand, demand_of_task
from embedgate.core.errors import CallerLeft, UpstreamQueueFull, UpstreamTimeout
from embedgate.observe import metrics
from embedgate.transport import ConcurrencyLimit, QueueBounds
from virtual_time import now, virtually


def entering(limit: ConcurrencyLimit, size_bytes: int = 1, within_s: float = 60) -> "asyncio.Task[None]":
    return asyncio.ensure_future(limit.enter("acme", now() + within_s, size_bytes))


async def entering_for(demand: Demand | SharedDemand, limit: ConcurrencyLimit) -> None:
    demand_of_task.set(demand)
    await limit.enter("acme", now() + 60, 1)


@virtually
async def test_more_calls_than_may_wait_are_refused_with_a_time_and_the_settings() -> None:
    limit = ConcurrencyLimit(1, QueueBounds(max_calls=2))
    await limit.enter("acme", now() + 1)
    waiting = [entering(limit), entering(limit)]
    await asyncio.sleep(0)
    with pytest.raises(UpstreamQueueFull, match=r"2 calls .* acme .*max_queued_calls") as caught:
        await limit.enter("acme", now() + 1)
    assert caught.value.retry_after_s == 1.0
    limit.leave()
    await waiting[0]
    waiting.append(entering(limit))  # there is room again
    limit.leave()
    limit.leave()
    await asyncio.gather(*waiting)
    limit.leave()
    await asyncio.wait_for(limit.emptied(), 1)


@virtually
async def test_the_bytes_that_wait_are_bounded_and_a_single_large_call_may_wait() -> None:
    limit = ConcurrencyLimit(1, QueueBounds(max_bytes=100))
    await limit.enter("acme", now() + 1)
    large = entering(limit, 500)
    await asyncio.sleep(0)
    with pytest.raises(UpstreamQueueFull, match=r"500 bytes .*max_queued_bytes"):
        await limit.enter("acme", now() + 1, 1)
    limit.leave()
    await large
    small = [entering(limit, 60), entering(limit, 40)]
    await asyncio.sleep(0)
    with pytest.raises(UpstreamQueueFull):
        await limit.enter("acme", now() + 1, 1)
    for call in small:
        limit.leave()
        await call
    limit.leave()


@virtually
async def test_a_full_queue_is_told_once_until_it_has_emptied_and_counted_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "embedgate")
    limit = ConcurrencyLimit(1, QueueBounds(max_calls=2))
    await limit.enter("told", now() + 1)
    waiting = [asyncio.ensure_future(limit.enter("told", now() + 60)) for _ in range(2)]
    await asyncio.sleep(0)
    for _ in range(5):
        with pytest.raises(UpstreamQueueFull):
            await limit.enter("told", now() + 1)
    assert [record.getMessage() for record in caplog.records] == ["provider_queue_full"]
    text = metrics.text(None).decode()
    assert 'embedgate_provider_queue_refusals_total{provider="told"} 5.0' in text
    assert 'embedgate_provider_waiting{provider="told"} 2.0' in text
    for call in waiting:
        limit.leave()
        await call
    assert 'embedgate_provider_waiting{provider="told"} 0.0' in metrics.text(None).decode()
    limit.leave()


@virtually
async def test_a_call_leaves_the_queue_with_its_caller_and_the_next_one_moves_up() -> None:
    limit = ConcurrencyLimit(1)
    await limit.enter("acme", now() + 1)
    demand = Demand()
    leaving = asyncio.ensure_future(entering_for(demand, limit))
    staying = entering(limit)
    await asyncio.sleep(0)
    demand.leave()
    with pytest.raises(CallerLeft):
        await leaving
    limit.leave()
    await staying
    limit.leave()
    await asyncio.wait_for(limit.emptied(), 1)
    assert not demand.watchers


@virtually
async def test_a_call_stays_in_the_queue_while_one_of_its_callers_does() -> None:
    limit = ConcurrencyLimit(1)
    await limit.enter("acme", now() + 1)
    first, second = Demand(), Demand()
    both = SharedDemand([first, second])
    shared = asyncio.ensure_future(entering_for(both, limit))
    await asyncio.sleep(0)
    first.leave()
    await asyncio.sleep(1)
    assert not shared.done()
    limit.leave()
    await shared
    limit.leave()


@virtually
async def test_a_turn_that_comes_as_the_caller_leaves_loses_no_place() -> None:
    for leaves_first in (True, False):
        limit = ConcurrencyLimit(1)
        await limit.enter("acme", now() + 1)
        demand = Demand()
        call = asyncio.ensure_future(entering_for(demand, limit))
        await asyncio.sleep(0)
        for step in (demand.leave, limit.leave) if leaves_first else (limit.leave, demand.leave):
            step()
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        if outcome is None:
            limit.leave()
        assert isinstance(outcome, CallerLeft) is leaves_first
        await asyncio.wait_for(limit.emptied(), 1)


@virtually
async def test_a_call_whose_time_is_over_or_whose_task_ends_frees_its_bytes() -> None:
    limit = ConcurrencyLimit(1, QueueBounds(max_bytes=10))
    await limit.enter("acme", now() + 1)
    with pytest.raises(UpstreamTimeout):
        await limit.enter("acme", now() + 1, 10)
    cancelled = entering(limit, 10)
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    last = entering(limit, 10)
    limit.leave()
    await last
    limit.leave()
