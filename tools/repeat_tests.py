"""Repeated runs of the test suite under adverse conditions, for `make test-repeat`.

Each run has its tests in another random order and in parallel on every core, with a busy loop on every core beside it,
and is started as `nohup make test &` from a session without a terminal, so that it ignores interrupts and reads
nothing. One line per run is printed and written to the log; a run that fails keeps its output beside the log. Ends
with 1 if a run failed: `make test-repeat ARGS="--times 3 --tests tests/engine"`.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOG = ROOT / "build" / "test-repeat" / "runs.log"
MAX_SEED = 2**32
_BUSY_LOOP = [sys.executable, "-c", "while True: pass"]
_IN_BACKGROUND = ["sh", "-c", 'nohup "$@" & wait $!', "sh"]
"""A shell without job control ignores interrupts in what it starts with &, and what that starts inherits it."""
_SUMMARY = re.compile(r"^(?:=+ )?(\d+ (?:passed|failed|error).*?)(?: =+)?$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """Result of one run."""

    number: int
    seed: int
    exit_code: int
    duration_s: float
    summary: str

    def line(self, n_runs: int) -> str:
        """The line of the log."""
        outcome = "passed" if self.exit_code == 0 else "FAILED"
        return f"run {self.number} of {n_runs}: {outcome} in {self.duration_s:.0f} s, seed {self.seed}: {self.summary}"


def repeat(command: Sequence[str], n_runs: int, log: Path, *, n_busy: int) -> int:
    """Run a command so often, with `{seed}` in its arguments replaced by a new one each time. Returns the exit code.

    n_busy: busy loops beside it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    n_failed = 0
    with log.open("w", encoding="utf-8") as lines, _busy_loops(n_busy):

        def say(line: str) -> None:
            for out in (lines, sys.stdout):
                out.write(line + "\n")
                out.flush()

        for number in range(1, n_runs + 1):
            output = log.with_name(f"run-{number}.txt")
            run = _run(command, number, output)
            say(run.line(n_runs))
            if run.exit_code == 0:
                output.unlink()
            n_failed += run.exit_code != 0
        say(f"{n_runs - n_failed} of {n_runs} runs passed")
    return 1 if n_failed else 0


def _run(command: Sequence[str], number: int, output: Path) -> Run:
    seed = random.randrange(MAX_SEED)  # noqa: S311 - an order, no secret
    began_s = time.monotonic()
    with output.open("wb") as out:
        done = subprocess.run(
            [*_IN_BACKGROUND, *(part.replace("{seed}", str(seed)) for part in command)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            check=False,
            start_new_session=True,
        )
    said = _SUMMARY.findall(output.read_text(encoding="utf-8", errors="replace"))
    summary = said[-1] if said else f"no summary, exit code {done.returncode}"
    return Run(number, seed, done.returncode, time.monotonic() - began_s, summary)


@contextmanager
def _busy_loops(n: int) -> Iterator[None]:
    loops = [subprocess.Popen(_BUSY_LOOP, start_new_session=True) for _ in range(n)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main(arguments: Sequence[str]) -> int:
    """Read the command line, and repeat `make test`."""
    parser = argparse.ArgumentParser(description="Run the test suite again and again under the worst conditions.")
    parser.add_argument("--times", type=int, default=20, help="how often (default: 20)")
    parser.add_argument("--tests", default="", help="which tests, as pytest takes them (default: all)")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="busy loops (default: one per core)")
    options = parser.parse_args(arguments)
    test_options = f"ARGS=-p randomly --randomly-seed={{seed}} {options.tests}"
    return repeat(["make", "--silent", "test", test_options], options.times, LOG, n_busy=options.busy)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
