"""The vector cache: a memory tier in front of a disk tier, in a folder that several processes may share.

It may lose an entry. It never returns a wrong vector, and never fails a request.
"""

from embedgate.storage.cache.disk import DiskTier
from embedgate.storage.cache.memory import MemoryTier
from embedgate.storage.cache.tiered import TieredCache, open_cache

__all__ = ["DiskTier", "MemoryTier", "TieredCache", "open_cache"]
