"""The script that repeats the suite: what it starts, what it writes, and how it ends."""

import os
import sys
from pathlib import Path

import pytest
from repeat_tests import repeat

PROGRAM = """
import os, signal, sys
assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
assert not sys.stdin.read()
assert os.getsid(0) != int(sys.argv[2])
print("1 failed, 3 passed in 2.00s" if int(sys.argv[1]) % 2 else "4 passed in 1.00s")
sys.exit(int(sys.argv[1]) % 2)
"""


def test_each_run_has_a_line_a_seed_and_no_terminal_and_a_failure_keeps_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = iter([4, 7, 8])
    monkeypatch.setattr("random.randrange", lambda _: next(seeds))
    log = tmp_path / "new" / "runs.log"
    assert repeat([sys.executable, "-c", PROGRAM, "{seed}", str(os.getsid(0))], 3, log, n_busy=1) == 1
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [line.rpartition(":")[0].partition(" in ")[0] for line in lines[:3]] == [
        "run 1 of 3: passed",
        "run 2 of 3: FAILED",
        "run 3 of 3: passed",
    ]
    assert lines[1].endswith("s, seed 7: 1 failed, 3 passed in 2.00s")
    assert lines[3] == "2 of 3 runs passed"
    assert capsys.readouterr().out.splitlines() == lines
    assert [path.name for path in log.parent.glob("run-*")] == ["run-2.txt"]


def test_runs_that_all_pass_end_with_0_and_a_command_that_says_nothing_is_named_by_its_code(tmp_path: Path) -> None:
    log = tmp_path / "runs.log"
    assert repeat(["true"], 2, log, n_busy=0) == 0
    assert repeat(["false"], 1, log, n_busy=0) == 1
    assert "no summary, exit code 1" in log.read_text(encoding="utf-8")
