"""All tests of the engine run on virtual time: none waits, and none depends on how busy the machine is."""

import asyncio
from collections.abc import Callable, Mapping

from virtual_time import VirtualLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of every asynchronous test below this folder."""
    return {"virtual": VirtualLoop}
