"""Benchmark of the cache's disk tier against a candidate: `python -m bench.cache_tier`. Prints Markdown tables.

Every turn is a process of its own, and the implementations take turns within each round, so that other load
affects all alike. A figure is the median of the rounds, a ratio the median of the ratios within a round.

Loads: `stream` puts new vectors of 1,536 numbers at 3,000/s on an event loop, each after a look-up that fails, on a
full store; `read` looks up 2,048 vectors in one call, which the system has in memory and the process has not.
Both run alone, and beside a thread that computes in Python and so always competes for the GIL.
"""

import argparse
import asyncio
import hashlib
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from bench import machine
from bench.processes import Cores
from bench.sqlite_tier import SqliteTier, SqliteWideTier
from embedgate.core.types import CachedVector
from embedgate.storage.cache import DiskTier, MemoryTier, TieredCache
from embedgate.storage.cache.record import Entry

DIM = 1_536
RATE = 3_000
BATCH = 2_048
DISK_BYTES = 400_000_000
TICK_S = 0.002
_STORED = 28_000  # half the bound: nothing is old enough to be rewritten when it is read
_FULL = 64_000
_MEMORY_BYTES = 64_000_000
_PENDING_BYTES = 32_000_000
_MAX_BURST = 32
_READS = 8
_IMPLEMENTATIONS: dict[str, type[DiskTier]] = {"files": DiskTier, "sqlite": SqliteTier, "sqlite wide": SqliteWideTier}
_OURS = "files"
_NOTHING = "none"
_LOADS = ("stream", "stream beside", "read", "read beside")
Figures = dict[str, float]


def key_of(number: int) -> bytes:
    """A key of 16 bytes."""
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


def fill(tier: type[DiskTier], folder: Path, n: int) -> None:
    """Store vectors with the keys of 0 to n - 1."""
    disk = tier(folder, DISK_BYTES)
    step = 500
    for first in range(0, n, step):
        rows = np.random.default_rng(first).random((step, DIM), dtype=np.float32)
        disk.work([(key_of(first + i), Entry(CachedVector(row, 7, False), 0, 1 << 60)) for i, row in enumerate(rows)])
    if disk.dropped:
        raise RuntimeError(f"{disk.dropped} vectors were not stored in {folder}")
    disk.close()


def turn(implementation: str, load: str, folder: Path, seconds: float) -> Figures:
    """The figures of one implementation under one load, in this process."""
    disk = _IMPLEMENTATIONS[implementation](folder, DISK_BYTES) if implementation != _NOTHING else None
    memory_bytes = _MEMORY_BYTES if load.startswith("stream") else 0
    cache = TieredCache(MemoryTier(memory_bytes), disk, _PENDING_BYTES)
    with _lock_holder(is_there=load.endswith("beside")):
        if load.startswith("stream"):
            return uvloop.run(_stream(cache if disk is not None else None, seconds))
        return _read(cache)


async def _stream(cache: TieredCache | None, seconds: float) -> Figures:
    rows = np.random.default_rng(1).random((512, DIM), dtype=np.float32)
    run = int.from_bytes(os.urandom(6), "little") << 16
    late_s: list[float] = []
    get_s: list[float] = []
    put_s: list[float] = []
    ticker = asyncio.create_task(_tick(late_s))
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    done = 0
    while (elapsed_s := time.perf_counter() - begun_s) < seconds:
        for _ in range(min(int(elapsed_s * RATE) - done, _MAX_BURST)):
            key, vector = key_of(run + done), CachedVector(rows[done % len(rows)], 7, False)
            a = time.perf_counter()
            if cache is not None:
                cache.get_many([key])
            b = time.perf_counter()
            if cache is not None:
                cache.put_many([(key, vector)])
            get_s.append(b - a)
            put_s.append(time.perf_counter() - b)
            done += 1
        await asyncio.sleep(TICK_S)
    cpu_s = time.process_time() - cpu_s
    ticker.cancel()
    dropped = cache.stats().dropped if cache is not None else 0
    if cache is not None:
        cache.close()
    return {
        "pairs/s": done / seconds,
        "CPU µs a pair": cpu_s / max(done, 1) * 1e6,
        "look-up µs, median": statistics.median(get_s) * 1e6,
        "look-up µs, mean": statistics.mean(get_s) * 1e6,
        "put µs, median": statistics.median(put_s) * 1e6,
        "put µs, mean": statistics.mean(put_s) * 1e6,
        "loop late ms, median": statistics.median(late_s) * 1e3,
        "loop late ms, p99": float(np.percentile(late_s, 99)) * 1e3,
        "dropped": dropped,
    }


