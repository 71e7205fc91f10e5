"""Files of the cache that somebody cuts short or overwrites under a running process: vectors are lost, no more.

In processes of their own: a fault would end them.
"""

import subprocess
import sys
from pathlib import Path

import pytest

CUT = """
import os, pathlib, random, sys, threading
from derived_vectors import derived, is_right, key_of
from embedgate.storage.cache import DiskTier, MemoryTier, TieredCache
from embedgate.storage.cache.record import Entry

damage, seed = sys.argv[2], int(sys.argv[3])
draw = random.Random(seed)
DIM = 1024


def harm(path):
    size = path.stat().st_size
    if damage == "cut":
        os.truncate(path, draw.choice([0, 1, 4095, 4096, size // 2, size - 1]))
    elif damage == "cut to nothing":
        os.truncate(path, 0)
    elif damage == "bytes":
        with path.open("r+b") as file:
            for _ in range(200):
                file.seek(draw.randrange(size))
                file.write(draw.randbytes(64))
    elif damage == "replaced":
        path.unlink()
        path.write_bytes(draw.randbytes(10_000))


def spoil(folder, name):
    disk = DiskTier(folder, 16_000_000)
    disk.work([(key_of(n), Entry(derived(key_of(n), DIM), 0, 1 << 60)) for n in range(150)])
    cache = TieredCache(MemoryTier(0), disk, 1_000_000)
    keys = [key_of(n) for n in range(150)]
    assert sum(found is not None for found in cache.get_many(keys)) == 150
    is_over = threading.Event()
    faults = []


    def look():
        while not is_over.is_set():
            part = draw.sample(keys, 20)
            found = cache.get_many(part)
            faults.extend(key for key, each in zip(part, found) if each and not is_right(key, each, DIM))


    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for path in [folder / name] if name == "state" else sorted(folder.glob("generation-*/" + name)):
        harm(path)
    for n in range(150, 165):
        cache.put_many([(key_of(n), derived(key_of(n), DIM))])
        found = cache.get_many(keys + [key_of(n)])
        faults.extend(key for key, each in zip(keys, found) if each and not is_right(key, each, DIM))
    is_over.set()
    for thread in threads:
        thread.join()
    disk.work([])
    disk.work([(key_of(n), Entry(derived(key_of(n), DIM), 0, 1 << 60)) for n in range(2000, 2010)])
    cache.close()
    assert not faults, faults[:3]
    again = DiskTier(folder, 16_000_000)
    again.work([(key_of(n), Entry(derived(key_of(n), DIM), 0, 1 << 60)) for n in range(3000, 3010)])
    state = again.state()
    assert len(again.find([key_of(n) for n in range(3000, 3010)], state)) == 10
    again.close()


for name in ("state", "table", "vectors"):
    spoil(pathlib.Path(sys.argv[1]) / name, name)
print("whole")
"""


def run(folder: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", CUT, str(folder), *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert ended.returncode == 0, (ended.returncode, ended.stderr[-2000:])
    return ended.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are guarded on Linux only")
@pytest.mark.parametrize("damage", ["cut", "cut to nothing", "bytes", "replaced"])
def test_a_file_that_is_spoiled_under_the_process_costs_entries_only(tmp_path: Path, damage: str) -> None:
    assert run(tmp_path, damage, "7") == "whole\n"
