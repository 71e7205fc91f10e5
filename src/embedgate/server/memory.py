"""Memory budget of requests: bounds the bytes that are read, parsed, held and unsent, weighed before they are taken.

Knows no HTTP. Small bodies and answers are not asked for here: their number is that of the connections.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import Protocol

from embedgate.core.errors import Overloaded
from embedgate.observe import events, metrics
from embedgate.server.machine_memory import available_bytes
from embedgate.settings import ServerSettings

SMALL_BYTES = 16_384
"""What is no larger is not weighed: a connection may have it."""

_SHARE = 0.4
"""Of the memory of the machine or container, without a setting. Models, the cache and the interpreter need the rest."""
_RESERVE = 8
"""The last eighth of the budget is for what needs little."""
_LITTLE = 64
"""What needs no more than this part of the budget."""
_SLOW_BYTES_PER_S = 100_000
"""Who is slower may be cut while memory is short."""
_SHORT_S = 5.0
"""How long after a refusal the budget is still called short."""
RETRY_AFTER_S = 2.0


class Slow(Protocol):
    """A caller who sends a body or reads an answer, and holds memory meanwhile."""

    @property
    def owner(self) -> str:
        """The user in whose share it counts; "" if none is known."""
        ...

    @property
    def held_bytes(self) -> int:
        """What is free once it is cut."""
        ...

    def pace(self) -> float | None:
        """Bytes per second that it sends or reads; None if that cannot be told yet."""
        ...

    def cut(self) -> None:
        """End its request."""
        ...


class MemoryBudget:
    """Bytes that requests hold together, never above a limit except by what is sent already.

    Who does not fit waits: at most `wait_s`, then it is refused. What needs little may pass what needs much, and the
    last eighth is left for it, so that a few large bodies do not stop everybody.

    The requests of one user hold no more than a share, except for a single one, and of those that wait that of the user
    who holds least is next: nobody takes everything.
    """

    def __init__(self, limit_bytes: int, wait_s: float, share: float = 1.0) -> None:
        """limit_bytes: at least as much as the largest body needs. wait_s: longest wait for room.

        share: the part of it that one user may hold.
        """
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._wait_s = wait_s
        self._share_bytes = int(limit_bytes * share)
        self._of_owner: Counter[str] = Counter()
        self._waiting: deque[_Waiting] = deque()
        self._short_until_s = 0.0
        self.slow: dict[Slow, None] = {}
        """Callers whose requests or answers are under way; the slowest are cut when memory is short."""

    @property
    def is_short(self) -> bool:
        """Whether a request waits for memory, or was refused a moment ago."""
        return bool(self._waiting) or asyncio.get_running_loop().time() < self._short_until_s

    @property
    def most_bytes(self) -> int:
        """The most that one request may ever need."""
        return self.limit_bytes - self.limit_bytes // _RESERVE

    def _fits(self, size_bytes: int, owner: str, held_bytes: int) -> bool:
        """Whether there is room now for so much more. held_bytes: what the same request has already."""
        return self._missing_bytes(size_bytes) <= 0 and self._is_within_share(size_bytes, owner, held_bytes)

    def _missing_bytes(self, size_bytes: int) -> int:
        """How much would have to be given back for so much more."""
        is_little = size_bytes * _LITTLE <= self.limit_bytes
        return self.used_bytes + size_bytes - (self.limit_bytes if is_little else self.most_bytes)

    def _is_within_share(self, size_bytes: int, owner: str, held_bytes: int) -> bool:
        return self._over_share_bytes(size_bytes, owner, held_bytes) <= 0

    def _over_share_bytes(self, size_bytes: int, owner: str, held_bytes: int) -> int:
        """How much its user would have to give back; nothing for the only request of a user."""
        is_alone = not owner or self._of_owner[owner] <= held_bytes
        return 0 if is_alone else self._of_owner[owner] + size_bytes - self._share_bytes

    async def take(self, size_bytes: int, owner: str = "", held_bytes: int = 0) -> None:
        """Take so much, once there is room. Only small requests may overtake those that wait.

        owner: the user in whose share it counts, if any. held_bytes: what the same request has already.
        Raises Overloaded if there is no room in time. A cancelled wait takes nothing.
        """
        is_first = size_bytes * _LITTLE <= self.limit_bytes or not any(
            self._is_within_share(each.size_bytes, each.owner, each.held_bytes) for each in self._waiting
        )
        if is_first and self._fits(size_bytes, owner, held_bytes):
            self.force(size_bytes, owner)
            return
        self._cut_for(size_bytes, owner, held_bytes)
        waiting = _Waiting(size_bytes, owner, held_bytes, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(self._wait_s):
                await waiting.granted
        except TimeoutError:
            if waiting.granted.cancelled():  # else it was granted in the same turn of the loop
                raise self._refusal(size_bytes, owner, held_bytes) from None
        except asyncio.CancelledError:
            if waiting.granted.done() and not waiting.granted.cancelled():
                self.give_back(size_bytes, owner)
            raise
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def take_now(self, size_bytes: int, owner: str = "", held_bytes: int = 0) -> None:
        """Take so much without waiting. Raises Overloaded if there is no room."""
        if not self._fits(size_bytes, owner, held_bytes):
            self._cut_for(size_bytes, owner, held_bytes)
            if not self._fits(size_bytes, owner, held_bytes):
                raise self._refusal(size_bytes, owner, held_bytes)
        self.force(size_bytes, owner)

    def force(self, size_bytes: int, owner: str = "") -> None:
        """Take what is there already, such as an answer; it may go beyond the limit."""
        self._count(size_bytes, owner)
        if self.used_bytes > self.limit_bytes:
            self._cut_slowest(self.used_bytes - self.limit_bytes)

    def give_back(self, size_bytes: int, owner: str = "") -> None:
        """Give back what was taken; who waits may have it, those of users who hold least first."""
        self._count(-size_bytes, owner)
        if not self._waiting:
            return
        for waiting in sorted(self._waiting, key=lambda each: self._of_owner[each.owner] if each.owner else 0):
            if not waiting.granted.done() and self._fits(waiting.size_bytes, waiting.owner, waiting.held_bytes):
                self._count(waiting.size_bytes, waiting.owner)
                waiting.granted.set_result(None)

    def _count(self, size_bytes: int, owner: str) -> None:
        self.used_bytes += size_bytes
        if owner:
            self._of_owner[owner] += size_bytes
            if self._of_owner[owner] <= 0:
                del self._of_owner[owner]

    def _cut_for(self, size_bytes: int, owner: str, held_bytes: int) -> None:
        """Cut who hardly sends or reads, for the sake of a request; among its user, if the share is full."""
        self._cut_slowest(self._missing_bytes(size_bytes))
        over_bytes = self._over_share_bytes(size_bytes, owner, held_bytes)
        if over_bytes > 0:
            self._cut_slowest(over_bytes, owner)

    def _cut_slowest(self, missing_bytes: int, owner: str = "") -> None:
        """Cut callers who hardly send or read, the slowest first, until what they hold is enough. owner: only of it."""
        among = [slow for slow in self.slow if slow.owner == owner] if owner else self.slow
        paces = [(pace, slow) for slow in among if (pace := slow.pace()) is not None and pace < _SLOW_BYTES_PER_S]
        for _, slow in sorted(paces, key=lambda pair: pair[0]):
            if missing_bytes <= 0:
                return
            missing_bytes -= slow.held_bytes
            metrics.memory_cut()
            events.SLOW_CALLER_CUT.emit(held_bytes=slow.held_bytes)
            del self.slow[slow]
            slow.cut()

    def _refusal(self, size_bytes: int, owner: str, held_bytes: int) -> Overloaded:
        if self._missing_bytes(size_bytes) <= 0 and not self._is_within_share(size_bytes, owner, held_bytes):
            metrics.memory_share_refused()
            return Overloaded(
                f"Requests of your user hold {self._of_owner[owner]} bytes of memory, of {self._share_bytes} that "
                f"server.max_memory_share allows to one, and this one needs {size_bytes}. Send fewer at a time, or "
                "fewer inputs in one request.",
                retry_after_s=RETRY_AFTER_S,
            )
        loop_s = asyncio.get_running_loop().time()
        if loop_s >= self._short_until_s:
            events.MEMORY_SHORT.emit(used_bytes=self.used_bytes, limit_bytes=self.limit_bytes)
        self._short_until_s = loop_s + _SHORT_S
        metrics.memory_refused()
        return Overloaded(
            f"Requests hold {self.used_bytes} bytes of memory, of {self.limit_bytes} that server.max_memory_bytes "
            f"allows, and this one needs {size_bytes}. Try again in a moment, or send fewer inputs in one request.",
            retry_after_s=RETRY_AFTER_S,
        )


def memory_budget(bounds: ServerSettings) -> MemoryBudget:
    """The budget that the settings give, or the share of the machine's memory that it is without one."""
    limit_bytes = bounds.max_memory_bytes or int(available_bytes() * _SHARE)
    return MemoryBudget(limit_bytes, bounds.memory_wait_s, bounds.max_memory_share)


