"""Demand: whether any caller still waits for the outcome of some work. Queues drop work that nobody waits for.

Only those who wait in a queue read it: for a place at a provider, for room in the limits of a credential, for a
shared call, for a turn within the limits of the caller. So it is a context variable of the task, and no parameter of
every call in between. What has been sent to a provider goes on to its end: it is billed in any case.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import Struct

from embedgate.core.errors import CallerLeft

Watcher = Callable[[], None]
"""Called once, when nobody waits any more."""


class Demand(Struct, eq=False):
    """Demand of one caller: gone once the caller has left."""

    is_gone: bool = False
    watchers: list[Watcher] | None = None

    def leave(self) -> None:
        """Say that the caller has left, and tell those who watch. Idempotent."""
        self.is_gone = True
        watchers, self.watchers = self.watchers, None
        for watcher in watchers or ():
            watcher()

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` when the caller leaves, at once if it has."""
        if self.is_gone:
            watcher()
        elif self.watchers is None:
            self.watchers = [watcher]
        else:
            self.watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Undo `watch`."""
        if self.watchers is not None and watcher in self.watchers:
            self.watchers.remove(watcher)


class SharedDemand(Struct, eq=False):
    """Demand of several callers for one outcome: gone once all of them have left. Others may join while it is not."""

    members: "list[Demand | SharedDemand]"
    watchers: list[Watcher] | None = None

    @property
    def is_gone(self) -> bool:
        """Whether all have left."""
        return all(member.is_gone for member in self.members)

    def join(self, member: "Demand | SharedDemand") -> None:
        """Add a caller who waits for the same."""
        self.members.append(member)
        if self.watchers:
            member.watch(self._tell)

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` when all have left, at once if they have."""
        if not self.watchers:
            self.watchers = [watcher]
            for member in tuple(self.members):
                member.watch(self._tell)
        else:
            self.watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Undo `watch`."""
        if self.watchers and watcher in self.watchers:
            self.watchers.remove(watcher)
            if not self.watchers:
                for member in self.members:
                    member.unwatch(self._tell)

    def _tell(self) -> None:
        if self.is_gone:
            watchers, self.watchers = self.watchers, None
            for watcher in watchers or ():
                watcher()


AnyDemand = Demand | SharedDemand

demand_of_task: ContextVar[AnyDemand | None] = ContextVar("demand_of_task", default=None)
"""The demand for what the running task does. None where no caller waits who could leave."""


def shared(demands: Sequence[AnyDemand | None]) -> AnyDemand | None:
    """The demand for an outcome that several wait for; None if any of them cannot leave."""
    known = [demand for demand in demands if demand is not None]
    if not known or len(known) < len(demands):
        return None
    return known[0] if len(known) == 1 else SharedDemand(known)


def unwanted() -> CallerLeft | None:
    """The error of what the running task does if nobody waits for it any more; None if somebody does."""
    demand = demand_of_task.get()
    return caller_left() if demand is not None and demand.is_gone else None


def check_wanted() -> None:
    """Raises CallerLeft if nobody waits any more for what the running task does."""
    left = unwanted()
    if left is not None:
        raise left


@contextmanager
def while_wanted(drop: Watcher) -> Iterator[None]:
    """Call `drop` if everybody leaves who waits for what runs inside; at once if they have."""
    demand = demand_of_task.get()
    if demand is None:
        yield
        return
    demand.watch(drop)
    try:
        yield
    finally:
        demand.unwatch(drop)


def caller_left() -> CallerLeft:
    """The error of work that was dropped before it was sent."""
    return CallerLeft("The caller closed the connection before its request was sent to a provider.")
