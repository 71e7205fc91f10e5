"""Starts the gateway again and again, each time as a fork of a process that has imported it: in a third of the time."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from running import clean_environment

_PARENT = """
import datetime, os, sys, time
import embedgate.core.clock as clock
import embedgate.server.serve, embedgate.wiring.gateway
from embedgate.cli.main import run

def shift_clock(file):
    true_ns, now = time.time_ns, datetime.datetime.now
    def shift_ns():
        with open(file) as text:
            return int(text.read() or 0)
    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, zone=None):
            return now(zone) + datetime.timedelta(microseconds=shift_ns() // 1000)
    time.time_ns = lambda: true_ns() + shift_ns()
    time.time = lambda: time.time_ns() / 1e9
    clock.datetime = Shifted

if "TEST_CLOCK_SHIFT" in os.environ:
    shift_clock(os.environ["TEST_CLOCK_SHIFT"])

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.argv = ["embedgate", "serve", "--port", "0", *line.rstrip().split("|")]
        run()
    print("pid", pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", pid, flush=True)
"""
_SAID = re.compile(r"(pid|ended) (\d+)|(http://127\.0\.0\.1:\d+)$")


@dataclass(frozen=True)
class Fork:
    """A gateway that answers at `url`."""

    url: str
    _pid: int
    _said: IO[str]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends the process, and return once it is no more."""
        os.kill(self._pid, number)
        while "ended" not in self._said.readline():
            pass


class Forks:
    """The process that is forked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Use `forks`."""
        self._process = process

    def start(self, data_dir: Path, config: Path) -> Fork:
        """A gateway over a folder, ready to answer. One at a time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"--data-dir|{data_dir}|--config|{config}\n")
        self._process.stdin.flush()
        pid, url = 0, ""
        while not (pid and url):
            line = self._process.stdout.readline()
            assert line, "the gateway did not start"
            found = _SAID.search(line.rstrip())
            if found:
                assert found[1] != "ended", "the gateway did not start"
                pid, url = int(found[2] or pid), found[3] or url
        return Fork(url, pid, self._process.stdout)


@dataclass(frozen=True)
class WallClock:
    """The wall clock of gateways, which a test can put forward or back while they run; the monotonic clock goes on."""

    file: Path

    @property
    def environment(self) -> dict[str, str]:
        """For `forks`."""
        self.shift(0)
        return {"TEST_CLOCK_SHIFT": str(self.file)}

    def shift(self, seconds: float) -> None:
        """Show the true time and so many seconds more."""
        new = self.file.with_suffix(".new")
        new.write_text(str(int(seconds * 1e9)), encoding="ascii")
        new.replace(self.file)  # never read while it is empty


@contextlib.contextmanager
def forks(log: Path, **environment: str) -> Iterator[Forks]:
    """A process to fork. log: where its gateways write theirs."""
    with (
        log.open("ab") as log_file,
        subprocess.Popen(
            [sys.executable, "-c", _PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
            env=clean_environment(**environment),
        ) as process,
    ):
        yield Forks(process)
