"""Refusals in the audit trail: the first at once, the others counted, nothing lost and nothing that grows."""

import asyncio

from embedgate.core.access import AuditEvent
from embedgate.engine.admission.refusals import MAX_KINDS, MAX_KINDS_PER_KEY, Refusals
from virtual_time import now, virtually

INTERVAL_S = 60.0


class Trail:
    """The trail itself."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    def note(self, event: AuditEvent) -> None:
        """Keep the event."""
        self.events.append(event)

    @property
    def refusals(self) -> int:
        """How many refusals the events stand for."""
        return sum(int(event.detail.get("count") or 1) for event in self.events)


def refusal(actor: str = "key_1", target: str = "acme/m", outcome: str = "rate_limit_exceeded") -> AuditEvent:
    return AuditEvent("decision", int(now() * 1000), actor, "embedding", target, outcome, request_id=f"req_{now()}")


@virtually
async def test_the_first_is_written_at_once_and_the_rest_as_one_with_number_and_times() -> None:
    trail = Trail()
    refusals = Refusals(trail, INTERVAL_S)
    start_ms = int(now() * 1000)
    for _ in range(50):
        refusals.note(refusal())
        await asyncio.sleep(1)
    assert [dict(event.detail) for event in trail.events] == [{}]
    await asyncio.sleep(INTERVAL_S)
    first, rest = trail.events
    assert first.at_ms == start_ms
    assert dict(rest.detail) == {"count": 49, "first_ms": start_ms + 1_000, "last_ms": start_ms + 49_000}
    assert (rest.actor, rest.target, rest.outcome, rest.at_ms) == (
        "key_1",
        "acme/m",
        "rate_limit_exceeded",
        start_ms + 49_000,
    )


@virtually
async def test_a_flood_that_goes_on_is_one_event_for_each_interval() -> None:
    trail = Trail()
    refusals = Refusals(trail, INTERVAL_S)
    for _ in range(10 * int(INTERVAL_S)):
        refusals.note(refusal())
        await asyncio.sleep(1)
    refusals.close()
    assert trail.refusals == 600
    assert len(trail.events) <= 12


@virtually
async def test_who_is_refused_again_after_a_quiet_interval_is_written_at_once() -> None:
    trail = Trail()
    refusals = Refusals(trail, INTERVAL_S)
    for _ in range(3):
        refusals.note(refusal())
        await asyncio.sleep(2.5 * INTERVAL_S)
    assert [dict(event.detail) for event in trail.events] == [{}, {}, {}]


@virtually
async def test_other_keys_models_and_reasons_are_events_of_their_own() -> None:
    trail = Trail()
    refusals = Refusals(trail, INTERVAL_S)
    different = [refusal(), refusal(actor="key_2"), refusal(target="acme/n"), refusal(outcome="forbid")]
    for event in different * 3:
        refusals.note(event)
    refusals.close()
    assert len(trail.events) == 8
    assert trail.refusals == 12


@virtually
async def test_one_key_writes_a_bounded_number_of_events_whatever_it_asks_for() -> None:
    trail = Trail()
    refusals = Refusals(trail, INTERVAL_S)
    for turn in range(5):
        for number in range(1_000):
            refusals.note(refusal(target=f"acme/{number}"))
        assert len(trail.events) <= 2 * MAX_KINDS_PER_KEY + turn * (MAX_KINDS_PER_KEY + 1)
        await asyncio.sleep(INTERVAL_S + 1)
    refusals.close()
    assert trail.refusals == 5_000
    assert {event.target for event in trail.events} == {"*", *(f"acme/{number}" for number in range(MAX_KINDS_PER_KEY))}


@virtually
async def test_what_is_remembered_is_bounded_and_written_before_it_is_forgotten() -> None:
    trail = Trail()
    refusals = Refusals(trail, INTERVAL_S)
    for number in range(3 * MAX_KINDS):
        for _ in range(2):
            refusals.note(refusal(actor=f"key_{number}"))
    refusals.close()
    assert trail.refusals == 6 * MAX_KINDS


@virtually
async def test_what_was_counted_is_written_at_the_end_and_later_refusals_are_not_lost() -> None:
    trail = Trail()
    refusals = Refusals(trail, INTERVAL_S)
    for _ in range(4):
        refusals.note(refusal())
    refusals.close()
    refusals.note(refusal())
    assert [event.detail.get("count") for event in trail.events] == [None, 3, None]


@virtually
async def test_without_an_interval_each_is_written() -> None:
    trail = Trail()
    refusals = Refusals(trail, 0)
    for _ in range(3):
        refusals.note(refusal())
    assert len(trail.events) == 3


@virtually
async def test_of_a_kind_so_many_as_are_asked_for_have_an_event_of_their_own() -> None:
    trail = Trail()
    refusals = Refusals(trail, INTERVAL_S)
    assert [refusals.counts(refusal(), 3) for _ in range(5)] == [False] * 3 + [True] * 2
    await asyncio.sleep(INTERVAL_S)
    assert [event.detail["count"] for event in trail.events] == [2]
    assert refusals.counts(refusal(), 3)  # a flood that goes on
    await asyncio.sleep(2 * INTERVAL_S)
    assert not refusals.counts(refusal(), 3)
    refusals.close()
