"""Routes for the vector cache: what it holds, and forgetting all of it."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.types import CacheStats, TierStats
from embedgate.server.admin.route import Asked, Route


class Tier(Struct, frozen=True):
    """One tier of the cache, since the gateway started."""

    entries: int
    size_bytes: int
    hits: int
    evictions: Annotated[int, Meta(description="Entries that had to make room.")]


class Cache(Struct, frozen=True):
    """The cache, since the gateway started. All is 0 if it is off."""

    is_on: bool
    memory: Tier
    disk: Tier
    misses: int
    dropped: Annotated[int, Meta(description="Entries that never reached the disk.")]
    rejected: Annotated[int, Meta(description="Entries on disk that did not match their checksum.")]
    pending_bytes: Annotated[int, Meta(description="Yet to be written.")]


_OFF = CacheStats(TierStats(), TierStats(), misses=0, dropped=0, rejected=0, pending_bytes=0)


def _tier(stats: TierStats) -> Tier:
    return Tier(stats.entries, stats.size_bytes, stats.hits, stats.evictions)


def _show(asked: Asked) -> Cache:
    found = asked.gateway.cache_stats()
    stats = found or _OFF
    return Cache(
        is_on=found is not None,
        memory=_tier(stats.memory),
        disk=_tier(stats.disk),
        misses=stats.misses,
        dropped=stats.dropped,
        rejected=stats.rejected,
        pending_bytes=stats.pending_bytes,
    )


def _clear(asked: Asked) -> None:
    asked.gateway.clear_cache()


ROUTES = (
    Route("GET", "/api/cache", "showCache", "Show the vector cache", _show, Cache),
    Route("DELETE", "/api/cache", "clearCache", "Forget every kept vector", _clear, None),
)
