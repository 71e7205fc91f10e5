"""The vector cache, for administrators: its contents, and clearing all of it or the vectors of one model."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.errors import UnknownModel
from embedgate.core.types import CacheStats, TierStats
from embedgate.govern.aliases import unaliased
from embedgate.govern.change import Invocation
from embedgate.govern.cleared_models import clear_model
from embedgate.govern.models import find_model
from embedgate.govern.operation import Facts, NoParameters, runs


class Tier(Struct, frozen=True):
    """One tier of the cache, since the gateway started."""

    entries: int
    size_bytes: int
    hits: int
    evictions: Annotated[int, Meta(description="Entries that had to make room.")]
    max_bytes: Annotated[int, Meta(description="What it may hold, by the settings; 0: it is off.")]


class Cache(Struct, frozen=True):
    """The cache, since the gateway started. All is 0 if it is off."""

    is_on: bool
    memory: Tier
    disk: Tier
    misses: int
    dropped: Annotated[int, Meta(description="Entries that never reached the disk.")]
    rejected: Annotated[int, Meta(description="Entries on disk that did not match their checksum.")]
    pending_bytes: Annotated[int, Meta(description="Yet to be written.")]


class WhatToClear(Struct, forbid_unknown_fields=True):
    """What to clear."""

    model: Annotated[str | None, Meta(description="Name or id of the only model; absent: all of them.")] = None


_OFF = CacheStats(TierStats(), TierStats(), misses=0, dropped=0, rejected=0, pending_bytes=0)


@runs("cache.show", "GET", "/api/cache", Facts("showCache"))
def show_cache(invocation: Invocation, _: NoParameters) -> Cache:
    """Show the vector cache."""
    cache = invocation.resources.gateway.cache
    found = cache.stats()
    stats = found or _OFF
    return Cache(
        is_on=found is not None,
        memory=_tier(stats.memory, cache.max_memory_bytes if found else 0),
        disk=_tier(stats.disk, cache.max_disk_bytes if found else 0),
        misses=stats.misses,
        dropped=stats.dropped,
        rejected=stats.rejected,
        pending_bytes=stats.pending_bytes,
    )


@runs("cache.clear", "DELETE", "/api/cache", Facts("clearCache", raises=(UnknownModel,)))
def clear_cache(invocation: Invocation, what: WhatToClear) -> None:
    """Clear the vector cache.

    Or those of one model, which no request finds that comes after the answer. Their room is used again in time.
    """
    if what.model is None:
        invocation.resources.gateway.cache.clear()
        return
    with invocation.change() as change:
        model, _ = find_model(change.resources.catalog(), unaliased(change, what.model))
        clear_model(change, model.id)


def _tier(stats: TierStats, max_bytes: int) -> Tier:
    return Tier(stats.entries, stats.size_bytes, stats.hits, stats.evictions, max_bytes)


OPERATIONS = (show_cache, clear_cache)
