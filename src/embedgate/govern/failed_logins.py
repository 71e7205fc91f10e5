"""How often a password may be guessed: failed logins of the last quarter of an hour, in memory.

Counts only; what a login is, and whether it failed, is told from outside. A process that starts anew has forgotten.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embedgate.core.errors import RateLimited
from embedgate.govern.fields import MAX_NAME_CHARACTERS

WINDOW_S = 15 * 60.0
MAX_FAILURES_OF_NAME = 5
"""Of one name from one address. By the pair, so that nobody can lock another user out."""
MAX_FAILURES_OF_ADDRESS = 50
"""Of all names from one address: trying one password on every user is guessing, too."""

_Who = tuple[str, ...]


class FailedLogins:
    """The failures of every name and address that counts at the moment. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, max_tracked: int = 20_000) -> None:
        """clock: seconds. max_tracked: names and addresses that are remembered, those of the oldest failures go."""
        self._clock = clock
        self._max_tracked = max_tracked
        self._lock = threading.Lock()
        self._failures: dict[_Who, deque[float]] = {}

    @contextmanager
    def attempt(self, name: str, ip_address: str) -> Iterator[Callable[[], None]]:
        """Try a password of `name`; call what this gives if the password was wrong.

        The attempt counts as failed from its beginning, so that many at once are not more than one after the other;
        without that call it counts no longer. Raises RateLimited, with the seconds until one of the failures is over.
        """
        pair = (name[: MAX_NAME_CHARACTERS + 1], ip_address)
        is_wrong = False

        def fail() -> None:
            nonlocal is_wrong
            is_wrong = True

        begun_s = self._begin(pair)
        try:
            yield fail
        finally:
            if not is_wrong:
                self._take_back(pair, begun_s)

    def _begin(self, pair: _Who) -> float:
        address = pair[1:]
        with self._lock:
            now_s = self._clock()
            self._check(pair, MAX_FAILURES_OF_NAME, "of this name from this address", now_s)
            self._check(address, MAX_FAILURES_OF_ADDRESS, "from this address", now_s)
            for who in (pair, address):
                failures = self._failures.pop(who, deque())  # the newest failure stands last
                failures.append(now_s)
                self._failures[who] = failures
            while len(self._failures) > self._max_tracked:
                del self._failures[next(iter(self._failures))]
        return now_s

    def _check(self, who: _Who, max_failures: int, whose: str, now_s: float) -> None:
        failures = self._failures.get(who)
        if failures is None:
            return
        while failures and failures[0] <= now_s - WINDOW_S:
            failures.popleft()
        if len(failures) >= max_failures:
            wait_s = failures[0] + WINDOW_S - now_s
            raise RateLimited(
                f"{len(failures)} logins {whose} have failed in the last {WINDOW_S / 60:.0f} minutes; "
                f"{max_failures} may. Try again in {math.ceil(wait_s)} seconds.",
                retry_after_s=wait_s,
            )

    def _take_back(self, pair: _Who, begun_s: float) -> None:
        with self._lock:
            for who in (pair, pair[1:]):
                failures = self._failures.get(who)
                if failures and begun_s in failures:
                    failures.remove(begun_s)
                if failures is not None and not failures:
                    del self._failures[who]