@dataclass(slots=True, eq=False)
class _Waiting:
    """Who waits for memory."""

    size_bytes: int
    owner: str
    held_bytes: int
    granted: "asyncio.Future[None]"


class Held:
    """Share of a memory budget that one request holds: grows and shrinks with the request, and ends with it."""

    __slots__ = ("_budget", "owner", "size_bytes")

    def __init__(self, budget: MemoryBudget, owner: str = "") -> None:
        """Nothing yet. owner: the user in whose share it counts, if any."""
        self._budget = budget
        self.owner = owner
        self.size_bytes = 0

    async def wait_for(self, size_bytes: int) -> None:
        """Hold so much in all, once there is room. Raises Overloaded."""
        if size_bytes > self.size_bytes:
            await self._budget.take(size_bytes - self.size_bytes, self.owner, self.size_bytes)
            self.size_bytes = size_bytes

    def grow(self, size_bytes: int) -> None:
        """Hold so much in all, now: who holds some already must not wait for others. Raises Overloaded."""
        if size_bytes > self.size_bytes:
            self._budget.take_now(size_bytes - self.size_bytes, self.owner, self.size_bytes)
            self.size_bytes = size_bytes

    def become(self, size_bytes: int) -> None:
        """Hold exactly so much, which is there already."""
        more = size_bytes - self.size_bytes
        self.size_bytes = size_bytes
        if more > 0:
            self._budget.force(more, self.owner)
        elif more < 0:
            self._budget.give_back(-more, self.owner)
