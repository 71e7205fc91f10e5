"""Starts the gateway with the command line of a user, as a process of its own on a free port, and stops it again."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import fork_server
from empty_database import write_empty_database
from kept_models import share_models
from waiting import PATIENCE_S

START_TIMEOUT_S = 300
UPSTREAM_KEY = "sk-upstream-secret-0123456789"
"""The key of the `openai` provider in the gateway that most tests share."""
_URL = re.compile(rb"(http://127\.0\.0\.1:\d+)\s")
_CALM = {"EMBEDGATE_UPSTREAM__CIRCUIT_PATIENCE_S": "3600"}
"""What one test has failed on purpose must not keep the next one from the only provider."""


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that answers at `url`. `key` is the first user's, `log` where it writes its log."""

    process: fork_server.Process
    url: str
    data_dir: Path
    log: Path

    @property
    def key(self) -> str:
        """The key of the first user."""
        return (self.data_dir / "user.key").read_text().strip()

    @property
    def admin_key(self) -> str:
        """The key of the administrator."""
        return (self.data_dir / "admin.key").read_text().strip()

    def terminate(self, timeout_s: float = PATIENCE_S) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without settings or provider keys of the machine that runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"EMBEDGATE_|.*_API_KEY$", name)}
    return kept | extra


@contextlib.contextmanager
def gateway(data_dir: Path, config: str = "", environment: Mapping[str, str] | None = None) -> Iterator[RunningGateway]:
    """A gateway over `data_dir` with the given TOML settings, ready to answer; stopped at the end."""
    share_models(data_dir)
    write_empty_database(data_dir)
    file = data_dir / "embedgate.toml"
    file.write_text(config, encoding="utf-8")
    log = data_dir / "gateway.log"
    printed = data_dir / "gateway.out"
    arguments = ["serve", "--port", "0", "--data-dir", str(data_dir), "--config", str(file)]
    process = fork_server.start(arguments, _CALM | clean_environment(**(environment or {})), printed, log)
    try:
        yield RunningGateway(process, wait_for_url(process, printed, log), data_dir, log)
    finally:
        _stop(process)


def wait_for_url(process: fork_server.Process, printed: Path, log: Path) -> str:
    """The address that a gateway prints when it is ready. Raises AssertionError with its log if it ends before."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        has_ended = process.poll() is not None
        found = _URL.search(printed.read_bytes()) if printed.exists() else None
        if found:
            return found.group(1).decode()
        if has_ended:
            break
        time.sleep(0.005)
    raise AssertionError(f"the gateway did not start: {log.read_text()[-2000:]}")


def _stop(process: fork_server.Process) -> None:
    """End it in order, so that its coverage is measured: the second signal ends what still drains."""
    for number, timeout_s in ((signal.SIGTERM, 10), (signal.SIGTERM, 30), (signal.SIGKILL, PATIENCE_S)):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
            return
