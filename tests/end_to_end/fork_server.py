"""Fork server for the gateways of the tests: one process imports the program, and every gateway is a fork of it.

Importing takes most of the time of a start. There is one server in each process of the tests, from the first gateway
on; `close` ends it. What the program does from its command line on is what a user's does; those tests that look at a
start itself run the command.
"""

import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from waiting import PATIENCE_S

_SERVER = """
import datetime, gc, json, os, random, resource, selectors, signal, sys, time
import embedgate.core.clock as clock
import embedgate.server.serve, embedgate.storage.migrate, embedgate.wiring.gateway
from embedgate.cli.main import load, run
from embedgate.govern import selection
from embedgate.providers import hosts

hosts.load()  # imports the vendor modules
selection._listed()  # reads the catalogue
load("serve").make_context("serve", [])  # makes the command and what parses its options
gc.collect()
gc.freeze()  # the collector of a fork would look at, and so copy, all of it

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

def become(job):
    ours = [os.open(os.devnull, os.O_RDONLY), os.open(job["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)]
    ours.append(os.open(job["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    for number, mine in enumerate(ours):
        os.dup2(mine, number)
        os.close(mine)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    resource.setrlimit(resource.RLIMIT_NOFILE, job["open_files"])
    random.seed()
    if "TEST_CLOCK_SHIFT" in os.environ:
        shift_clock(os.environ["TEST_CLOCK_SHIFT"])
    sys.argv = ["embedgate", *job["arguments"]]

# What this process says goes to a file of its own: 1 is the gateways'.
said = os.fdopen(os.dup(1), "w")
ended, tell = os.pipe()
os.set_blocking(tell, False)
signal.set_wakeup_fd(tell)
signal.signal(signal.SIGCHLD, lambda *_: None)
either = selectors.DefaultSelector()
either.register(0, selectors.EVENT_READ)
either.register(ended, selectors.EVENT_READ)

def say(**fields):
    said.write(json.dumps(fields) + "\\n")
    said.flush()

def tell_of_ends():
    os.read(ended, 4096)
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            say(pid=found[0], code=os.waitstatus_to_exitcode(found[1]))
    except ChildProcessError:
        pass

pending = b""
job = None
while job is None:
    ready = [key.fd for key, _ in either.select()]
    if ended in ready:
        tell_of_ends()
    if 0 not in ready:
        continue
    piece = os.read(0, 65_536)
    if not piece:
        sys.exit()
    *lines, pending = (pending + piece).split(b"\\n")
    for line in lines:
        pid = os.fork()
        if pid == 0:
            job = json.loads(line)
            break
        say(started=pid)

signal.set_wakeup_fd(-1)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
either.close()
for number in (said.fileno(), ended, tell):
    os.close(number)
become(job)
run()
"""


class Process:
    """A process that was forked: what `subprocess.Popen` has for it."""

    def __init__(self, server: "_Server", pid: int) -> None:
        """Use `start`."""
        self._server = server
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._server.codes.get(self.pid)

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit status, once it has ended. Raises TimeoutExpired."""
        with self._server.has_heard:
            if not self._server.has_heard.wait_for(lambda: self.pid in self._server.codes, timeout_s):
                raise subprocess.TimeoutExpired(f"gateway {self.pid}", timeout_s or 0)
        return self._server.codes[self.pid]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Server:
    """The process that is forked, and a thread that hears how its forks end."""

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.has_heard = threading.Condition()
        self._started: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._hearing = threading.Thread(target=self._hear, name="fork server", daemon=True)
        self._hearing.start()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "started" in told:
                self._started.put(told["started"])
                continue
            with self.has_heard:
                self.codes[told["pid"]] = told["code"]
                self.has_heard.notify_all()

    def fork(self, job: Mapping[str, object]) -> Process:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        pid = self._started.get(timeout=PATIENCE_S)
        self.codes.pop(pid, None)  # of an earlier process with the same number
        return Process(self, pid)

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(PATIENCE_S)
            self._hearing.join(PATIENCE_S)


_servers: list[_Server] = []


def start(arguments: Sequence[str], environment: Mapping[str, str], stdout: Path, stderr: Path) -> Process:
    """Run `embedgate` with these arguments in a new process. stdout begins anew, stderr is added to."""
    if not _servers:
        _servers.append(_Server())
    stdout.write_bytes(b"")  # now: what an earlier process has printed must not be taken for what this one does
    job = {
        "arguments": list(arguments),
        "environment": dict(environment),
        "folder": str(Path.cwd()),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "stdout": str(stdout.absolute()),
        "stderr": str(stderr.absolute()),
    }
    return _servers[0].fork(job)


def close() -> None:
    """End the server, if there is one."""
    while _servers:
        _servers.pop().close()
