"""`embedgate embed` on a gateway elsewhere, beside what that gateway can do: many short texts, one after the other run.

The gateway has a core of its own; the command, the load and the upstream share the rest. What the gateway can do is the
best of several numbers of connections that send the same requests and read the answers without looking at them.

Texts per second depend on how the processes share the cores. Processor time does not: it is measured of the asking
process and of the gateway apart. The start of the command is the processor time of a run with one text.

    python -m bench.embed_remote --texts 100000
"""

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import orjson

from bench import targets, upstream
from bench.processes import Cores, cpu_s, family, on_cores
from bench.targets import Target
from bench.texts import MARK

_BATCH = 2_048
_CONNECTIONS = (2, 4, 8)
_LATENCY_MS = 40
"""Of the provider behind the gateway."""
_OURS = "embedgate embed"
_MODEL = f"openai/{upstream.MODEL}"


class Took(NamedTuple):
    """Of all texts: seconds, and processor seconds of whoever asked, its children included, and of the gateway."""

    seconds: float
    asking_s: float
    gateway_s: float


def texts(n: int, run: int) -> list[str]:
    """Texts of some 12 tokens that no cache has seen."""
    return [f"{MARK}{run}-{number} a short message about order {number % 977}, please answer" for number in range(n)]


def _bodies(every: Sequence[str]) -> Iterator[bytes]:
    for start in range(0, len(every), _BATCH):
        fields = {"model": _MODEL, "encoding_format": "base64", "input": every[start : start + _BATCH]}
        yield orjson.dumps(fields)


def drained_s(target: Target, every: Sequence[str], connections: int) -> float:
    """Seconds until every request is answered, over as many connections."""
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for body in _bodies(every):
        waiting.put(body)

    def work() -> None:
        while True:
            try:
                body = waiting.get_nowait()
            except queue.Empty:
                return
            targets.ask(target, body)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began_s


def command_s(target: Target, every: Sequence[str], folder: Path) -> float:
    """Seconds of the whole command, from its start to its end, with the vectors in a file."""
    file = folder / "texts.txt"
    file.write_text("\n".join(every), encoding="utf-8")
    key = target.headers["authorization"].removeprefix("Bearer ")
    command = [sys.executable, "-m", "embedgate", "embed", "--file", str(file), "--output", str(folder / "out.npy")]
    command += ["--url", f"http://127.0.0.1:{target.port}", "--api-key", key, "--model", _MODEL]
    began_s = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began_s


def measured(target: Target, ask: Callable[[], float]) -> Took:
    """One run. ask: returns its seconds."""
    assert target.program is not None
    gateway = family(target.program.pid)
    before, before_gateway = time_s(), cpu_s(gateway)
    seconds = ask()
    return Took(seconds, time_s() - before, cpu_s(gateway) - before_gateway)


def time_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> None:
    """Measure in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    cores = Cores.shared_out()
    found: dict[str, list[Took]] = {name: [] for name in (*(f"{n} connections" for n in _CONNECTIONS), _OURS)}
    with (
        tempfile.TemporaryDirectory() as made,
        targets.running_upstream(cores, Path(made), _LATENCY_MS) as running,
        targets.embedgate(Path(made) / "data", cores, targets.forwarding(running.port), _MODEL) as target,
        on_cores(cores.load),
    ):
        folder, run = Path(made), 0
        drained_s(target, texts(_BATCH, run), 1)  # once, so that all is warm
        start = measured(target, partial(command_s, target, texts(1, 1_000_000), folder))
        for _ in range(options.rounds):
            for n in _CONNECTIONS:
                run += 1
                every = texts(options.texts, run)
                found[f"{n} connections"].append(measured(target, partial(drained_s, target, every, n)))
            run += 1
            every = texts(options.texts, run)
            found[_OURS].append(measured(target, partial(command_s, target, every, folder)))
    best = {name: min(took) for name, took in found.items()}
    possible = min(took.seconds for name, took in best.items() if name != _OURS)
    print(
        "| who asks | texts/s | of what the gateway can do | CPU ms for 1,000 texts | CPU ms of the gateway for them |"
    )
    print("|---|---:|---:|---:|---:|")
    thousands = options.texts / 1_000
    for name, took in best.items():
        asking_s = took.asking_s - (start.asking_s if name == _OURS else 0)
        print(
            f"| {name} | {options.texts / took.seconds:,.0f} | {possible / took.seconds:.0%} | "
            f"{asking_s * 1e3 / thousands:.1f} | {took.gateway_s * 1e3 / thousands:.1f} |"
        )
    print(f"\nThe start of the command takes {start.asking_s:.2f} s of processor time, {start.seconds:.2f} s in all.")


if __name__ == "__main__":
    main()
