"""Soak test: the gateway at full load for half an hour, with memory, open descriptors and p99 of each minute.

    python -m bench.soak --minutes 30

The load: new texts as floats, texts that the cache holds as base64, and batches of new texts, all at once, as much as
the gateway takes. The first quarter fills the caches and is not judged. Ends with 1 if a request failed, or if the last
quarter is worse than the second: memory by over 5 %, p99 by over 20 %, descriptors by more than a few. Memory is what
the process itself has taken; pages of files, which the system takes back, do not count. Reads /proc, so it needs Linux.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench import processes, runner, targets, upstream
from bench.load import Job, JobResult, Stream
from bench.processes import Cores
from bench.targets import Target
from bench.texts import Texts

_STREAMS = (
    Stream("new floats", upstream.MODEL, Texts(), "float", 16, 1_000),
    Stream("repeated base64", upstream.MODEL, Texts(kind="repeated"), "base64", 16, 1_000),
    Stream("batches of 32", upstream.MODEL, Texts(inputs=32), "base64", 4, 1_000),
)
_MOST_GROWTH = 1.05
_MOST_DRIFT = 1.2
_MORE_DESCRIPTORS = 8
"""Files of the cache and of the journal come and go."""
_FEWEST_MINUTES = 8


class Minute(msgspec.Struct, frozen=True):
    """Figures of one period. p99_ms: of each stream. memory_bytes: taken by the process, at the end of it."""

    requests: int
    n_errors: int
    p99_ms: tuple[float, ...]
    memory_bytes: int
    descriptors: int


def faults(minutes: Sequence[Minute]) -> list[str]:
    """What is wrong with a run, in a line each; nothing is judged but errors if it was too short for quarters."""
    n_errors = sum(minute.n_errors for minute in minutes)
    found = [f"{n_errors} requests failed"] if n_errors else []
    if len(minutes) < _FEWEST_MINUTES:
        return found
    quarter = len(minutes) // 4
    early, late = minutes[quarter : 2 * quarter], minutes[-quarter:]
    before, after = (statistics.median(minute.memory_bytes for minute in part) for part in (early, late))
    if after > before * _MOST_GROWTH:
        found.append(f"memory grew from {before / 1e6:.0f} to {after / 1e6:.0f} MB")
    before, after = (statistics.median(minute.descriptors for minute in part) for part in (early, late))
    if after > before + _MORE_DESCRIPTORS:
        found.append(f"open descriptors grew from {before:.0f} to {after:.0f}")
    for place, stream in enumerate(_STREAMS):
        before, after = (statistics.median(minute.p99_ms[place] for minute in part) for part in (early, late))
        if after > before * _MOST_DRIFT:
            found.append(f"p99 of {stream.label} drifted from {before:.1f} to {after:.1f} ms")
    return found


def soak(n: int, seconds: float) -> Iterator[Minute]:
    """So many periods of so many seconds at full load. Raises NotStarted or NotMeasured."""
    cores = Cores.shared_out()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedgate-soak-")))
        source = stack.enter_context(targets.running_upstream(cores, folder))
        target = stack.enter_context(
            targets.embedgate(folder / "embedgate", cores, targets.forwarding(source.port), upstream.MODEL)
        )
        for _ in range(n):
            yield _minute(target, cores, seconds)


def _minute(target: Target, cores: Cores, seconds: float) -> Minute:
    assert target.program is not None
    streams = tuple(runner.fresh(stream, target.model) for stream in _STREAMS)
    job = Job(target.port, targets.PATH, dict(target.headers), streams, seconds, warmup_s=0)
    result: JobResult = runner.perform(job, cores)
    pids = processes.family(target.program.pid)
    return Minute(
        requests=sum(stream.requests for stream in result.streams),
        n_errors=sum(stream.n_errors for stream in result.streams),
        p99_ms=tuple(stream.p99_ms for stream in result.streams),
        memory_bytes=processes.own_memory_bytes(pids),
        descriptors=processes.descriptors(pids),
    )


def main() -> int:
    """Run as the command line says, and judge. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="The gateway at full load, at length.")
    parser.add_argument("--minutes", type=int, default=30, help="how many; 30 by default, 8 or more to be judged")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each minute; 60 by default")
    options = parser.parse_args()
    print(f"| minute | requests | {' | '.join(f'p99 of {each.label}, ms' for each in _STREAMS)} | MB | descriptors |")
    print(f"|{' --- |' * (len(_STREAMS) + 4)}", flush=True)
    minutes: list[Minute] = []
    try:
        for minute in soak(options.minutes, options.seconds):
            minutes.append(minute)
            p99 = " | ".join(f"{each:.1f}" for each in minute.p99_ms)
            memory = f"{minute.memory_bytes / 1e6:.0f}"
            row = f"| {len(minutes)} | {minute.requests} | {p99} | {memory} | {minute.descriptors} |"
            print(row, flush=True)
    except (processes.NotStarted, runner.NotMeasured) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    wrong = faults(minutes)
    for fault in wrong:
        print(fault)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
