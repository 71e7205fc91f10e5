"""The disk tier: bounds that hold, eviction that keeps what is used, damage and full disks that cost entries only."""

import logging
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from derived_vectors import derived, is_right, key_of
from embedgate.core.errors import InternalError
from embedgate.storage.cache import DiskTier, MemoryTier, TieredCache
from embedgate.storage.cache.record import Entry

DISK_BYTES = 16_000_000
DIM = 4096  # 16 KB: 110 of them fill a generation of the smallest store
ALWAYS = 1 << 60
"""As the generation of an entry: later than any clear."""


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def entries(numbers: range, dim: int = DIM) -> list[tuple[bytes, Entry]]:
    """Entries as they come from the queue."""
    return [(key_of(number), Entry(derived(key_of(number), dim), 0, ALWAYS)) for number in numbers]


def found(disk: DiskTier, numbers: range, dim: int = DIM) -> list[int]:
    """Which of the numbers are on disk, each of them right."""
    state = disk.state()
    assert state is not None
    known = disk.find([key_of(number) for number in numbers], state)
    assert all(is_right(key, entry.cached, dim) for key, entry in known.items())
    return [number for number in numbers if key_of(number) in known]


def bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "embedgate"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the tests of this module keep their store."""
    return tmp_path / "cache"


@pytest.fixture
def filled(folder: Path) -> Path:
    """A folder with 60 entries in one generation."""
    disk = DiskTier(folder, DISK_BYTES)
    disk.work(entries(range(60)))
    disk.close()
    return folder


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Events of the gateway."""
    with caplog.at_level(logging.INFO, logger="embedgate"):
        yield caplog


