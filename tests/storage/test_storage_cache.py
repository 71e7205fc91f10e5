"""The cache as the engine uses it: what is put is found until it is forgotten, in both tiers, within the bounds."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derived_vectors import derived, is_right, items, key_of
from embedgate.core.ports import VectorCache
from embedgate.core.types import CachedVector
from embedgate.settings import CacheSettings
from embedgate.storage.cache import DiskTier, MemoryTier, TieredCache, open_cache
from embedgate.storage.cache.memory import ENTRY_OVERHEAD_BYTES
from embedgate.storage.cache.record import Entry
from embedgate.storage.cache.writer import Items, WriteBehind
from waiting import PATIENCE_S, wait_until

DISK_BYTES = 16_000_000
TTL_S = 100.0


class Clock:
    """UTC milliseconds that a test sets."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


def opened(
    folder: Path, memory_bytes: int = 0, ttl_s: float | None = None, clock: Callable[[], int] | None = None
) -> TieredCache:
    """A cache on a folder, as good as without memory unless a test asks for some."""
    return TieredCache(MemoryTier(memory_bytes), DiskTier(folder, DISK_BYTES), 64_000_000, ttl_s, clock or Clock())


def wait_until_written(cache: TieredCache) -> None:
    wait_until("it is written", lambda: cache.stats().pending_bytes == 0)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TieredCache]:
    """An empty cache in `tmp_path` with memory for everything."""
    cache = opened(tmp_path, memory_bytes=50_000_000)
    yield cache
    cache.close()


def test_it_is_the_port_that_the_engine_expects(cache: TieredCache) -> None:
    port: VectorCache = cache
    assert port.get_many([]) == []


def test_what_is_put_is_found_at_once_in_the_order_asked_for(cache: TieredCache) -> None:
    cache.put_many(items(range(3)))
    found = cache.get_many([key_of(2), key_of(9), key_of(0), key_of(2)])
    assert found[1] is None
    for number, cached in ((2, found[0]), (0, found[2]), (2, found[3])):
        assert cached is not None
        assert is_right(key_of(number), cached)


def test_a_row_of_a_batch_is_copied_and_cannot_be_changed_afterwards(cache: TieredCache) -> None:
    batch = np.ones((2, 8), dtype=np.float32)
    cache.put_many([(key_of(1), CachedVector(batch[1], 1, False))])
    batch[:] = 5
    [found] = cache.get_many([key_of(1)])
    assert found is not None
    assert found.vector.base is None
    assert found.vector.tolist() == [1.0] * 8
    with pytest.raises(ValueError, match="read-only"):
        found.vector[0] = 2


def test_close_writes_what_is_pending_and_the_next_process_finds_it(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put_many(items(range(500)))
    cache.close()
    assert cache.get_many([key_of(1)]) == [None]
    cache.put_many(items(range(1)))

    later = opened(tmp_path)
    found = later.get_many([key_of(number) for number in range(500)])
    assert all(cached is not None and is_right(key_of(number), cached) for number, cached in enumerate(found))
    assert later.stats().disk.hits == 500
    later.close()


def test_what_waits_to_be_written_is_bounded_and_the_rest_is_dropped_and_counted(tmp_path: Path) -> None:
    cache = TieredCache(MemoryTier(10_000_000), DiskTier(tmp_path, DISK_BYTES), max_pending_bytes=50_000)
    cache.put_many(items(range(1_000)))
    stats = cache.stats()
    assert stats.pending_bytes <= 50_000
    assert stats.dropped == 1_000 - 50_000 // (256 * 4 + 24)
    assert None not in cache.get_many([key_of(number) for number in range(1_000)])
    cache.close()


def test_entries_older_than_the_ttl_are_misses_in_both_tiers(tmp_path: Path) -> None:
    clock = Clock()
    cache = opened(tmp_path, 1_000_000, TTL_S, clock)
    cache.put_many(items(range(2)))
    clock.now_ms += int(TTL_S * 1000)
    assert None not in cache.get_many([key_of(0)])
    clock.now_ms += 1
    assert cache.get_many([key_of(0)]) == [None]
    cache.put_many(items(range(1)))
    assert None not in cache.get_many([key_of(0)])
    cache.close()

    later = opened(tmp_path, 1_000_000, TTL_S, clock)
    renewed, old = later.get_many([key_of(0), key_of(1)])
    assert renewed is not None
    assert old is None
    later.close()


def test_clear_forgets_memory_disk_and_what_is_on_its_way(tmp_path: Path) -> None:
    cache = opened(tmp_path, memory_bytes=1_000_000)
    cache.put_many(items(range(100)))
    wait_until_written(cache)
    cache.put_many(items(range(100, 200)))
    cache.clear()
    keys = [key_of(number) for number in range(200)]
    assert cache.get_many(keys) == [None] * 200
    cache.put_many(items(range(1)))
    cache.close()
    later = opened(tmp_path)
    assert [number for number, cached in enumerate(later.get_many(keys)) if cached is not None] == [0]
    later.close()


def test_what_is_being_written_is_found_until_it_is_forgotten() -> None:
    written: list[bytes] = []
    has_begun, may_end = threading.Event(), threading.Event()

    def write(entries: Items) -> None:
        written.extend(key for key, _ in entries)
        has_begun.set()
        assert may_end.wait(PATIENCE_S)

    writer = WriteBehind(write, max_bytes=10_000)
    entry = Entry(derived(key_of(1), 32), 0, 1)
    assert writer.offer([(key_of(1), entry)]) == 1
    assert has_begun.wait(PATIENCE_S)
    assert writer.find(key_of(1)) is entry
    assert writer.pending_bytes > 0
    assert not writer.close(patience_s=0.01)
    writer.forget()
    assert writer.find(key_of(1)) is None
    may_end.set()
    assert writer.close(patience_s=PATIENCE_S)
    assert (written, writer.pending_bytes) == ([key_of(1)], 0)


def test_statistics_tell_tiers_apart(tmp_path: Path) -> None:
    cache = opened(tmp_path, memory_bytes=1_000_000)
    cache.put_many(items(range(10)))
    wait_until_written(cache)
    cache.get_many([key_of(number) for number in range(12)])
    stats = cache.stats()
    assert (stats.memory.entries, stats.memory.hits, stats.misses) == (10, 10, 2)
    assert stats.memory.size_bytes == 10 * (256 * 4 + ENTRY_OVERHEAD_BYTES)
    assert (stats.disk.entries, stats.disk.hits, stats.dropped, stats.rejected) == (10, 0, 0, 0)
    assert 10 * 256 * 4 < stats.disk.size_bytes < 200_000
    cache.close()


Operation = tuple[str, tuple[int, ...], int]
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "get", "get", "clear", "wait", "write", "reopen"]),
        st.lists(st.integers(0, 15), min_size=1, max_size=6).map(tuple),
        st.integers(0, 3),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(operations=OPERATIONS, memory_entries=st.sampled_from([0, 3, 1_000]))
