"""Claim on the data folder: the one server that counts budgets and keeps answers to idempotency keys.

Both are counted in the memory of one process, so a further server on the folder leaves them to the first, and takes
over when that has ended.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from embedgate.core.errors import ConfigError, InternalError
from embedgate.observe import events

_TRY_EVERY_S = 1.0


class FolderClaim:
    """Whether this process has the claim: `is_held`. Without it, tries again every second."""

    def __init__(self, take: Callable[[], bool], *, is_held: bool, on_taken: Callable[[], Awaitable[None]]) -> None:
        """take: blocks a moment, and returns whether the claim is taken. on_taken: before the claim counts as held."""
        self._take = take
        self.is_held = is_held
        self._on_taken = on_taken
        self._task = None if is_held else asyncio.get_running_loop().create_task(self._keep_trying())

    async def aclose(self) -> None:
        """Stop trying."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_trying(self) -> None:
        is_taken = False
        while not self.is_held:
            await asyncio.sleep(_TRY_EVERY_S)
            # The folder cannot be used now; the next try may do.
            with contextlib.suppress(ConfigError, InternalError, OSError):
                if not is_taken:
                    is_taken = await asyncio.to_thread(self._take)
                else:  # not at once: a process that ends lets go of its files one after the other
                    await self._on_taken()
                    self.is_held = True
                    events.SERVER_TOOK_OVER.emit()
