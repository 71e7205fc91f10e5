"""Work queue of blocking operations: a few threads, a bounded queue, and a share of it for each caller.

The threads are the queue's own: what waits here keeps nothing else in the process from a thread.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from embedgate.core.demand import Demand, caller_left
from embedgate.core.errors import Overloaded
from embedgate.observe import metrics

T = TypeVar("T")

_SHARE = 4
"""One who asks has a quarter of the places, and always one."""
_RETRY_S = 1.0


class WorkQueue:
    """Bounded queue before a few worker threads. For one event loop."""

    def __init__(self, name: str, threads: int, max_requests: int, what: str = "requests") -> None:
        """name: of the threads. max_requests: that run or wait; further ones are refused. what: their name."""
        self._what = what
        self._worker = ThreadPoolExecutor(threads, thread_name_prefix=f"embedgate-{name}")
        self._max_requests = max_requests
        self._max_of_one = max(1, max_requests // _SHARE)
        self._by_asker: Counter[str] = Counter()
        self._n = 0

    @property
    def is_full(self) -> bool:
        """Whether every place is taken."""
        return self._n >= self._max_requests

    @contextmanager
    def place(self, asker: str) -> Iterator[None]:
        """Have a place for one request. asker: whose share it counts in. Raises Overloaded if there is none."""
        n_of_asker = self._by_asker.get(asker, 0)
        if self.is_full or n_of_asker >= self._max_of_one:
            metrics.administration_refused()
            which = f"{self._n} {self._what}" if self.is_full else f"{n_of_asker} {self._what} of yours"
            raise Overloaded(
                f"{which} to the administration API run or wait; at most {self._max_requests} may "
                "(server.max_admin_requests), of which one user, or one address without a login, has a quarter. Try "
                "again in a moment.",
                retry_after_s=_RETRY_S,
            )
        self._n += 1
        self._by_asker[asker] += 1
        try:
            yield
        finally:
            self._n -= 1
            self._by_asker[asker] -= 1
            if not self._by_asker[asker]:
                del self._by_asker[asker]

    async def run(self, work: Callable[[], T], demand: Demand | None = None) -> T:
        """Run it on a thread, and return what it gives. demand: work that has not begun is dropped with it.

        Ask for a `place` before. Raises what the work raises, CallerLeft if it was dropped.
        """

        def if_wanted() -> T:
            if demand is not None and demand.is_gone:
                raise caller_left()
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._worker, if_wanted)

    def close(self) -> None:
        """End the threads. What waits is dropped; what runs is waited for by the process, as any thread is."""
        self._worker.shutdown(wait=False, cancel_futures=True)
