"""Single flight: one provider call per distinct text. Requests for a text that is being embedded wait for that call.

A caller who leaves does not cancel the others: a flight that still waits in a queue is dropped once all who wait for it
have left. A failure reaches each waiter as an error of its own.
"""

import asyncio
import time
from collections.abc import Sequence

from msgspec import Struct

from embedgate.core.demand import Demand, SharedDemand
from embedgate.core.errors import UpstreamNotAsked
from embedgate.engine.embedding.outcome import Outcome


class JoinedInput(Struct, frozen=True):
    """One input in a call that is under way: where its vector will be."""

    flight: "Flight"
    position: int


class Flight(Struct, eq=False):
    """Inputs of one provider call, known by their keys until it has ended. `demand` is that of all who wait for it.

    Made by `SingleFlight.depart`.
    """

    demand: SharedDemand
    _in_flight: dict[bytes, JoinedInput]
    _keys: Sequence[bytes]
    _waiting: asyncio.Future[None] | None = None
    outcome: Outcome | None = None

    def waiting(self) -> asyncio.Future[None]:
        """Done once the flight has ended."""
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        return self._waiting

    async def arrival(self, until_s: float) -> Outcome:
        """The outcome, once there is one.

        until_s: on the monotonic clock. Raises UpstreamNotAsked if it has not ended by then.
        """
        if self.outcome is None:
            await asyncio.wait([self.waiting()], timeout=max(0.0, until_s - time.monotonic()))
            if self.outcome is None:
                raise UpstreamNotAsked("Another request's call with the same text took too long")
        return self.outcome

    def land(self, outcome: Outcome) -> None:
        """End the flight and wake the waiters. Later requests find the vector in the cache, or make their own call."""
        for key in self._keys:
            del self._in_flight[key]
        self.outcome = outcome
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class SingleFlight:
    """The inputs of one route of one model that are in flight now."""

    def __init__(self) -> None:
        self._in_flight: dict[bytes, JoinedInput] = {}

    def find(self, key: bytes) -> JoinedInput | None:
        """The input of that key, if it is in flight."""
        return self._in_flight.get(key)

    def depart(self, keys: Sequence[bytes], demand: Demand) -> Flight:
        """Begin a flight. Its keys must be different and not in flight. `Flight.land` must follow.

        demand: of the request that begins it.
        """
        flight = Flight(SharedDemand([demand]), self._in_flight, keys)
        for position, key in enumerate(keys):
            self._in_flight[key] = JoinedInput(flight, position)
        return flight

    def first_of_each(self, rows: Sequence[int], keys: Sequence[bytes]) -> list[int]:
        """The rows that need a call of their own: the first of each text that is not in flight."""
        if not self._in_flight and len(rows) == 1:
            return list(rows)
        first: dict[bytes, int] = {}
        for row in rows:
            if keys[row] not in self._in_flight:
                first.setdefault(keys[row], row)
        return list(first.values())

    def __len__(self) -> int:
        """Inputs in flight."""
        return len(self._in_flight)
