"""Fair scheduling on the event loop: how much callers can begin in one turn of it, and whose work is next.

A turn of the loop runs everything that is ready. Without a bound, hundreds of connections of one address make each turn
as long as all of their requests together, and a request of anybody else takes half a dozen turns.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

FEWEST = 4
"""Pieces of work that begin in any turn: requests, parts of what was received, TLS handshakes."""
_MOST = 64
_SHORT_S = 0.001
_LONG_S = 0.002
"""After a longer turn fewer pieces begin in the next, after a shorter one more: a piece takes 0.05 to 5 ms.

A turn in itself takes 20 µs, which is all that a caller loses who is busy alone."""

Work = Callable[[], bool | None]
"""A piece of work. Returns False if it did nothing, because nobody wants it any more."""


class Turns:
    """Turns of one event loop: so many pieces of work begin in each as take a millisecond or two of processor time.

    What waits is taken from each address in turn. It is bounded by who asks: a connection has one request and one part
    of its bytes here, at most; those of connections that have closed count in no turn.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic, used_s: Callable[[], float] = time.thread_time):
        """clock_s: seconds, for how long work waits. used_s: seconds of processor time of the loop's thread."""
        self._clock_s = clock_s
        self._used_s = used_s
        self._waiting: OrderedDict[str, deque[tuple[float, Work]]] = OrderedDict()
        """By address, in the order in which the addresses are next."""
        self._is_scheduled = False
        self._most = self._left = FEWEST
        self._used_before_s: float | None = None
        """At the beginning of the turn before, if work has waited since."""

    def begins(self) -> bool:
        """Whether a piece of work may begin at once, which is counted; else it has to `wait`."""
        if self._left == 0 or self._waiting:
            return False
        self._left -= 1
        self._schedule()
        return True

    def wait(self, address: str, work: Work) -> None:
        """Call `work` once it is the turn of this address. It raises nothing."""
        queue = self._waiting.get(address)
        if queue is None:
            queue = self._waiting[address] = deque()
            self._schedule()
        queue.append((self._clock_s(), work))

    def do(self, address: str, work: Work) -> None:
        """Call `work` at once if it may begin, else once it is the turn of this address. It raises nothing."""
        if self.begins():
            work()
        else:
            self.wait(address, work)

    @property
    def waiting(self) -> int:
        """How many pieces of work wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def wait_s(self) -> float:
        """How long the one that has waited longest has waited; 0 if none does."""
        return max((self._clock_s() - queue[0][0] for queue in self._waiting.values()), default=0.0)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Begin the next turn of the loop."""
        self._is_scheduled = False
        self._adapt()
        self._left = self._most
        while self._left and self._waiting:
            address, queue = next(iter(self._waiting.items()))
            _, work = queue.popleft()
            if queue:
                self._waiting.move_to_end(address)
            else:
                del self._waiting[address]
            self._left -= 1
            self._schedule()
            if work() is False:  # then it was nobody's turn
                self._left += 1
                if address in self._waiting:
                    self._waiting.move_to_end(address, last=False)

    def _adapt(self) -> None:
        """Begin fewer pieces in a turn if the last one was long, more if it was short and work still waits."""
        if not self._waiting:
            self._used_before_s = None
            return
        used_s = self._used_s()
        if self._used_before_s is not None:
            took_s = used_s - self._used_before_s
            if took_s > _LONG_S:
                self._most = max(FEWEST, self._most // 2)
            elif took_s < _SHORT_S:
                self._most = min(_MOST, self._most * 2)
        self._used_before_s = used_s
