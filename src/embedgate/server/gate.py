"""Connection limiter of one server: how many may be open, whose idle ones go first, and which are cut.

Knows no HTTP: `connection` and `handshake` ask for a place here, and say of themselves whether they are idle.
"""

import ipaddress
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, Protocol

from embedgate.core.errors import Overloaded
from embedgate.observe import events, metrics
from embedgate.server.address import CallerAddress
from embedgate.server.memory import MemoryBudget
from embedgate.server.respond import WritesErrors, headers_of_request
from embedgate.server.turns import Turns
from embedgate.settings import ServerSettings

MAX_REFUSING = 100
"""Connections without a place: those beyond the limit that get a 503, and refused ones until their callers have read
why. Further ones are closed without an answer, or as soon as it is sent."""

State = Literal["handshake", "idle", "receiving", "serving", "unread", "closing"]
STATES: tuple[State, ...] = ("handshake", "idle", "receiving", "serving", "unread", "closing")
_GIVES_WAY: tuple[State, ...] = ("closing", "handshake", "idle", "unread", "receiving")
"""What is closed to make room, in this order; never what has come whole and is being served. A body that never comes
would hold a place as long as one that is on its way, so both give way."""
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Reason = Literal["refused", "slow", "large", "malformed", "unread", "replaced", "handshake", "memory"]


class Placed(Protocol):
    """What has a place: a connection, or one whose TLS handshake is not complete."""

    address: str

    @property
    def state(self) -> State:
        """What it does now."""
        ...

    def close_if_late(self, now_s: float) -> None:
        """Close it if its deadline has passed."""
        ...

    def give_way(self) -> None:
        """Close it at once: another one needs its place."""
        ...


class Gate:
    """Connection limiter of one server: the limits, the open connections by address, and counts of refused ones."""

    def __init__(
        self,
        bounds: ServerSettings,
        dialect: WritesErrors,
        clock_s: Callable[[], float] = time.monotonic,
        memory: MemoryBudget | None = None,
    ) -> None:
        """dialect: writes refusals. clock_s: monotonic seconds. memory: in which unsent answers count."""
        self.bounds = bounds
        self.dialect = dialect
        self.clock_s = clock_s
        self.memory = memory or MemoryBudget(sys.maxsize, 0.0)
        self.turns = Turns()
        self.admitted = 0
        self.refusing: dict[Placed, None] = {}
        self._proxies = tuple(ipaddress.ip_network(text) for text in bounds.trusted_proxies)
        self._callers = CallerAddress(bounds.trusted_proxies)
        self._by_address: dict[str, dict[Placed, None]] = {}
        self._turned_away: Counter[str] = Counter()

    def enter(self, placed: Placed, peer: str) -> Overloaded | None:
        """Give a place to a connection from `peer`; else return the reason of the refusal.

        With all places taken, the oldest idle connection of the address that has the most gives way, if the newcomer's
        address has fewer.
        """
        is_proxy = self._is_proxy(peer)
        placed.address = address = peer if is_proxy else neighbourhood(peer)
        most = self.bounds.max_connections_per_address
        n_here = len(self._by_address.get(address, ()))
        if most is not None and n_here >= most and not is_proxy:
            self.count("refused")
            return _too_many_here(most)
        if self.admitted >= self.bounds.max_connections and not self._make_room(n_here):
            self.count("refused")
            return _no_room(self.bounds.max_connections)
        self._by_address.setdefault(address, {})[placed] = None
        self.admitted += 1
        return None

    def hand_over(self, old: Placed, new: Placed) -> bool:
        """Give the place of `old` to `new`. False if `old` has lost it."""
        new.address = old.address
        here = self._by_address.get(old.address)
        if here is None or old not in here:
            return False
        del here[old]
        here[new] = None
        return True

    def leave(self, placed: Placed) -> None:
        """Take the place back. Idempotent."""
        self.refusing.pop(placed, None)
        here = self._by_address.get(placed.address)
        if here is None or placed not in here:
            return
        del here[placed]
        self.admitted -= 1
        if not here:
            del self._by_address[placed.address]

    def part(self, placed: Placed) -> bool:
        """Take the place of a connection that was refused, and may stay a moment. False if too many do so."""
        self.leave(placed)
        if len(self.refusing) >= MAX_REFUSING:
            return False
        self.refusing[placed] = None
        return True

    def whose_turn(self, placed: Placed, lines: Sequence[tuple[bytes, bytes]]) -> str:
        """The address whose turn a request takes: behind a trusted proxy, that of the caller. lines: its headers."""
        if not self._is_proxy(placed.address):
            return placed.address
        return neighbourhood(self._callers.behind(placed.address, headers_of_request(lines)))

    def count(self, reason: Reason) -> None:
        """Count a refused connection for the next `sweep`."""
        self._turned_away[reason] += 1

    def sweep(self) -> None:
        """Close what is past its deadline, and log refusals since the last sweep. Call once a second."""
        now_s = self.clock_s()
        for refused in tuple(self.refusing):
            refused.close_if_late(now_s)
        states: Counter[str] = Counter()
        for here in tuple(self._by_address.values()):
            for placed in tuple(here):
                placed.close_if_late(now_s)
                states[placed.state] += 1
        metrics.memory_now(self.memory.used_bytes, self.memory.limit_bytes)
        metrics.turns_now(self.turns.waiting)
        metrics.connections_now({state: states[state] for state in STATES})
        for reason, n in self._turned_away.items():
            metrics.connections_turned_away(reason, n)
        if n_refused := self._turned_away.pop("refused", 0):
            events.CONNECTIONS_REFUSED.emit(connections=n_refused, max_connections=self.bounds.max_connections)
        if self._turned_away:
            events.CONNECTIONS_CUT.emit(**self._turned_away)
            self._turned_away.clear()

    @property
    def is_full(self) -> bool:
        """Whether every place is taken."""
        return self.admitted >= self.bounds.max_connections

    def _make_room(self, n_here: int) -> bool:
        """Close an idle connection of the address that has the most, if these are more than `n_here` by two."""
        for here in sorted(self._by_address.values(), key=len, reverse=True):
            if len(here) < n_here + 2:
                return False  # it would only turn one address's place into another's
            if self._is_proxy(next(iter(here)).address):
                continue
            states = {placed: placed.state for placed in here}
            for wanted in _GIVES_WAY:
                for placed, state in states.items():
                    if state == wanted:
                        self.count("replaced")
                        self.leave(placed)
                        placed.give_way()
                        return True
        return False

    def _is_proxy(self, peer: str) -> bool:
        """Whether the peer is a trusted proxy, whose connections are of many callers."""
        if not self._proxies or not peer or "/" in peer:
            return False
        address = _unmapped(ipaddress.ip_address(peer.partition("%")[0]))
        return any(address in network for network in self._proxies)


@lru_cache(maxsize=4096)
def neighbourhood(peer: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 network of an IPv6 address, which one caller owns."""
    try:
        address = _unmapped(ipaddress.ip_address(peer.partition("%")[0]))
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _unmapped(address: _Address) -> _Address:
    """The IPv4 address that a socket for both families reports in the form of IPv6; any other as it is."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _no_room(max_connections: int) -> Overloaded:
    return Overloaded(
        f"{max_connections} connections are open, as many as server.max_connections allows. Try again, and keep "
        "connections open for several requests.",
        retry_after_s=1,
    )


def _too_many_here(most: int) -> Overloaded:
    return Overloaded(
        f"{most} connections of your address are open, as many as server.max_connections_per_address allows. Close "
        "some, and keep the others open for several requests.",
        retry_after_s=1,
    )
