"""Joining in flight: a text that is being embedded right now is not sent again, its askers wait for the one answer.

A caller who leaves does not cancel the others, since work that has begun runs to its end. A failure reaches each
waiter as an error of its own.
"""

import asyncio
import time
from collections.abc import Sequence

from msgspec import Struct

from embedgate.core.errors import UpstreamTimeout
from embedgate.core.vectors import Vectors
from embedgate.engine.embedding.outcome import Outcome


class JoinedInput(Struct, frozen=True):
    """One input in a call that is under way: where its vector will be."""

    flight: "Flight"
    position: int

    async def arrival(self, until_s: float) -> tuple[Outcome, Vectors | None]:
        """The outcome of the flight, and this seat's vector (d,); None if the flight failed.

        until_s: on the monotonic clock. Raises UpstreamTimeout if it has not landed by then.
        """
        flying = self.flight.outcome
        if not flying.done():
            await asyncio.wait([flying], timeout=max(0.0, until_s - time.monotonic()))
            if not flying.done():
                raise UpstreamTimeout("Another request's call with the same text took too long")
        outcome = flying.result()
        return outcome, None if outcome.vectors is None else outcome.vectors[self.position]


class Flight:
    """Inputs that travel together, known by their keys until they have arrived."""

    def __init__(self, board: "dict[bytes, JoinedInput]", keys: Sequence[bytes]) -> None:
        """Puts every key on the board. Use `SingleFlight.depart`."""
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._board = board
        self._keys = keys
        for position, key in enumerate(keys):
            board[key] = JoinedInput(self, position)

    def land(self, outcome: Outcome) -> None:
        """Tell the waiters, and take the keys off the board: who comes later asks anew, or finds the cache."""
        for key in self._keys:
            del self._board[key]
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class SingleFlight:
    """The board: what is in flight now."""

    def __init__(self) -> None:
        self._board: dict[bytes, JoinedInput] = {}

    def seat(self, key: bytes) -> JoinedInput | None:
        """The seat of an input that is in flight, None if it is not."""
        return self._board.get(key)

    def depart(self, keys: Sequence[bytes]) -> Flight:
        """Put inputs on the board. Their keys must be different and not in flight. `land` must follow."""
        return Flight(self._board, keys)

    def __len__(self) -> int:
        """Inputs in flight."""
        return len(self._board)
