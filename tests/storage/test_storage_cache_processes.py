"""Several processes on one cache folder, and processes that are killed at any instruction."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from derived_vectors import is_right, items, key_of
from embedgate.storage.cache import DiskTier, MemoryTier, TieredCache
from waiting import wait_until

DISK_BYTES = 16_000_000
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[1])}

# The parent imports once and forks, so that a round takes milliseconds; it opens the store only between the rounds.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from derived_vectors import derived, is_right, key_of
from embedgate.storage.cache import DiskTier
from embedgate.storage.cache.record import Entry

folder, rounds, dim = Path(sys.argv[1]), int(sys.argv[2]), 4096
random.seed(1)

def write_until_killed(first, seed, progress):
    random.seed(seed)
    disk = DiskTier(folder, 16_000_000)
    while True:
        keys = [key_of(number) for number in range(first, first + 20)]
        assert is_all_right(disk.find(keys, disk.state()))
        disk.work([(key, Entry(derived(key, dim), 0, 1 << 60)) for key in keys])
        assert not disk.dropped and not disk.rejected
        os.write(progress, b".")
        if random.random() < 0.01:
            disk.clear()
        first = (first + 20) % 2_000

def is_all_right(known):
    return all(is_right(key, entry.cached, dim) for key, entry in known.items())

def fork_writer(first, seed):
    following, progress = os.pipe()
    writer = os.fork()
    if writer == 0:
        try:
            write_until_killed(first, seed, progress)
        finally:
            os._exit(1)
    os.close(progress)
    return writer, following

def wait_for_some(following):
    # Some groups, however busy the machine is, and then any instruction of the next one.
    for _ in range(random.randint(1, 6)):
        os.read(following, 1)
    time.sleep(random.uniform(0, 0.005))
    os.close(following)

def kill(writer):
    os.kill(writer, signal.SIGKILL)
    return os.waitpid(writer, 0)[1] == signal.SIGKILL

kept = 0
for seed in range(rounds):
    (first, first_progress), (second, second_progress) = fork_writer(0, seed), fork_writer(1_000, -seed)
    wait_for_some(first_progress)
    is_first_killed = kill(first)
    wait_for_some(second_progress)
    assert kill(second) and is_first_killed, "a writer failed"
    size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    assert size <= 16_000_000, size
    disk = DiskTier(folder, 16_000_000)
    known = disk.find([key_of(number) for number in range(2_000)], disk.state())
    assert is_all_right(known), "a wrong vector"
    assert not list(folder.glob("damaged*")), "set aside"
    kept += len(known)
    disk.close()
print(kept)
"""


def test_killed_writers_leave_a_store_that_opens_and_serves_no_wrong_vector(tmp_path: Path) -> None:
    """Two write at once in each of 25 rounds; one is killed, and the other somewhat later."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cache"), "25"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 25 * 100


OTHER = """
import sys
from pathlib import Path
from derived_vectors import is_right, items, key_of
from embedgate.storage.cache import DiskTier, MemoryTier, TieredCache

cache = TieredCache(MemoryTier(10_000_000), DiskTier(Path(sys.argv[1]), 16_000_000), 64_000_000)
for line in sys.stdin:
    what, first, last = line.split()
    numbers = range(int(first), int(last))
    if what == "put":
        cache.put_many(items(numbers))
        while cache.stats().pending_bytes:
            pass
        print("done", flush=True)
    elif what == "clear":
        cache.clear()
        print("done", flush=True)
    else:
        keys = [key_of(number) for number in numbers]
        found = cache.get_many(keys)
        print(sum(cached is not None and is_right(key, cached) for key, cached in zip(keys, found)), flush=True)
cache.close()
"""


class OtherProcess:
    """A second gateway on the folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def ask(self, what: str, first: int, last: int) -> str:
        """Have it put, get or clear, and return what it says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {first} {last}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End it, and see that it ended well."""
        self._process.communicate(timeout=300)
        assert self._process.returncode == 0


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TieredCache]:
    """The first gateway on the folder."""
    cache = TieredCache(MemoryTier(10_000_000), DiskTier(tmp_path, DISK_BYTES), 64_000_000)
    yield cache
    cache.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[OtherProcess]:
    """The second gateway on the folder."""
    other = OtherProcess(tmp_path)
    yield other
    other.close()


def n_found(cache: TieredCache, first: int, last: int) -> int:
    """How many of the numbers are found, each of them right."""
    keys = [key_of(number) for number in range(first, last)]
    found = cache.get_many(keys)
    assert all(cached is None or is_right(key, cached) for key, cached in zip(keys, found, strict=True))
    return len(keys) - found.count(None)


def test_processes_find_what_the_other_one_has_written(cache: TieredCache, other: OtherProcess) -> None:
    assert other.ask("put", 0, 300) == "done"
    # A generation that the other process has begun is opened in the background.
    wait_until("all are found", lambda: n_found(cache, 0, 300) == 300)
    cache.put_many(items(range(300, 600)))
    wait_until("it is written", lambda: cache.stats().pending_bytes == 0)
    assert other.ask("get", 0, 600) == "600"


def test_a_clear_by_one_process_is_seen_by_the_other_at_once_and_in_memory_too(
    cache: TieredCache, other: OtherProcess
) -> None:
    cache.put_many(items(range(300)))
    assert n_found(cache, 0, 300) == 300
    assert other.ask("clear", 0, 0) == "done"
    assert n_found(cache, 0, 300) == 0
    cache.put_many(items(range(10)))
    assert n_found(cache, 0, 300) == 10
    cache.clear()
    assert other.ask("get", 0, 300) == "0"


def test_two_processes_that_write_at_once_keep_everything(cache: TieredCache, other: OtherProcess) -> None:
    for first in range(0, 2_000, 100):
        cache.put_many(items(range(first, first + 100)))
        if first % 500 == 0:
            assert other.ask("put", 10_000 + first, 10_500 + first) == "done"
    wait_until("it is written", lambda: cache.stats().pending_bytes == 0)
    assert n_found(cache, 0, 2_000) == 2_000
    assert other.ask("get", 10_000, 12_000) == "2000"
    assert other.ask("get", 0, 2_000) == "2000"
