"""Who still waits for an outcome: one caller, or several who share it."""

import asyncio

import pytest

from embedgate.core.demand import Demand, SharedDemand, check_wanted, demand_of_task, shared, while_wanted
from embedgate.core.errors import CallerLeft


def test_who_watches_is_told_once_and_at_once_if_it_comes_too_late() -> None:
    demand, told = Demand(), list[str]()
    demand.watch(lambda: told.append("a"))
    demand.leave()
    demand.leave()
    demand.watch(lambda: told.append("b"))
    assert (told, demand.is_gone) == (["a", "b"], True)


def test_who_watches_no_longer_is_not_told() -> None:
    demand, told = Demand(), list[str]()

    def tell() -> None:
        told.append("a")

    demand.watch(tell)
    demand.unwatch(tell)
    demand.unwatch(tell)
    demand.leave()
    assert told == []


def test_shared_demand_is_gone_when_the_last_one_has_left_also_one_who_joined_late() -> None:
    first, late, told = Demand(), Demand(), list[str]()
    both = SharedDemand([first])
    both.watch(lambda: told.append("gone"))
    both.join(late)
    first.leave()
    assert (told, both.is_gone) == ([], False)
    late.leave()
    assert (told, both.is_gone) == (["gone"], True)


def test_shared_demand_of_shared_demand_sees_who_joins_below() -> None:
    first, late, other, told = Demand(), Demand(), Demand(), list[str]()
    flight = SharedDemand([first])
    group = shared([flight, other])
    assert group is not None
    group.watch(lambda: told.append("gone"))
    flight.join(late)
    first.leave()
    other.leave()
    assert told == []
    late.leave()
    assert told == ["gone"]


def test_nothing_is_left_with_a_caller_once_nobody_watches() -> None:
    demand = Demand()
    both = SharedDemand([demand, Demand()])

    def drop() -> None: ...

    both.watch(drop)
    assert demand.watchers
    both.unwatch(drop)
    assert not demand.watchers
    assert not both.watchers


def test_what_somebody_waits_for_who_cannot_leave_is_always_wanted() -> None:
    assert shared([Demand(), None]) is None
    assert shared([]) is None
    one = Demand()
    assert shared([one]) is one


async def test_work_is_dropped_while_it_waits_and_refused_before_it_begins() -> None:
    demand = Demand()
    demand_of_task.set(demand)
    check_wanted()
    waiting = asyncio.get_running_loop().create_future()
    with while_wanted(lambda: waiting.set_result("dropped")):
        demand.leave()
        assert await waiting == "dropped"
    with pytest.raises(CallerLeft):
        check_wanted()
