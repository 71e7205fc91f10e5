"""The memory budget of requests: who fits, who waits, who passes, who is refused, and who is cut."""

import asyncio

import pytest

from embedgate.core.errors import Overloaded
from embedgate.server.memory import Held, MemoryBudget

LIMIT = 8_000
MOST = 7_000
LITTLE = LIMIT // 64


class SlowCaller:
    """A caller who holds memory and hardly moves; once cut, it gives it back."""

    def __init__(self, budget: MemoryBudget, size_bytes: int, pace: float | None, owner: str = "") -> None:
        self.owner = owner
        self.held = Held(budget, owner)
        self.held.become(size_bytes)
        self._pace = pace
        self.is_cut = False
        budget.slow[self] = None

    @property
    def held_bytes(self) -> int:
        return self.held.size_bytes

    def pace(self) -> float | None:
        return self._pace

    def cut(self) -> None:
        self.is_cut = True
        asyncio.get_running_loop().call_soon(self.held.become, 0)


async def test_what_fits_is_taken_at_once_and_given_back() -> None:
    budget = MemoryBudget(LIMIT, 0.01)
    held = Held(budget)
    await held.wait_for(MOST)
    assert budget.used_bytes == MOST
    held.become(10)
    held.become(0)
    assert (budget.used_bytes, budget.is_short) == (0, False)


async def test_who_does_not_fit_waits_until_there_is_room() -> None:
    budget = MemoryBudget(LIMIT, 60)
    first, second = Held(budget), Held(budget)
    await first.wait_for(MOST)
    waiting = asyncio.ensure_future(second.wait_for(4_000))
    await asyncio.sleep(0)
    assert (waiting.done(), budget.is_short) == (False, True)
    first.become(0)
    await waiting
    assert (budget.used_bytes, budget.is_short) == (4_000, False)


async def test_who_waits_too_long_is_refused_and_told_what_to_do() -> None:
    budget = MemoryBudget(LIMIT, 0.01)
    budget.force(MOST)
    with pytest.raises(Overloaded, match=r"server\.max_memory_bytes") as refused:
        await Held(budget).wait_for(4_000)
    assert refused.value.retry_after_s == 2
    assert (budget.used_bytes, budget.is_short) == (MOST, True)


async def test_what_needs_little_passes_what_waits_for_much() -> None:
    budget = MemoryBudget(LIMIT, 60)
    budget.force(MOST)
    waiting = asyncio.ensure_future(Held(budget).wait_for(MOST))
    await asyncio.sleep(0)
    await Held(budget).wait_for(LITTLE)  # the last eighth is for such
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert budget.used_bytes == MOST + LITTLE


async def test_who_leaves_while_waiting_takes_nothing() -> None:
    budget = MemoryBudget(LIMIT, 60)
    budget.force(MOST)
    waiting = asyncio.ensure_future(Held(budget).wait_for(1_000))
    await asyncio.sleep(0)
    budget.give_back(MOST)  # granted, and cancelled in the same moment
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert budget.used_bytes == 0


async def test_who_gets_room_in_the_moment_its_time_is_over_has_it() -> None:
    budget = MemoryBudget(LIMIT, 0)
    budget.force(MOST)
    held = Held(budget)
    waiting = asyncio.ensure_future(held.wait_for(1_000))
    await asyncio.sleep(0)
    budget.give_back(MOST)
    await waiting
    assert budget.used_bytes == held.size_bytes == 1_000


async def test_who_holds_some_does_not_wait_for_more() -> None:
    budget = MemoryBudget(LIMIT, 60)
    budget.force(5_000)
    held = Held(budget)
    held.grow(1_000)
    with pytest.raises(Overloaded):
        held.grow(4_000)
    assert held.size_bytes == 1_000


async def test_the_slowest_are_cut_first_and_only_as_many_as_needed() -> None:
    budget = MemoryBudget(LIMIT, 60)
    slowest = SlowCaller(budget, 2_000, 0.0)
    slower = SlowCaller(budget, 2_000, 10.0)
    quick = SlowCaller(budget, 1_000, 10_000_000.0)
    new = SlowCaller(budget, 1_000, None)
    await Held(budget).wait_for(2_500)
    assert [each.is_cut for each in (slowest, slower, quick, new)] == [True, False, False, False]
    await Held(budget).wait_for(2_000)
    assert [each.is_cut for each in (slowest, slower, quick, new)] == [True, True, False, False]


async def test_answers_that_are_there_already_count_beyond_the_limit_and_cut_the_slow() -> None:
    budget = MemoryBudget(LIMIT, 60)
    slow = SlowCaller(budget, MOST, 0.0)
    Held(budget).become(MOST)
    assert slow.is_cut


async def test_the_requests_of_one_user_leave_room_for_others() -> None:
    budget = MemoryBudget(LIMIT, 0.01, share=0.5)
    first, second, other = Held(budget, "a"), Held(budget, "a"), Held(budget, "b")
    await first.wait_for(3_000)
    with pytest.raises(Overloaded, match=r"hold 3000 bytes of memory, of 4000 that server\.max_memory_share"):
        await second.wait_for(2_000)
    with pytest.raises(Overloaded, match="max_memory_share"):
        second.grow(2_000)
    await other.wait_for(2_000)
    await second.wait_for(1_000)
    for held in (first, second, other):
        held.become(0)
    assert budget.used_bytes == 0


async def test_a_single_request_may_need_more_than_a_share() -> None:
    budget = MemoryBudget(LIMIT, 0.01, share=0.5)
    held = Held(budget, "a")
    await held.wait_for(5_000)
    held.grow(MOST)
    assert budget.used_bytes == MOST


async def test_who_waits_for_its_own_share_keeps_nobody_waiting() -> None:
    budget = MemoryBudget(LIMIT, 60, share=0.5)
    first, second, other = Held(budget, "a"), Held(budget, "a"), Held(budget, "b")
    await first.wait_for(3_000)
    waiting = asyncio.ensure_future(second.wait_for(2_000))
    await asyncio.sleep(0)
    await other.wait_for(3_000)
    assert not waiting.done()
    first.become(0)
    await waiting
    assert budget.used_bytes == 5_000


async def test_the_user_who_holds_least_is_next() -> None:
    budget = MemoryBudget(LIMIT, 60, share=0.75)
    helds = {name: Held(budget, name) for name in "ab"}
    await helds["a"].wait_for(4_000)
    await helds["b"].wait_for(1_000)
    blocking = Held(budget)
    await blocking.wait_for(2_000)
    more = {name: asyncio.ensure_future(Held(budget, name).wait_for(2_000)) for name in "ab"}
    await asyncio.sleep(0)
    blocking.become(0)
    await more["b"]
    assert not more["a"].done()
    helds["a"].become(0)
    await more["a"]


async def test_the_slow_requests_of_a_user_are_cut_for_its_own_share() -> None:
    budget = MemoryBudget(LIMIT, 60, share=0.5)
    own = [SlowCaller(budget, 2_000, pace, "a") for pace in (10.0, 20.0)]
    other = SlowCaller(budget, 1_000, 1.0, "b")
    await Held(budget, "a").wait_for(1_500)
    assert ([caller.is_cut for caller in own], other.is_cut) == ([True, False], False)
