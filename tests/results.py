"""Results of a run of the suite in a file, for `tools/try_alone.py`: which tests failed, and what else went wrong."""

import json
from pathlib import Path

import pytest

_PHASES = ("setup", "call", "teardown")


class Results:
    """Plugin of pytest that writes them when the run ends, in the process that hears of every test."""

    def __init__(self, file: Path) -> None:
        """file: written anew; it is not there while the run goes on."""
        self._file = file
        self._failed: dict[str, None] = {}
        self._n_crashes = 0
        self._n_collection_errors = 0
        file.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that failed, in whichever phase. One that took its worker with it has none."""
        if report.failed:
            self._failed[report.nodeid] = None
            self._n_crashes += report.when not in _PHASES

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that could not be read."""
        self._n_collection_errors += report.failed

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write what was noted."""
        found = {
            "exit_status": int(exitstatus),
            "failed": list(self._failed),
            "crashes": self._n_crashes,
            "collection_errors": self._n_collection_errors,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
