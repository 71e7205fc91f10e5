"""Tests that failed once are told from tests that fail: few, each alone, and only where nothing else is wrong."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from try_alone import MAX_TESTS, TIMES, verdict

CLEAN: dict[str, Any] = {"exit_status": 1, "failed": ["tests/test_a.py::one"], "crashes": 0, "collection_errors": 0}
PLUGIN = """
import pathlib
from results import Results

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(pathlib.Path("build/results.json")))
"""
FEW = """
import os, pytest

@pytest.fixture
def broken():
    assert 0

def test_passes():
    pass

def test_fails():
    assert 0

def test_is_not_begun(broken):
    pass

def test_ends_all():
    os._exit(3)
"""


def test_tests_that_pass_every_time_alone_are_named_as_unstable_and_hold_nothing_up() -> None:
    asked: list[str] = []

    def passes(test: str) -> bool:
        asked.append(test)
        return True

    failed = [f"tests/test_a.py::test[{n}]" for n in range(MAX_TESTS)]
    found = verdict(CLEAN | {"failed": failed}, passes, lambda: True)
    assert found.may_go_on
    assert asked == [test for test in failed for _ in range(TIMES)]
    for test in failed:
        assert (
            f"{test} failed in the run of the whole suite, passed 5 of 5 alone: unstable, to be mended." in found.text
        )


def test_a_test_that_fails_once_more_fails_the_suite() -> None:
    numbers = itertools.count()
    found = verdict(CLEAN | {"failed": ["a", "b"]}, lambda _: next(numbers) != TIMES + 1, lambda: True)
    assert not found.may_go_on
    assert "a failed in the run of the whole suite, passed 5 of 5 alone: unstable" in found.text
    assert "b failed in the run of the whole suite, passed 4 of 5 alone: it fails." in found.text


@pytest.mark.parametrize(
    ("results", "is_covered", "reason"),
    [
        (None, True, "did not come to its end"),
        (CLEAN | {"failed": list("abcd")}, True, "4 tests failed, more than 3"),
        (CLEAN | {"failed": []}, True, "no test failed"),
        (CLEAN | {"crashes": 1}, True, "crashed"),
        (CLEAN | {"collection_errors": 1}, True, "errors at collection"),
        (CLEAN | {"exit_status": 3}, True, "pytest ended with 3"),
        (CLEAN, False, "coverage is below its floor"),
    ],
)
def test_nothing_is_tried_again_where_more_is_wrong(results: Any, is_covered: bool, reason: str) -> None:
    def passes(test: str) -> bool:
        raise AssertionError(test)

    found = verdict(results, passes, lambda: is_covered)
    assert not found.may_go_on
    assert reason in found.text


def ran(folder: Path, *options: str, **files: str) -> dict[str, Any]:
    """The results that a run of pytest over these files has written."""
    (folder / "conftest.py").write_text(PLUGIN, encoding="utf-8")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist", *options, str(folder)]
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PATH": "/usr/bin:/bin",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the plugins of libraries take seconds to import, in each process
    }
    subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True)
    found: dict[str, Any] = json.loads((folder / "build" / "results.json").read_text(encoding="utf-8"))
    return found


def test_a_run_says_which_tests_failed_and_whether_one_took_its_process_with_it(tmp_path: Path) -> None:
    found = ran(tmp_path, "-n", "1", test_few=FEW)
    names = sorted(test.rpartition("::")[2] for test in found["failed"])
    assert names == ["test_ends_all", "test_fails", "test_is_not_begun"]
    assert (found["crashes"], found["collection_errors"]) == (1, 0)


def test_a_file_that_cannot_be_read_is_an_error_at_collection(tmp_path: Path) -> None:
    found = ran(tmp_path, test_good="def test_passes(): pass\n", test_bad="import no_such_module\n")
    assert (found["failed"], found["collection_errors"]) == ([], 1)
    assert found["exit_status"] != 1
