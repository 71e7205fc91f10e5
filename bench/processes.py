"""Processes of a run: core pinning, readiness, CPU and memory. Reads /proc, so it needs Linux.

Knows nothing of embeddings.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOP_TIMEOUT_S = 20
_LOG_LINES_SHOWN = 3


class NotStarted(Exception):
    """A program did not become ready; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Assignment of CPU cores. `are_apart` if the gateway has one to itself."""

    gateway: frozenset[int]
    load: frozenset[int]
    upstream: frozenset[int]
    are_apart: bool

    @classmethod
    def shared_out(cls) -> "Cores":
        """One core for the gateway, the first others for load and upstream (one for both where there are two)."""
        available = sorted(os.sched_getaffinity(0))
        first, last = available[0], available[-1]
        between = available[1] if len(available) > 2 else first
        return cls(frozenset({last}), frozenset({first}), frozenset({between}), first != last)

    @classmethod
    def all_for_everyone(cls) -> "Cores":
        """Without pinning: for work that is meant to use every core."""
        every = frozenset(os.sched_getaffinity(0))
        return cls(every, every, every, are_apart=False)


@contextlib.contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """Programs started inside run on these cores, with all their threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A TCP port that is free at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Program:
    """One started program that listens on a port of this machine."""

    def __init__(self, command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None) -> None:
        """Use `program`."""
        self.port = port
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Of the process that was started; it may have children."""
        return self._process.pid

    def wait_until_listening(self, timeout_s: float) -> None:
        """Raises NotStarted if it ends, or does not listen in time."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                raise NotStarted(f"ended with status {self._process.returncode}: {self._end_of_log()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise NotStarted(f"did not listen within {timeout_s:g} s: {self._end_of_log()}")

    def stop(self) -> None:
        """End it and all its children, politely first."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            # A group of its own: children that the program left behind go with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)

    def _end_of_log(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(lines[-_LOG_LINES_SHOWN:])[-400:]


@contextlib.contextmanager
def program(
    command: Sequence[str],
    port: int,
    log: Path,
    *,
    cores: frozenset[int],
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """A program that listens on `port`, stopped at the end. environment: exactly what it sees; this one's if None.

    Raises NotStarted.
    """
    with on_cores(cores):
        started = Program(command, port, log, environment)
    try:
        started.wait_until_listening(timeout_s)
        yield started
    finally:
        started.stop()


def family(pid: int) -> list[int]:
    """A process and all its descendants that are alive."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Processor seconds used by processes, their threads, and their children that have ended; to about 10 ms."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold spaces; times are fields 14 to 17, counted from 1.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / _TICKS_PER_S
    return total


def memory_bytes(pids: Sequence[int]) -> int:
    """Resident memory of processes now, added up."""
    return _status_bytes(pids, "VmRSS:")


def own_memory_bytes(pids: Sequence[int]) -> int:
    """Memory that processes have taken for themselves, added up: without pages of files."""
    return _status_bytes(pids, "RssAnon:")


def descriptors(pids: Sequence[int]) -> int:
    """Open descriptors of processes, added up."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return total


def peak_memory_bytes(pids: Sequence[int]) -> int:
    """The most that was resident since `forget_peak`, added up over processes."""
    return _status_bytes(pids, "VmHWM:")


def forget_peak(pids: Sequence[int]) -> None:
    """Let the peak of each process begin again at what it holds now."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_bytes(pids: Sequence[int], name: str) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
    return total
