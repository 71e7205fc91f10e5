"""What a plain request costs, in calls: a guard against growth that nobody meant."""

import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmark reads /proc", allow_module_level=True)

from bench.request_path import KINDS, PYTHON, Calls, faults, stored

ROOT = Path(__file__).parents[2]


def counted(each: int) -> Calls:
    calls = Calls()
    calls.each = [each] * 20
    return calls


def test_a_plain_request_makes_no_more_calls_than_are_stored() -> None:
    """In a process of its own: the gateway takes the signals of its process, and the counter its profiler."""
    command = [sys.executable, "-m", "bench.request_path", "--requests", "40", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


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
