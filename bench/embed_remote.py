"""`embedgate embed` on a gateway elsewhere, beside what that gateway can do: many short texts, one after the other run.

The gateway has a core of its own; the command, the load and the upstream share the rest. What the gateway can do is the
best of several numbers of connections that send the same requests and read the answers without looking at them.

    python -m bench.embed_remote --texts 100000
"""

import argparse
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from bench import targets, upstream
from bench.processes import Cores, on_cores
from bench.targets import Target
from bench.texts import MARK

_BATCH = 2_048
_CONNECTIONS = (2, 4, 8)
_LATENCY_MS = 40
"""Of the provider behind the gateway."""
_OURS = "embedgate embed"
_MODEL = f"openai/{upstream.MODEL}"


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


def main() -> None:
    """Measure in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    cores = Cores.shared_out()
    found: dict[str, list[float]] = {name: [] for name in (*(f"{n} connections" for n in _CONNECTIONS), _OURS)}
    with (
        tempfile.TemporaryDirectory() as made,
        targets.running_upstream(cores, Path(made), _LATENCY_MS) as running,
        targets.embedgate(Path(made) / "data", cores, targets.forwarding(running.port), _MODEL) as target,
        on_cores(cores.load),
    ):
        run = 0
        drained_s(target, texts(_BATCH, run), 1)  # once, so that all is warm
        for _ in range(options.rounds):
            for n in _CONNECTIONS:
                run += 1
                found[f"{n} connections"].append(drained_s(target, texts(options.texts, run), n))
            run += 1
            found[_OURS].append(command_s(target, texts(options.texts, run), Path(made)))
    best = {name: min(seconds) for name, seconds in found.items()}
    possible = min(seconds for name, seconds in best.items() if name != _OURS)
    print("| who asks | texts/s | of what the gateway can do |\n|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {options.texts / seconds:,.0f} | {possible / seconds:.0%} |")


if __name__ == "__main__":
    main()