@pytest.mark.parametrize(("dim", "n"), [(DIM, 4_800), (256, 60_000), (32, 60_000)])
def test_the_bound_holds_through_many_times_its_worth_of_writes(folder: Path, dim: int, n: int) -> None:
    disk = DiskTier(folder, DISK_BYTES)
    for first in range(0, n, n // 60):
        disk.work(entries(range(first, first + n // 60), dim))
        assert bytes_on_disk(folder) <= DISK_BYTES
        assert disk.usage()[1] <= DISK_BYTES
    assert (disk.dropped, disk.evictions + disk.usage()[0]) == (0, n)
    # One generation of eight may be nearly empty. Tables are sized for 256 numbers and more.
    kept = found(disk, range(n), dim)
    assert len(kept) * dim * 4 > DISK_BYTES * (0.7 if dim >= 256 else 0.1)
    assert kept == list(range(n - len(kept), n))
    disk.close()
    assert bytes_on_disk(folder) <= DISK_BYTES


def test_what_is_used_survives_any_number_of_writes(folder: Path) -> None:
    cache = TieredCache(MemoryTier(0), DiskTier(folder, DISK_BYTES), 64_000_000)
    used = [key_of(number) for number in range(20)]
    cache.put_many([(key, derived(key, DIM)) for key in used])
    for round_ in range(30):
        fresh = [key_of(1_000 + 300 * round_ + n) for n in range(300)]
        assert None not in cache.get_many(used)
        cache.put_many([(key, derived(key, DIM)) for key in fresh])
        while cache.stats().pending_bytes:
            time.sleep(0.002)
    assert None not in cache.get_many(used)
    assert cache.get_many([key_of(1_000)]) == [None]
    assert cache.stats().disk.evictions > 7_000
    cache.close()


def test_a_smaller_bound_is_kept_from_the_next_start_on(folder: Path) -> None:
    disk = DiskTier(folder, 3 * DISK_BYTES)
    disk.work(entries(range(2_500)))
    assert bytes_on_disk(folder) > 2 * DISK_BYTES
    disk.close()
    disk = DiskTier(folder, DISK_BYTES)
    assert bytes_on_disk(folder) <= DISK_BYTES
    assert found(disk, range(2_490, 2_500)) == list(range(2_490, 2_500))
    disk.work(entries(range(2_500, 4_000)))
    assert bytes_on_disk(folder) <= DISK_BYTES
    disk.close()


def test_what_was_on_its_way_before_a_clear_is_not_written_after_it(folder: Path) -> None:
    disk = DiskTier(folder, DISK_BYTES)
    on_its_way = [(key, structs.replace(entry, generation=1)) for key, entry in entries(range(10))]
    disk.clear()
    disk.work(on_its_way)
    assert (found(disk, range(10)), disk.dropped) == ([], 10)
    disk.work([(key, structs.replace(entry, generation=2)) for key, entry in on_its_way])
    assert found(disk, range(10)) == list(range(10))
    disk.close()


def test_an_entry_too_large_for_a_generation_is_dropped(folder: Path) -> None:
    disk = DiskTier(folder, DISK_BYTES)
    disk.work([*entries(range(1), 600_000), *entries(range(1, 3))])
    assert found(disk, range(3)) == [1, 2]
    assert disk.dropped == 1
    disk.close()


def test_a_flipped_bit_is_a_miss_and_the_entry_is_forgotten(filled: Path) -> None:
    [vectors] = filled.glob("generation-*/vectors")
    with vectors.open("r+b") as file:
        file.seek(5 * (DIM * 4 + 24) + 1_000)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    disk = DiskTier(filled, DISK_BYTES)
    assert found(disk, range(60)) == [*range(5), *range(6, 60)]
    assert disk.rejected == 1
    disk.work([])
    assert found(disk, range(60)) == [*range(5), *range(6, 60)]
    assert disk.rejected == 1
    disk.work(entries(range(5, 6)))
    assert found(disk, range(60)) == list(range(60))
    disk.close()


@pytest.mark.parametrize("file", ["state", "table", "vectors"])
@pytest.mark.parametrize("damage", ["foreign", "cut short", "empty", "deleted"])
def test_a_damaged_store_is_set_aside_and_begun_anew(
    filled: Path, log: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    [path] = filled.rglob(file)
    whole = path.read_bytes()
    match damage:
        case "foreign":
            path.write_bytes(b"This is not the file that you are looking for.\n" * 1_000)
        case "cut short":
            path.write_bytes(whole[: len(whole) // 2 if file != "vectors" else 1_000])
        case "empty":
            path.write_bytes(b"")
        case _:
            path.unlink()
    disk = DiskTier(filled, DISK_BYTES)
    assert found(disk, range(60)) == []
    disk.work(entries(range(60, 100)))
    assert found(disk, range(100)) == list(range(60, 100))
    disk.close()
    assert events(log) == ([] if (file, damage) == ("state", "deleted") else ["cache_set_aside"])
    disk = DiskTier(filled, DISK_BYTES)
    assert found(disk, range(100)) == list(range(60, 100))
    disk.close()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_damaged_no_wrong_vector_is_served(filled: Path, seed: int) -> None:
    chance = random.Random(seed)
    for path in filled.rglob("*"):
        size = path.stat().st_size if path.is_file() else 0
        if not size or path.name == "embedgate.lock":
            continue
        content = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 30, 1_000])):
            at = chance.randrange(size)
            length = chance.choice([1, 16, 4_096])
            source = chance.randrange(size)
            content[at : at + length] = chance.choice([chance.randbytes(length), content[source : source + length]])
        path.write_bytes(content[:size] if chance.random() < 0.8 else content[: size // 2])
    disk = DiskTier(filled, DISK_BYTES)
    found(disk, range(60))
    disk.work(entries(range(30, 90)))
    assert set(range(30, 90)) <= set(found(disk, range(90)))
    disk.close()


def test_a_table_that_breaks_in_a_running_store_costs_its_generation(
    filled: Path, log: pytest.LogCaptureFixture
) -> None:
    [table] = filled.rglob("table")
    disk = DiskTier(filled, DISK_BYTES)
    size = table.stat().st_size
    with table.open("r+b") as file:
        file.write(b"\xff" * size)
    assert found(disk, range(60)) == []
    disk.work(entries(range(60, 70)))
    assert found(disk, range(70)) == list(range(60, 70))
    assert events(log) == ["cache_set_aside"]
    assert len(list(filled.glob("damaged-*"))) == 1
    disk.close()


def test_a_folder_that_cannot_be_used_costs_the_disk_tier_only(folder: Path, log: pytest.LogCaptureFixture) -> None:
    folder.write_text("a file where the folder should be")
    clock = Clock()
    disk = DiskTier(folder, DISK_BYTES, clock)
    cache = TieredCache(MemoryTier(10_000_000), disk, 1_000_000)
    cache.put_many([(key_of(1), derived(key_of(1)))])
    assert None not in cache.get_many([key_of(1)])
    assert cache.stats().dropped == 1
    with pytest.raises(InternalError, match="cannot be cleared"):
        cache.clear()
    cache.close()
    assert events(log) == ["cache_disk_failed"]

    folder.unlink()
    disk.work(entries(range(10)))
    assert disk.state() is None
    clock.now_s = 31
    disk.work(entries(range(10)))
    assert found(disk, range(10)) == list(range(10))
    assert events(log) == ["cache_disk_failed", "cache_disk_recovered"]
    disk.close()


def test_a_folder_that_is_deleted_under_a_running_gateway_is_made_again(filled: Path) -> None:
    disk = DiskTier(filled, DISK_BYTES)
    shutil.rmtree(filled)
    disk.work(entries(range(60, 70)))
    assert found(disk, range(70)) == list(range(60, 70))
    disk.close()
    disk = DiskTier(filled, DISK_BYTES)
    assert found(disk, range(70)) == list(range(60, 70))
    disk.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from derived_vectors import derived, is_right, key_of
from embedgate.storage.cache import DiskTier
from embedgate.storage.cache.record import Entry

def entries(numbers):
    return [(key_of(n), Entry(derived(key_of(n), 4096), 0, 1 << 60)) for n in numbers]

def right(numbers):
    state = disk.state()
    known = disk.find([key_of(n) for n in numbers], state) if state else {}
    assert all(is_right(key, entry.cached, 4096) for key, entry in known.items())
    return len(known)

now_s = 0.0
disk = DiskTier(Path(sys.argv[1]), 16_000_000, lambda: now_s)
disk.work(entries(range(20)))
size = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
for first in range(20, 1_020, 20):
    disk.work(entries(range(first, first + 20)))
full = (right(range(20)), right(range(20, 1_020)), disk.dropped)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
now_s = 31.0
disk.work(entries(range(2_000, 2_020)))
print(*full, right(range(20)), right(range(2_000, 2_020)))
disk.close()
"""


@pytest.mark.parametrize("limit_bytes", [400_000, 8_192])
def test_a_full_disk_costs_entries_until_there_is_room_again(folder: Path, limit_bytes: int) -> None:
    """The first limit stops the vectors, the second also the table."""
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("the size of files is limited here already")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), str(limit_bytes)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    old_then, new_then, dropped, old_now, new_now = map(int, done.stdout.split())
    assert old_then == 20
    assert new_then + dropped == 1_000
    assert dropped >= 960
    assert (old_now, new_now) == (20, 20)
