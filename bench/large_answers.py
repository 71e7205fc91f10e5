"""Large answers: memory, CPU and the stall of others beside one request of 2,048 texts, two versions in turns.

    python -m bench.large_answers --against FOLDER

FOLDER is another checkout with its own `.venv`. Each version runs as a process of its own; requests go to one and the
other in turns, so that a busy machine troubles both alike. In every other turn a small request (GET /healthz) is sent
every two milliseconds beside the large one: the longest wait for its answer is the stall. CPU is counted in the turns
between. Memory is the peak of the first large request of a process, above what it held before. Medians; reads /proc, so
it needs Linux. Prints a Markdown table.
"""

import argparse
import contextlib
import http.client
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from bench import processes, targets, upstream
from bench.processes import Cores
from bench.targets import Target
from bench.texts import Encoding, Texts, bodies

INPUTS = 2048
_BETWEEN_S = 0.002
_SETTLE_S = 0.4


@dataclass(slots=True)
class Figures:
    """Figures of one version, one number for each request. CPU is that of all threads."""

    took_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    grown_mb: list[float] = field(default_factory=list)
    stall_ms: list[float] = field(default_factory=list)


def main() -> int:
    """Measure as the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.large_answers", description="Large answers, before and after."
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout with its own .venv")
    parser.add_argument("--requests", type=int, default=10, help="to each version, for each case; 10 by default")
    options = parser.parse_args()
    checkouts = {"this": Path.cwd()} | ({"other": options.against} if options.against else {})
    print("| case | version | ms | CPU ms | grown, MB | stall, ms |\n|---|---|---|---|---|---|")
    for encoding in ("base64", "float"):
        for sends in ("base64", "float"):
            for cache in (True, False):
                _case(checkouts, encoding, sends, cache, options.requests)
    return 0


def _case(checkouts: dict[str, Path], encoding: Encoding, sends: str, cache: bool, n: int) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cores = Cores.all_for_everyone()
        source = stack.enter_context(targets.running_upstream(cores, folder, only_floats=sends == "float"))
        settings = targets.forwarding(source.port, switch=(targets.CACHE_SETTING, cache))
        started = {
            name: stack.enter_context(
                targets.embedgate(folder / name, cores, settings, upstream.MODEL, name, checkout=path)
            )
            for name, path in checkouts.items()
        }
        probers = {name: stack.enter_context(_prober(target)) for name, target in started.items()}
        figures = {name: Figures() for name in checkouts}
        requests = bodies(Texts(inputs=INPUTS), upstream.MODEL, encoding)
        for name, target in started.items():
            # Several texts, so that the tokenizer, which shares out what they cost, is loaded: some 30 MB, once.
            targets.ask(target, next(bodies(Texts(inputs=4, first_number=10**6), upstream.MODEL, encoding)))
            _measure_memory(target, next(requests), figures[name])
        for turn in range(2 * n):
            for name, target in started.items():
                _measure(target, next(requests), probers[name] if turn % 2 else None, figures[name])
        case = f"{encoding}, host sends {sends}, cache {'on' if cache else 'off'}"
        for name, found in figures.items():
            columns = (found.took_ms, found.cpu_ms, found.grown_mb, found.stall_ms)
            print(
                f"| {case} | {name} | " + " | ".join(f"{statistics.median(each):.1f}" for each in columns) + " |",
                flush=True,
            )


def _pids(target: Target) -> list[int]:
    assert target.program is not None
    return processes.family(target.program.pid)


def _measure_memory(target: Target, body: bytes, figures: Figures) -> None:
    pids = _pids(target)
    time.sleep(_SETTLE_S)
    processes.forget_peak(pids)
    held = processes.memory_bytes(pids)
    targets.ask(target, body)
    figures.grown_mb.append((processes.peak_memory_bytes(pids) - held) / 1e6)


def _measure(target: Target, body: bytes, prober: "Prober | None", figures: Figures) -> None:
    """One request: its stall if there is a prober, else its time and CPU."""
    time.sleep(_SETTLE_S)
    if prober is not None:
        prober.begin()
        targets.ask(target, body)
        figures.stall_ms.append(prober.end() * 1e3)
        return
    pids = _pids(target)
    cpu_s, begun_s = _cpu_s(pids), time.perf_counter()
    targets.ask(target, body)
    figures.took_ms.append((time.perf_counter() - begun_s) * 1e3)
    time.sleep(_SETTLE_S)  # what is written behind belongs to it
    figures.cpu_ms.append((_cpu_s(pids) - cpu_s) * 1e3)


def _cpu_s(pids: list[int]) -> float:
    """CPU of all threads, to the nanosecond. The process must have no thread that ends in between."""
    return sum(
        int(file.read_text().split()[0]) / 1e9 for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


class Prober:
    """Process that asks for /healthz again and again while it is told to."""

    def __init__(self, port: int) -> None:
        """port: of the gateway."""
        self._ours, theirs = multiprocessing.Pipe()
        self._stop = multiprocessing.Event()
        self._process = multiprocessing.Process(target=_probe, args=(port, theirs, self._stop), daemon=True)
        self._process.start()

    def begin(self) -> None:
        """Begin to ask."""
        self._stop.clear()
        self._ours.send("go")
        self._ours.recv()

    def end(self) -> float:
        """Stop. Returns the longest wait in seconds."""
        self._stop.set()
        longest: float = self._ours.recv()
        return longest

    def close(self) -> None:
        """End the process."""
        self._ours.send("end")
        self._process.join()


@contextlib.contextmanager
def _prober(target: Target) -> Iterator[Prober]:
    prober = Prober(target.port)
    try:
        yield prober
    finally:
        prober.close()


def _probe(port: int, pipe: Any, stop: Event) -> None:
    while pipe.recv() == "go":
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        pipe.send("ready")
        longest = 0.0
        while not stop.is_set():
            begun_s = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            longest = max(longest, time.perf_counter() - begun_s)
            time.sleep(_BETWEEN_S)
        connection.close()
        pipe.send(longest)


if __name__ == "__main__":
    sys.exit(main())
