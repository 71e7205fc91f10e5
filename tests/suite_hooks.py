"""What holds for every test: its loop, its random numbers and examples, interrupts of its children, no skips in CI.

Hooks and fixtures of pytest, which `conftest.py` takes over.
"""

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import uvloop

import fork_server
import forms
from embedgate.observe import events
from embedgate.observe.events import ThrottledEvent
from results import Results
from virtual_time import VirtualLoop

_ENGINE = Path(__file__).parent / "engine"
_LONGEST = (
    "test_schemathesis.py",
    "test_more_sdks.py",
    "test_python_sdks.py",
    "test_killed_server.py",
    "test_cli_toolkit_guides.py",
    "test_lifecycle.py",
    "test_chaos.py",
    "test_bench_tools.py",
    "test_cli_serve.py",
    "test_chat_streams.py",
    "test_examples.py",
    "test_ledger_and_bill.py",
)
_MEMORY_FOLDER = "/dev/shm"
_ROOM_BYTES = 6_000_000_000
"""Databases wait for the disk with each commit, most of the time of a short test. The suite holds 2 GB at a time."""
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Where each core has a process of tests, more threads of numerical libraries spin while they wait for each other."""
_ON_BOTH_LOOPS = ("test_handshake.py", "test_framing.py")

# The same examples in every run, so that none fails by surprise; `make hostile` draws others each time. How long an
# example takes, and how much of it is drawn in vain, says something about the machine only.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    derandomize=not forms.IS_LONG,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("suite")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of the engine on virtual time: none waits, and none depends on how busy the machine is.

    Those of what sockets do run on both loops: the server's own, and the one that the other tests have.
    """
    if item.path.name in _ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"loop": VirtualLoop if _ENGINE in item.path.parents else asyncio.new_event_loop}


def _has_room(folder: str) -> bool:
    """Whether there is a file system in memory with room for what the tests write, and memory for it."""
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES")
        return min(shutil.disk_usage(folder).free, pages * os.sysconf("SC_PAGE_SIZE")) >= _ROOM_BYTES
    except (OSError, ValueError):
        return False


def pytest_configure(config: pytest.Config) -> None:
    """Set up processes of tests, and take signals that a shell has ignored for what it started with `nohup ... &`.

    Children inherit that a signal is ignored, but not that one is handled: theirs end them, as at a terminal.
    """
    if _has_room(_MEMORY_FOLDER):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY_FOLDER)  # where tmp_path is
    for name in _ONE_THREAD:  # in processes that are started from now on: those of the tests, and what they start
        os.environ.setdefault(name, "1")
    file = os.environ.pop("TEST_RESULTS", None)  # of this run, and not of what its tests start
    if file:
        config.pluginmanager.register(Results(Path(file)))
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):  # by nohup, by the shell: the suite goes on ignoring them
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: none of them is what the other processes wait for in the end."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each test the same random numbers in whatever order, and no log lines that an earlier one has used up.

    Where the order is random, its seed gives the numbers too.
    """
    for event in vars(events).values():  # else what a test has logged would leave out lines of the next one
        if isinstance(event, ThrottledEvent):
            event._windows.clear()
    if not item.config.pluginmanager.hasplugin("randomly"):
        random.seed(f"{forms.SEED} {item.nodeid}")


@pytest.fixture(scope="session", autouse=True)
def forks_end() -> Iterator[None]:
    """End the process that gateways were forked from with the last test, before what was covered is put together."""
    yield
    fork_server.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Say how to get the same order again, where tests that were in a random one have failed."""
    if exitstatus and config.pluginmanager.hasplugin("randomly"):
        terminalreporter.write_line(f"in the same order: -p randomly --randomly-seed={config.option.randomly_seed}")


def _fail_if_left_out(report: pytest.TestReport | pytest.CollectReport) -> None:
    """With CI=true, a missing component is a failure; elsewhere the test says what is missing, and is skipped."""
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"left out, though CI=true: {report.longreprtext}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail tests that skip in continuous integration."""
    report = yield
    _fail_if_left_out(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail files that skip in continuous integration."""
    report = yield
    _fail_if_left_out(report)
    return report
