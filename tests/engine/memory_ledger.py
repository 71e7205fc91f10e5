"""A ledger in memory, whose sums can be made to wait, and short words for rules and times."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from embedgate.core.access import BudgetRule, Period, Subject
from embedgate.core.errors import GatewayError


def rule(subject: Subject, period: Period, cap: int) -> BudgetRule:
    return BudgetRule(subject, period, cap)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


@dataclass(frozen=True)
class Entry:
    request_id: str
    subjects: tuple[Subject, ...]
    at_ms: int
    cost: int


@dataclass
class Memory:
    """A ledger in a list. While it is stalled, sums wait; `sums_late` says when they are taken."""

    entries: list[Entry] = field(default_factory=list)
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    sums_late: bool = False
    error: GatewayError | None = None
    n_sums: int = 0

    def __post_init__(self) -> None:
        self.flowing.set()

    async def spent(self, subject: Subject, since_ms: int, without: Collection[str]) -> int:
        self.n_sums += 1
        early = self.total(subject, since_ms, without)
        await self.flowing.wait()
        if self.error is not None:
            raise self.error
        return self.total(subject, since_ms, without) if self.sums_late else early

    def total(self, subject: Subject, since_ms: int, without: Collection[str] = ()) -> int:
        return sum(
            entry.cost
            for entry in self.entries
            if subject in entry.subjects and entry.at_ms >= since_ms and entry.request_id not in without
        )


async def turn() -> None:
    """Let every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)