async def _tick(late_s: list[float]) -> None:
    while True:
        due_s = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        late_s.append(time.perf_counter() - due_s)


def _read(cache: TieredCache) -> Figures:
    chance = np.random.default_rng()
    first: list[tuple[float, float]] = []
    again: list[tuple[float, float]] = []
    for numbers in chance.permutation(_STORED)[: _READS * BATCH].reshape(_READS, BATCH):
        keys = [key_of(int(number)) for number in numbers]
        for taken in (first, again):
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            found = cache.get_many(keys)
            taken.append((time.perf_counter() - wall_s, time.thread_time() - cpu_s))
            if None in found:
                raise RuntimeError(f"{found.count(None)} of {BATCH} vectors were not found")
            del found
    cache.close()
    return {
        "first CPU ms": statistics.median(cpu_s for _, cpu_s in first) * 1e3,
        "first wall ms": statistics.median(wall_s for wall_s, _ in first) * 1e3,
        "again CPU ms": statistics.median(cpu_s for _, cpu_s in again) * 1e3,
        "again wall ms": statistics.median(wall_s for wall_s, _ in again) * 1e3,
    }


@contextmanager
def _lock_holder(is_there: bool) -> Iterator[None]:
    """Run a thread that always competes for the GIL."""
    has_ended = threading.Event()

    def compute() -> None:
        while not has_ended.is_set():
            sum(range(10_000))

    thread = threading.Thread(target=compute, daemon=True)
    if is_there:
        thread.start()
    try:
        yield
    finally:
        has_ended.set()
        if is_there:
            thread.join()


def compare(rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, dict[str, list[Figures]]]:
    """Figures by load and implementation, one for each round."""
    found: dict[str, dict[str, list[Figures]]] = {load: {} for load in _LOADS}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as root:
        for name, tier in _IMPLEMENTATIONS.items():
            fill(tier, Path(root, f"{name} read"), _STORED)
            fill(tier, Path(root, f"{name} stream"), _FULL)
        for round_ in range(rounds):
            say(f"round {round_ + 1} of {rounds}")
            for load in _LOADS:
                names = [*_IMPLEMENTATIONS, *([_NOTHING] if load.startswith("stream") else [])]
                for name in names if round_ % 2 == 0 else reversed(names):
                    folder = Path(root, f"{name} {load.partition(' ')[0]}")
                    command = [sys.executable, "-m", "bench.cache_tier", "--turn", name, load, str(folder)]
                    command += ["--seconds", str(seconds)]
                    done = subprocess.run(command, check=True, capture_output=True)
                    found[load].setdefault(name, []).append(msgspec.json.decode(done.stdout, type=Figures))
    return found


def tables(found: dict[str, dict[str, list[Figures]]]) -> str:
    """The results in Markdown. The CPU of the loop itself is subtracted from that of a stream."""
    lines = []
    for load, by_name in found.items():
        names = list(by_name)
        if _NOTHING in names:
            for name in _IMPLEMENTATIONS:
                for figures, idle in zip(by_name[name], by_name[_NOTHING], strict=True):
                    figures["CPU µs a pair"] -= idle["CPU µs a pair"]
        rivals = [name for name in names if name not in (_OURS, _NOTHING)]
        heads = [*names, *(f"{name} / {_OURS}" for name in rivals)]
        lines += [f"### {load}", "", f"| | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
        for what in by_name[_OURS][0]:
            cells = [_figure(statistics.median(figures[what] for figures in by_name[name])) for name in names]
            cells += [_ratio(by_name[name], by_name[_OURS], what) for name in rivals]
            lines.append(f"| {what} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(theirs: list[Figures], ours: list[Figures], what: str) -> str:
    ratios = [one[what] / other[what] for one, other in zip(theirs, ours, strict=True) if other[what]]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def main() -> int:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.cache_tier", description="The disk tier of the cache.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each stream")
    parser.add_argument("--turn", nargs=3, metavar=("NAME", "LOAD", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        name, load, folder = options.turn
        sys.stdout.buffer.write(msgspec.json.encode(turn(name, load, Path(folder), options.seconds)))
        return 0
    about = machine.describe(Cores.shared_out())
    found = compare(options.rounds, options.seconds, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"    {shlex.join(['python', '-m', 'bench.cache_tier', *sys.argv[1:]])}\n")
    print(f"{about.processor}, {about.cores} cores, {about.memory_gib} GiB; {about.system}; {about.python}.")
    print(f"Load average before the run: {about.load_average}, after it: {os.getloadavg()[0]:.2f}.\n")
    print(tables(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