def test_it_behaves_as_a_dictionary_with_a_ttl(operations: list[Operation], memory_entries: int) -> None:
    """Nothing exceeds a bound here, so nothing may be lost either, whatever tier holds it."""
    model: dict[bytes, tuple[int, int]] = {}
    clock = Clock()
    memory_bytes = memory_entries * (32 * 4 + ENTRY_OVERHEAD_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        cache = opened(Path(folder), memory_bytes, TTL_S, clock)
        for what, numbers, version in [*operations, ("get", tuple(range(16)), 0)]:
            keys = [key_of(number) for number in numbers]
            match what:
                case "put":
                    cache.put_many([(key, derived(key, 32, version)) for key in keys])
                    model.update((key, (version, clock.now_ms)) for key in keys)
                case "get":
                    for key, cached in zip(keys, cache.get_many(keys), strict=True):
                        known_version, created_ms = model.get(key, (0, 0))
                        is_expected = clock.now_ms - created_ms <= TTL_S * 1000
                        assert (cached is not None) == is_expected
                        assert cached is None or is_right(key, cached, 32, known_version)
                case "clear":
                    cache.clear()
                    model.clear()
                case "wait":
                    clock.now_ms += 40_000
                case "write":
                    wait_until_written(cache)
                case _:
                    cache.close()
                    cache = opened(Path(folder), memory_bytes, TTL_S, clock)
        cache.close()


def test_memory_never_exceeds_its_bound_and_a_scan_does_not_push_out_what_is_asked_for() -> None:
    memory = MemoryTier(200 * (64 * 4 + ENTRY_OVERHEAD_BYTES))
    wanted = [key_of(number) for number in range(100)]
    for number in range(20_000):
        memory.put(key_of(number), Entry(derived(key_of(number), 64), 0, 0))
        assert memory.size_bytes <= 200 * (64 * 4 + ENTRY_OVERHEAD_BYTES)
        if number == 150:
            assert None not in [memory.get(key) for key in wanted]
    assert None not in [memory.get(key) for key in wanted]
    assert (len(memory), memory.evictions) == (200, 19_800)


def test_settings_open_a_cache_or_say_what_is_wrong(tmp_path: Path) -> None:
    for bad in ({"disk_bytes": 15_999_999}, {"ttl_s": 0}, {"scope": "everyone"}, {"memory_bytes": -1}):
        with pytest.raises(pydantic.ValidationError):
            CacheSettings.model_validate(bad)
    in_memory = open_cache(CacheSettings(disk_bytes=0), tmp_path)
    in_memory.put_many(items(range(1)))
    assert None not in in_memory.get_many([key_of(0)])
    in_memory.clear()
    assert in_memory.get_many([key_of(0)]) == [None]
    in_memory.close()
    assert not list(tmp_path.iterdir())
    on_disk = open_cache(CacheSettings(disk_bytes=DISK_BYTES, memory_bytes=0), tmp_path)
    on_disk.put_many(items(range(1)))
    assert None not in on_disk.get_many([key_of(0)])
    on_disk.close()
    assert (tmp_path / "cache").is_dir()


FORK = """
import os, sys
from pathlib import Path
from derived_vectors import items, key_of
from embedgate.storage.cache import DiskTier, MemoryTier, TieredCache

cache = TieredCache(MemoryTier(10**6), DiskTier(Path(sys.argv[1]), 16_000_000), 10**6)
cache.put_many(items(range(10)))
child = os.fork()
if child == 0:
    cache.put_many(items(range(10, 20)))
    found = cache.get_many([key_of(number) for number in range(20)])
    cache.close()
    os._exit(0 if found == [None] * 20 else 1)
assert os.waitpid(child, 0)[1] == 0
assert None not in cache.get_many([key_of(number) for number in range(10)])
cache.close()
"""


def test_a_forked_child_finds_nothing_and_harms_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, env={"PYTHONPATH": str(Path(__file__).parents[1])})
    later = opened(tmp_path)
    assert None not in later.get_many([key_of(number) for number in range(10)])
    later.close()
