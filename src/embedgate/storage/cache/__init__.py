"""The vector cache: memory in front of disk, in a folder that several processes may share. It may forget, never err."""

from embedgate.storage.cache.disk import DiskTier
from embedgate.storage.cache.memory import MemoryTier
from embedgate.storage.cache.tiered import TieredCache, open_cache

__all__ = ["DiskTier", "MemoryTier", "TieredCache", "open_cache"]
