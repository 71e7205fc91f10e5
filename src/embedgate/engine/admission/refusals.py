"""Refusals in the audit trail: the first of a kind at once, equal ones after it as one event with their number.

Whoever is refused a thousand times a second would fill the disk otherwise, at no cost. Two refusals are equal if the
same key was refused the same action on the same model for the same reason. Bounded in memory, and in events per key
and interval, however many models a key asks for.
"""

import asyncio

from msgspec import Struct
from msgspec.structs import replace

from embedgate.core.access import AuditEvent
from embedgate.core.ports import AuditTrail
from embedgate.observe import metrics

MAX_KINDS = 2_000
"""Kinds of refusals that are remembered at once. When there are more, all are written and forgotten."""
MAX_KINDS_PER_KEY = 20
"""Kinds of one key in one interval; its further ones are counted together, by reason, whatever they asked for."""
ANY = "*"
"""In an event of several targets, in place of one."""

_Kind = tuple[str, str, str, tuple[str, ...]]
"""Action, target, outcome, policies."""


class _Counted(Struct, eq=False):
    """Refusals of one kind that have no event yet. `last`: the newest of them. `n_own`: how many had their own."""

    last: AuditEvent
    n_own: int = 0
    n: int = 0
    first_ms: int = 0

    def count(self, event: AuditEvent) -> None:
        if not self.n:
            self.first_ms = event.at_ms
        self.n += 1
        self.last = event


class Refusals:
    """Implements the port AuditTrail for refusals, over the trail itself. For one event loop."""

    def __init__(self, trail: AuditTrail, interval_s: float) -> None:
        """interval_s: over which equal refusals become one event; 0 writes each."""
        self._trail = trail
        self._interval_s = interval_s
        self._by_key: dict[str, dict[_Kind, _Counted]] = {}
        self._n_kinds = 0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, event: AuditEvent) -> None:
        """Write a refusal, or count it if it equals one that was written in this interval."""
        if not self.counts(event):
            self._trail.note(event)

    def counts(self, event: AuditEvent, n_own: int = 1) -> bool:
        """Whether a refusal was counted; if not, it has to be written into the audit trail.

        n_own: of this kind, so many in an interval have an event of their own.
        """
        if not self._interval_s:
            return False
        kinds = self._by_key.get(event.actor)
        kind = (event.action, event.target, event.outcome, event.policies)
        counted = None if kinds is None else kinds.get(kind)
        if counted is None and kinds is not None and len(kinds) >= MAX_KINDS_PER_KEY:
            event = replace(event, target=ANY, policies=())
            kind = (event.action, ANY, event.outcome, ())
            counted = kinds.get(kind) or self._remember(event, kind)
        elif counted is None or counted.n_own < n_own:
            counted = counted or self._remember(event, kind)
            counted.n_own += 1
            return False
        counted.count(event)
        metrics.refusal_summed()
        return True

    def write(self) -> None:
        """Write what was counted. Call at the end, while the trail is still open."""
        for kinds in self._by_key.values():
            for counted in kinds.values():
                if counted.n:
                    self._trail.note(_summed(counted))
                    counted.n = 0

    def close(self) -> None:
        """Write what was counted, and stop counting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.write()
        self._by_key.clear()
        self._interval_s = 0

    def _remember(self, event: AuditEvent, kind: _Kind) -> _Counted:
        if self._n_kinds >= MAX_KINDS:
            self.write()
            self._by_key.clear()
            self._n_kinds = 0
        counted = self._by_key.setdefault(event.actor, {})[kind] = _Counted(event)
        self._n_kinds += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._end_interval)
        return counted

    def _end_interval(self) -> None:
        """Write what was counted; forget what was not refused again, so that its next refusal is written at once."""
        self._timer = None
        left = {
            key: {kind: counted for kind, counted in kinds.items() if counted.n} for key, kinds in self._by_key.items()
        }
        self.write()
        self._by_key = {key: kinds for key, kinds in left.items() if kinds}
        self._n_kinds = sum(map(len, self._by_key.values()))
        if self._by_key:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._end_interval)


def _summed(counted: _Counted) -> AuditEvent:
    """The newest of the refusals, as one event for all of them."""
    last = counted.last
    return replace(
        last, detail={**last.detail, "count": counted.n, "first_ms": counted.first_ms, "last_ms": last.at_ms}
    )
