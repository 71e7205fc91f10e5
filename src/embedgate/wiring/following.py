"""Keeps a running gateway's rules up to date: polls for rules that other processes have changed.

Owns when rules are read. What becomes of them is the gateway's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from embedgate.core.access import Rules
from embedgate.core.clock import utc_ms
from embedgate.core.errors import ConfigError, InternalError
from embedgate.govern.revision import read_revision
from embedgate.govern.rules import read_rules
from embedgate.observe import events
from embedgate.storage.database import Database

LOOK_EVERY_S = 0.5
"""A change is promised to be in force within a second, and reading and compiling the rules takes time, too."""


class Following:
    """The rules in force, and the task that watches for others."""

    def __init__(self, database: Database, rules: Rules, apply: Callable[[Rules], Awaitable[None]]) -> None:
        """rules: applied already. apply: puts rules in force; raises ConfigError if they cannot be."""
        self._database = database
        self._rules = rules
        self._apply = apply
        self._lock = asyncio.Lock()
        self._looked_at_ms = utc_ms()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def catch_up(self) -> None:
        """Return once what is stored now is in force. Raises InternalError or ConfigError."""
        async with self._lock:
            rules = await asyncio.to_thread(self._read)
            looked_at_ms = utc_ms()
            try:
                await self._apply(rules)
            except ConfigError:  # the next look would find it again; after an InternalError it may succeed
                self._rules, self._looked_at_ms = rules, looked_at_ms
                raise
            self._rules, self._looked_at_ms = rules, looked_at_ms

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Put no rules in force meanwhile."""
        async with self._lock:
            yield

    async def aclose(self) -> None:
        """End the watch."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if await asyncio.to_thread(self._read_revision) != self._rules.revision or self._has_new_price():
                    await self.catch_up()
            except (InternalError, ConfigError) as error:  # the next look may succeed; what was in force stays
                events.RULES_NOT_READ.emit(reason=str(error))

    def _read(self) -> Rules:
        with self._database.read() as connection:
            return read_rules(connection)

    def _read_revision(self) -> int:
        with self._database.read() as connection:
            return read_revision(connection)

    def _has_new_price(self) -> bool:
        """Whether a price has come into force since the last look."""
        now_ms = utc_ms()
        return any(self._looked_at_ms < price.from_ms <= now_ms for price in self._rules.prices)
