"""Gateways that are killed and started again on one data folder, one at a time; and a wall clock that jumps."""

import contextlib
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import fork_server
from running import clean_environment, wait_for_url
from waiting import PATIENCE_S


@dataclass(frozen=True)
class Fork:
    """A gateway that answers at `url`."""

    url: str
    _process: fork_server.Process

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends the process, and return once it is no more."""
        self._process.send_signal(number)
        self._process.wait(PATIENCE_S)


class Forks:
    """Starts them, all with the same environment and log."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        """Use `forks`."""
        self._log = log
        self._environment = environment
        self._started: list[Fork] = []

    def start(self, data_dir: Path, config: Path) -> Fork:
        """A gateway over a folder, ready to answer."""
        arguments = ["serve", "--port", "0", "--data-dir", str(data_dir), "--config", str(config)]
        printed = self._log.with_suffix(".out")
        process = fork_server.start(arguments, self._environment, printed, self._log)
        found = Fork(wait_for_url(process, printed, self._log), process)
        self._started.append(found)
        return found

    def close(self) -> None:
        """Kill those that still run."""
        for fork in self._started:
            fork.kill()


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
    """Gateways that write this log. Those that still run at the end are killed."""
    with contextlib.closing(Forks(log, clean_environment(**environment))) as found:
        yield found
