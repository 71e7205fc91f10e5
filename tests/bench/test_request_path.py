"""What a plain request costs, in calls: a guard against growth that nobody meant."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmark reads /proc", allow_module_level=True)

from bench.request_path import KINDS, PYTHON, Calls, faults, stored

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| \d+ \| `([a-z_/]+\.py)` \| `([A-Za-z_.]+)` \|", re.MULTILINE)


@pytest.fixture(scope="module")
def run() -> subprocess.CompletedProcess[str]:
    """Made in a process of its own: the gateway takes the signals of its process, and the counter its profiler."""
    command = [sys.executable, "-m", "bench.request_path", "--requests", "40", "--check", "--nested"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def counted(each: int) -> Calls:
    calls = Calls()
    calls.each = [each] * 20
    return calls


def test_a_plain_request_makes_no_more_calls_than_are_stored(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_page_lists_the_functions_that_a_plain_request_runs_through(run: subprocess.CompletedProcess[str]) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = [f"{file}:{function}" for file, function in _ROW.findall(page)]
    of_a_miss = run.stdout.partition("miss_floats")[0]
    assert listed == re.findall(r"^nested (.+)$", of_a_miss, re.MULTILINE)


@pytest.mark.skipif(stored() is None, reason=f"no figures are stored for Python {PYTHON}")
def test_a_twentieth_more_calls_is_a_fault_that_says_how_to_store_another_figure() -> None:
    figures = stored()
    assert figures is not None
    assert set(figures) == set(KINDS)
    assert faults({kind: counted(figure) for kind, figure in figures.items()}) == []
    more = {kind: counted(figure + figure // 19) for kind, figure in figures.items()}
    assert [fault.partition(":")[0] for fault in faults(more)] == list(figures)
    assert all("--store" in fault for fault in faults(more))


def test_what_happens_now_and_then_is_not_counted() -> None:
    calls = Calls()
    calls.each = [400] * 10 + [412] * 29 + [2_000]
    assert calls.typical == 400
