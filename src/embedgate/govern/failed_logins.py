"""Throttle of password guesses: after a few wrong ones each further attempt waits longer. In memory.

Counts only; what a login is, and whether it failed, is told from outside. A process that starts anew has forgotten.
"""

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from embedgate.core.errors import RateLimited
from embedgate.govern.fields import MAX_NAME_CHARACTERS

FIRST_WAIT_S = 30.0
"""After the first failure too many; doubled with each further one."""
WINDOW_S = 15 * 60.0
"""The longest wait."""
FORGOTTEN_AFTER_S = 24 * 3600.0
"""Without a further failure."""
MAX_FAILURES_OF_NAME = 5
"""Of one name from one address. By the pair, so that nobody can lock another user out."""
MAX_FAILURES_OF_ADDRESS = 50
"""Of all names from one address: trying one password on every user is guessing, too."""

_IPV6_NETWORK_BITS = 64  # what one subscriber has
_Who = tuple[str, ...]


@dataclass(slots=True)
class _Failures:
    """The failures of one name or address: how many, and when the newest was, of those that count."""

    n: int = 0
    last_s: float = 0.0


class FailedLogins:
    """The failures of every name and address that counts at the moment. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, max_tracked: int = 20_000) -> None:
        """clock: seconds. max_tracked: names and addresses that are remembered, those of the oldest failures go."""
        self._clock = clock
        self._max_tracked = max_tracked
        self._lock = threading.Lock()
        self._failures: OrderedDict[_Who, _Failures] = OrderedDict()

    @contextmanager
    def attempt(self, name: str, place: str) -> Iterator[Callable[[], None]]:
        """Try a password of `name`; call what this gives if the password was wrong.

        place: the address that the attempt comes from, or what else stands for it.
        The attempt counts as failed from its beginning, so that many at once are not more than one after the other;
        without that call it counts no longer, and a right password ends the wait of its name. Raises RateLimited, with
        the seconds until the next attempt.
        """
        network = _network(place)
        pair = (name[: MAX_NAME_CHARACTERS + 1], network)
        outcome = "unknown"

        def fail() -> None:
            nonlocal outcome
            outcome = "wrong"

        self._begin(pair)
        try:
            yield fail
            outcome = outcome if outcome == "wrong" else "right"
        finally:
            if outcome != "wrong":
                self._take_back(pair, is_over=outcome == "right")

    def _begin(self, pair: _Who) -> None:
        address = pair[1:]
        with self._lock:
            now_s = self._clock()
            self._check(pair, MAX_FAILURES_OF_NAME, "of this name from this address", now_s)
            self._check(address, MAX_FAILURES_OF_ADDRESS, "from this address", now_s)
            for who in (pair, address):
                failures = self._failures.setdefault(who, _Failures())
                failures.n += 1
                failures.last_s = now_s
                self._failures.move_to_end(who)  # the newest failure stands last
            while len(self._failures) > self._max_tracked:
                self._failures.popitem(last=False)

    def _check(self, who: _Who, max_failures: int, whose: str, now_s: float) -> None:
        failures = self._failures.get(who)
        if failures is None:
            return
        if now_s >= failures.last_s + FORGOTTEN_AFTER_S:
            del self._failures[who]
            return
        too_many = failures.n - max_failures
        if too_many < 0:
            return
        wait_s = failures.last_s + min(WINDOW_S, FIRST_WAIT_S * 2.0 ** min(too_many, 30)) - now_s
        if wait_s > 0:
            raise RateLimited(
                f"{failures.n} logins {whose} have failed; after {max_failures} each further one has to wait longer. "
                f"Try again in {math.ceil(wait_s)} seconds.",
                retry_after_s=wait_s,
            )

    def _take_back(self, pair: _Who, *, is_over: bool) -> None:
        """Do not count an attempt. is_over: the password was right, so that the next one need not wait."""
        with self._lock:
            for who in (pair, pair[1:]):
                failures = self._failures.get(who)
                if failures is None:
                    continue
                failures.n -= 1
                if is_over and who == pair:
                    failures.n = min(failures.n, MAX_FAILURES_OF_NAME - 1)
                if failures.n <= 0:
                    del self._failures[who]


def _network(place: str) -> str:
    """The address, or the network that one subscriber has of IPv6: addresses in it cost nothing."""
    try:
        address = ipaddress.ip_address(place)
    except ValueError:
        return place[:MAX_NAME_CHARACTERS]
    if isinstance(address, ipaddress.IPv4Address):
        return place
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _IPV6_NETWORK_BITS), strict=False))
