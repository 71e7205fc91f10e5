"""Waits of the tests for something to come about, with a deadline that a busy machine keeps, too."""

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 120.0
"""How long a test waits for what must come about. Only a test that fails waits so long."""


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    """Return once it is so; fail when it does not come about."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"it did not come about that {what}"
        time.sleep(0.01)


async def until(is_so: Callable[[], bool]) -> None:
    """Return once it is so, while the loop goes on; fail when it does not come about."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.005)
