"""Signals of the server process: those that drain it, and the one that reloads its settings.

A signal whose default is to end the process would end it with work in flight, paid for and not accounted for.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

_STOPS = ("SIGTERM", "SIGINT")
_WOULD_KILL = ("SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGXCPU", "SIGIO", "SIGPWR")
"""Whoever sends them means something else by them; what is left as it was would end the process at once."""
_RELOADS = "SIGHUP"


@contextlib.contextmanager
def handled(stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Call `stop` for each signal that would end the process, and `reload` for SIGHUP, on the running loop.

    A signal that is ignored stays so: a shell lets background processes ignore interrupts, `nohup` hang-ups. One that
    somebody else in the process handles stays theirs.
    """
    loop = asyncio.get_running_loop()
    wanted = {number: stop for number in _known(_STOPS) if signal.getsignal(number) != signal.SIG_IGN}
    wanted |= {number: stop for number in _known(_WOULD_KILL) if signal.getsignal(number) == signal.SIG_DFL}
    wanted |= {number: reload for number in _known((_RELOADS,)) if signal.getsignal(number) == signal.SIG_DFL}
    for number, handle in wanted.items():
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)


def _known(names: tuple[str, ...]) -> list[signal.Signals]:
    """Those that this system has."""
    return [signal.Signals[name] for name in names if name in signal.Signals.__members__]
