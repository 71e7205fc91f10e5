"""Operations of administration without a gateway: on the data folder, for commands, whether or not a gateway runs."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from embedgate.config import Loaded
from embedgate.core.errors import UnsupportedOption
from embedgate.core.models import Model
from embedgate.core.ports import VectorCache
from embedgate.core.types import CacheStats, EmbedResult
from embedgate.engine.routing.compare import Verdict
from embedgate.govern.change import COMMAND_LINE, Invocation
from embedgate.govern.resources import CacheAccess, GatewayAccess
from embedgate.govern.selection import Selection
from embedgate.observe import events
from embedgate.storage.cache import open_cache
from embedgate.wiring import discovery
from embedgate.wiring.administration import decide_within, open_resources, opened_database
from embedgate.wiring.gateway import Gateway, open_gateway

T = TypeVar("T")


@contextmanager
def open_operations(loaded: Loaded) -> Iterator[Callable[[], Invocation]]:
    """What operations run with, as `command line`, one for each call. Makes the database if it is not there.

    A gateway that runs on the same folder has a change within a second. Raises ConfigError.
    """
    with opened_database(loaded) as database:

        @functools.cache
        def selection() -> Selection:
            with database.read() as connection:
                return decide_within(loaded, connection)

        decide = functools.partial(decide_within, loaded)
        gateway = GatewayAccess(
            selection,
            decide,
            functools.partial(_try_provider, loaded),
            _cache_on_disk(loaded),
            list_models=lambda name: discovery.list_models(loaded.settings, selection(), name),
            probe_model=lambda name, model: discovery.probe(loaded.settings, selection(), name, model),
            verify=functools.partial(_verify, loaded),
        )
        resources = open_resources(loaded, gateway)
        yield lambda: Invocation(database, resources, COMMAND_LINE)


def _try_provider(loaded: Loaded, name: str, model: str | None) -> EmbedResult:
    """Embed a word with a provider, in a gateway that is opened for it. Raises a GatewayError, or ConfigError."""
    return _in_gateway(loaded, lambda gateway: gateway.try_provider(name, model))


def _verify(loaded: Loaded, models: Sequence[Model]) -> Sequence[Sequence[Verdict]]:
    """The verdicts on the routes of each model, in a gateway that is opened for it. Raises ConfigError."""
    return _in_gateway(loaded, lambda gateway: gateway.verify_models(models))


def _in_gateway(loaded: Loaded, ask: Callable[[Gateway], Coroutine[Any, Any, T]]) -> T:
    """What is asked of a gateway that is opened for it, and closed again."""

    async def attempt() -> T:
        gateway = await open_gateway(loaded)
        try:
            return await ask(gateway)
        finally:
            await gateway.aclose()

    return asyncio.run(attempt())


def _cache_on_disk(loaded: Loaded) -> CacheAccess:
    """The cache in the data folder, opened for each look; a running gateway may have it open too."""
    settings = loaded.settings

    @contextmanager
    def opened() -> Iterator[VectorCache]:
        events.configure("warning", settings.log.format)  # a folder that cannot be used is told by an event
        cache = open_cache(settings.cache, settings.storage.data_dir.expanduser())
        try:
            yield cache
        finally:
            cache.close()

    def stats() -> CacheStats:
        with opened() as cache:
            return cache.stats()

    def clear() -> None:
        if not settings.cache.disk_bytes:
            raise UnsupportedOption(
                "cache.disk_bytes is 0: nothing is on disk, and what a gateway keeps in memory ends with it. Restart "
                "it."
            )
        with opened() as cache:
            cache.clear()

    return CacheAccess(stats, clear, settings.cache.memory_bytes, settings.cache.disk_bytes)
