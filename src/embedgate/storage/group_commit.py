"""One thread that writes the entries of many concurrent requests in one transaction, and does not give up.

Nothing waits in order to gather: the thread writes as soon as there is an entry, and whatever arrives meanwhile is
the next group. What the entries mean and how they are written is the ledger's.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from embedgate import telemetry
from embedgate.core.errors import InternalError
from embedgate.core.types import LedgerEntry

_MAX_GROUP = 500
_FIRST_DELAY_S = 0.01
_MAX_DELAY_S = 1.0
# What one entry alone can cause (a number over 64 bits, half a surrogate pair); all else is the database's fault.
_REFUSALS = (IntegrityError, DataError, ProgrammingError, OverflowError, ValueError)


class Pending(NamedTuple):
    """An entry on its way to the ledger, and who is told when it is there."""

    entry: LedgerEntry
    waiter: asyncio.Future[None]


@dataclass(slots=True)
class _Outage:
    """A time of failing writes. `is_reported` once the waiters were told; closing leaves one more attempt."""

    since_s: float
    delay_s: float = _FIRST_DELAY_S
    is_reported: bool = False
    is_last_attempt: bool = False


class GroupWriter:
    """Writes entries in the order of their arrival. Its thread starts here and ends with `close`."""

    def __init__(self, insert: Callable[[Sequence[LedgerEntry]], None], max_pending: int, patience_s: float) -> None:
        """insert: commits all the entries given or none, passing over those that are there already; called on the
        thread only. max_pending: entries not yet written that are kept in memory. patience_s: how long callers wait
        for a database that fails.
        """
        self._insert = insert
        self._max_pending = max_pending
        self._patience_s = patience_s
        self._door = threading.Lock()
        self._closing = threading.Event()
        self._arrivals: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._backlog: list[Pending] = []
        self._thread = threading.Thread(target=self._run, name="embedgate-ledger", daemon=True)
        self._thread.start()

    async def write(self, entry: LedgerEntry) -> None:
        """Return once the entry is committed.

        Raises InternalError if it could not be within the patience; it is then kept and tried again. Raises
        InternalError at once, and logs the entry, if too many are kept already or the writer is closed.
        """
        pending = Pending(entry, asyncio.get_running_loop().create_future())
        self.offer(pending)
        await pending.waiter

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be written, and writing is possible."""
        return not self._backlog and not self._closing.is_set() and self._arrivals.empty()

    def offer(self, pending: Pending) -> None:
        """Take an entry to be written; its waiter is told, as `write` tells its caller. Called on the loop's thread."""
        with self._door:
            if self._closing.is_set() or self._arrivals.qsize() + len(self._backlog) >= self._max_pending:
                _report_lost(
                    pending.entry, "the ledger is closed" if self._closing.is_set() else "too many entries wait"
                )
                pending.waiter.set_exception(InternalError("the ledger cannot be written"))
                return
            self._arrivals.put(pending)

    def close(self) -> None:
        """Write what is pending and end the thread. Blocks, at most for the patience if the database fails."""
        with self._door:
            self._closing.set()
            self._arrivals.put(None)
        self._thread.join()

    def _run(self) -> None:
        outage: _Outage | None = None
        while self._gather():
            group = self._backlog[:_MAX_GROUP]
            try:
                self._write(group)
            except SQLAlchemyError as error:
                outage = outage or _Outage(time.monotonic())
                if self._endure(outage, error):
                    continue
                return
            del self._backlog[: len(group)]
            _tell(group, None)
            if outage is not None and outage.is_reported:
                telemetry.LEDGER_RECOVERED.emit(after_s=round(time.monotonic() - outage.since_s, 3))
            outage = None

    def _gather(self) -> bool:
        """Move arrivals to the backlog, waiting only if there is nothing to write. False once all is done."""
        if not self._backlog and not self._closing.is_set():
            self._take(self._arrivals.get())
        for _ in range(self._arrivals.qsize()):
            self._take(self._arrivals.get_nowait())
        return bool(self._backlog)

    def _take(self, arrival: Pending | None) -> None:
        if arrival is not None:  # None only wakes the thread to close
            self._backlog.append(arrival)

    def _write(self, group: list[Pending]) -> None:
        """Write a group; an entry that the database refuses for itself fails alone, its neighbours are written."""
        try:
            self._insert([pending.entry for pending in group])
        except _REFUSALS as error:
            if len(group) > 1:
                for pending in group:
                    self._write([pending])
                return
            _report_lost(group[0].entry, type(error).__name__)
            _tell(group, "the ledger refuses the entry")

    def _endure(self, outage: _Outage, error: SQLAlchemyError) -> bool:
        """Wait before the next attempt; out of patience, fail the waiters first. False to give up, when closing."""
        if time.monotonic() - outage.since_s < self._patience_s:
            time.sleep(outage.delay_s)
        else:
            if not outage.is_reported:
                outage.is_reported = True
                telemetry.LEDGER_STUCK.emit(error=_reason(error), waiting=len(self._backlog))
            self._gather()
            _tell([pending for pending in self._backlog if not pending.waiter.done()], "the ledger cannot be written")
            if outage.is_last_attempt:
                for pending in self._backlog:
                    _report_lost(pending.entry, "the ledger was closed before it could be written")
                return False
            outage.is_last_attempt = self._closing.wait(outage.delay_s)
        outage.delay_s = min(2 * outage.delay_s, _MAX_DELAY_S)
        return True


def _tell(group: Sequence[Pending], failure: str | None) -> None:
    """Wake the waiters of a group, with one call into each event loop: there is one, as a rule."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for pending in group:
        by_loop.setdefault(pending.waiter.get_loop(), []).append(pending.waiter)
    for loop, waiters in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, waiters, failure)


def _wake(waiters: Sequence[asyncio.Future[None]], failure: str | None) -> None:
    for waiter in waiters:
        if waiter.done():  # its request was cancelled, or told before
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(InternalError(failure))


def _report_lost(entry: LedgerEntry, reason: str) -> None:
    """The log is the last place that can still hold what was spent."""
    telemetry.LEDGER_LOST.emit(
        reason=reason,
        request_id=entry.request_id,
        at_ms=entry.at_ms,
        user_id=entry.user_id,
        key_id=entry.key_id,
        model=entry.model,
        provider=entry.provider,
        tokens=str(entry.tokens),  # what is refused may be a number that a log line cannot hold
        cost_picodollars=str(entry.cost_picodollars),
    )


def _reason(error: SQLAlchemyError) -> str:
    """The database's own words, without the statement."""
    return str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
