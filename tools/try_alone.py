"""Tells tests that fail every time from tests that failed once, after a run of the suite that failed; for `.ci/run`.

The suite repeats nothing. Where at most three tests have failed, each of them is run alone five times here, and what
came of it is printed. Ends with 0 only if all of these runs passed: then the tests are unstable, and have to be mended,
but say nothing about the commit. Ends with 1 for everything else: more tests that failed, errors at collection, a
process that crashed, coverage below its floor.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "test" / "results.json"
"""Written by `make test` where CI=true."""
MAX_TESTS = 3
TIMES = 5
_TESTS_FAILED = 1  # the exit status of pytest that says this and nothing worse


@dataclass(frozen=True)
class Verdict:
    """What is said, and whether continuous integration may go on."""

    may_go_on: bool
    text: str


def verdict(
    results: Mapping[str, Any] | None, passes: Callable[[str], bool], is_covered: Callable[[], bool]
) -> Verdict:
    """What a failed run of the suite means.

    results: as `tests/results.py` writes them; None where the run did not come to its end. passes: runs a test alone.
    is_covered: whether coverage is above its floor.
    """
    refusal = _refusal(results, is_covered)
    if refusal or results is None:
        return Verdict(False, f"Nothing was tried again: {refusal}.")
    lines, may_go_on = [], True
    for test in results["failed"]:
        n_passed = sum(passes(test) for _ in range(TIMES))
        is_unstable = n_passed == TIMES
        may_go_on &= is_unstable
        outcome = "unstable, to be mended" if is_unstable else "it fails"
        lines.append(f"{test} failed in the run of the whole suite, passed {n_passed} of {TIMES} alone: {outcome}.")
    lines.append("Going on, since all passed every time alone." if may_go_on else "The suite has failed.")
    return Verdict(may_go_on, "\n".join(lines))


def _refusal(results: Mapping[str, Any] | None, is_covered: Callable[[], bool]) -> str | None:
    """Why no test may be tried again; None where they may."""
    if results is None:
        return "the suite did not come to its end"
    if results["collection_errors"]:
        return "there were errors at collection"
    if results["crashes"]:
        return "a process of the tests crashed"
    if results["exit_status"] != _TESTS_FAILED:
        return f"pytest ended with {results['exit_status']}"
    n = len(results["failed"])
    if n > MAX_TESTS:
        return f"{n} tests failed, more than {MAX_TESTS}"
    if not is_covered():
        return "coverage is below its floor"
    return None if n else "no test failed"


def _passes(test: str) -> bool:
    return subprocess.run([sys.executable, "-m", "pytest", test], cwd=ROOT, check=False).returncode == 0


def _is_covered() -> bool:
    report = [sys.executable, "-m", "coverage", "report", "--format=total"]
    return subprocess.run(report, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    """Read the results of the last run, and try again what may be tried."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None
    found = verdict(results, _passes, _is_covered)
    sys.stdout.write(f"\n{found.text}\n")
    return 0 if found.may_go_on else 1


if __name__ == "__main__":
    sys.exit(main())
