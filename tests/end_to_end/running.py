"""Starts the gateway as a user would, as a process of its own on a free port, and stops it again."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

START_TIMEOUT_S = 120
UPSTREAM_KEY = "sk-upstream-secret-0123456789"
"""The key of the `openai` provider in the gateway that most tests share."""
_URL = re.compile(rb"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that answers at `url`. `key` is the first user's, `log` where it writes its log."""

    process: subprocess.Popen[bytes]
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

    def terminate(self, timeout_s: float = 60) -> int:
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
    data_dir.mkdir(parents=True, exist_ok=True)
    file = data_dir / "embedgate.toml"
    file.write_text(config, encoding="utf-8")
    log = data_dir / "gateway.log"
    command = [sys.executable, "-m", "embedgate", "serve", "--port", "0", "--data-dir", str(data_dir)]
    with log.open("ab") as log_file:
        process = subprocess.Popen(
            [*command, "--config", str(file)],
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=clean_environment(**(environment or {})),
        )
    assert process.stdout is not None
    try:
        yield RunningGateway(process, _wait_for_url(process, process.stdout, log), data_dir, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)
        process.stdout.close()


def _wait_for_url(process: subprocess.Popen[bytes], stdout: IO[bytes], log: Path) -> str:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        line = stdout.readline()
        found = _URL.search(line)
        if found:
            return found.group().decode()
        if not line and process.poll() is not None:
            break
    raise AssertionError(f"the gateway did not start: {log.read_text()[-2000:]}")
