"""Circuit breaker of one route: closed, open, half-open. Counts failures, makes no calls.

An open circuit sends requests to other routes as soon as a share of the last calls has failed. It refuses those that
have no other route only when nothing has worked for a while, or while the provider itself asks us to wait: half of the
answers are better than none.
"""

from collections.abc import Callable

from embedgate.core.errors import (
    AccessError,
    GatewayError,
    RequestError,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from embedgate.settings import UpstreamSettings

_WINDOW_CALLS = 20
_WINDOW = (1 << _WINDOW_CALLS) - 1
"""The last calls, one bit each."""
_FORGOTTEN_S = 60.0
"""After so long without a call, what was before counts no more."""
_MIN_FAILURES = 3
_GOOD_PROBES = 3
"""In a row, to close again: a route of which half of the calls fail comes back one time in eight."""
_SOON_S = 1.0
"""When to come back while another request finds out whether the route works again."""


class CircuitBreaker:
    """Circuit breaker of one route. All times are of one monotonic clock."""

    __slots__ = (
        "_closed_at_s",
        "_counted_at_s",
        "_failing_since_s",
        "_good",
        "_in_a_row",
        "_jitter",
        "_last",
        "_n",
        "_outcomes",
        "_probe_until_s",
        "_provider",
        "_refuses",
        "_settings",
        "_until_s",
        "_wait_s",
        "busy_until_s",
        "is_open",
    )

    def __init__(self, provider: str, settings: UpstreamSettings, jitter: Callable[[], float]) -> None:
        """provider: its name, for messages. jitter: random numbers from 0 to 1."""
        self._provider = provider
        self._settings = settings
        self._jitter = jitter
        self.is_open = False
        self._last: UpstreamError | None = None
        self._outcomes = self._n = 0
        self._in_a_row = 0
        self._failing_since_s = 0.0
        self._refuses = False
        self._wait_s = 0.0
        self._until_s = self.busy_until_s = self._probe_until_s = 0.0
        self._closed_at_s = self._counted_at_s = float("-inf")
        self._good = 0

    @property
    def failure_share(self) -> float:
        """Of the last 20 calls; 0 before the first."""
        return self._outcomes.bit_count() / self._n if self._n else 0.0

    def is_well(self, now_s: float) -> bool:
        """Whether the circuit is closed and the provider has not asked us to wait."""
        return not self.is_open and now_s >= self.busy_until_s

    def is_due(self, now_s: float) -> bool:
        """Whether a trial call should be made, and none is under way."""
        return self.is_half_open(now_s) and now_s >= self._probe_until_s

    def is_half_open(self, now_s: float) -> bool:
        """Whether the open time is over, and trial calls find out if the route works."""
        return self.is_open and now_s >= max(self._until_s, self.busy_until_s)

    def lease(self, now_s: float) -> float:
        """Lease the trial: no other request makes one until that call has ended, or has had its time."""
        self._probe_until_s = now_s + self._settings.attempt_timeout_s
        return self._probe_until_s

    def give_back(self, lease: float) -> None:
        """Give a lease back. A newer one of another request stays."""
        if self._probe_until_s == lease:
            self._probe_until_s = 0.0

    def refusal(self, now_s: float) -> UpstreamError | None:
        """Why no request may call now, not even one without another route, and when it may; None if it may."""
        if now_s < self.busy_until_s:
            wait_s = self.busy_until_s - now_s
            message = f"{self._provider} asked us to wait, and is asked again in {_told(wait_s)}"
            return UpstreamBusy(message, retry_after_s=wait_s)
        if not self._refuses or self._last is None:
            return None
        last = self._last
        because = (
            f"{self._provider} is left alone after {self._in_a_row} failures in a row, the last one: {last.message}"
        )
        if now_s < self._until_s:
            wait_s = self._until_s - now_s
            return type(last)(f"{because}. It is asked again in {_told(wait_s)}", retry_after_s=wait_s)
        if now_s < self._probe_until_s:
            return type(last)(f"{because}. It is being asked again right now", retry_after_s=_SOON_S)
        return None

    def succeeded(self, began_s: float, now_s: float) -> None:
        """A call gave a good answer."""
        self._in_a_row = 0
        self._refuses = False
        self._count(0, now_s)
        if self.is_open and began_s >= self._until_s:
            self._probe_until_s = 0.0
            self._good += 1
            if self._good >= _GOOD_PROBES:
                self.is_open = False
                self._closed_at_s = now_s
                self._outcomes = self._n = 0

    def failed(self, error: GatewayError, began_s: float, now_s: float) -> None:
        """A call failed. What the provider refused as wrong says nothing of its health."""
        is_trial = self.is_open and began_s >= self._until_s
        if is_trial:
            self._probe_until_s = 0.0
        if isinstance(error, (UpstreamLimited, RequestError, AccessError)):
            return  # it was not asked, or the caller was wrong
        if isinstance(error, UpstreamRejected):
            self._in_a_row = 0  # it answers
            self._refuses = False
        if not isinstance(error, UpstreamError) or isinstance(error, UpstreamRejected):
            if is_trial:
                self._leave_alone(now_s, self._wait_s)
            return
        self._last = error
        self._count(1, now_s)
        if isinstance(error, UpstreamBusy) and error.retry_after_s:
            hint_s = min(error.retry_after_s, self._settings.max_retry_after_s)
            self.busy_until_s = max(self.busy_until_s, now_s + hint_s)
        else:
            self._count_in_a_row(began_s, now_s)
        if is_trial:
            self._good = 0
            self._leave_alone(now_s, self._longer_s(error))
        elif not self.is_open and (isinstance(error, UpstreamDenied) or self._fails_often() or self._refuses):
            self._open(error, now_s)

    def slow(self, now_s: float) -> None:
        """Another route was quicker to answer a call that had waited long for this one."""
        self._count(1, now_s)
        if not self.is_open and self._fails_often():
            self._last = UpstreamTimeout(f"{self._provider} takes much longer than it did")
            self._open(self._last, now_s)

    def _count(self, failures: int, now_s: float) -> None:
        if now_s - self._counted_at_s > _FORGOTTEN_S:
            self._outcomes = self._n = 0
        self._counted_at_s = now_s
        self._outcomes = (self._outcomes << 1 | failures) & _WINDOW
        if self._n < _WINDOW_CALLS:
            self._n += 1

    def _count_in_a_row(self, began_s: float, now_s: float) -> None:
        if self._in_a_row == 0:
            self._failing_since_s = began_s
        self._in_a_row += 1
        settings = self._settings
        is_patient = now_s - self._failing_since_s < settings.circuit_patience_s
        self._refuses = self._in_a_row >= settings.circuit_failures and not is_patient

    def _fails_often(self) -> bool:
        failures = self._outcomes.bit_count()
        return failures >= _MIN_FAILURES and failures >= self._settings.circuit_share * self._n

    def _open(self, error: UpstreamError, now_s: float) -> None:
        settings = self._settings
        is_relapse = now_s - self._closed_at_s < settings.circuit_max_wait_s
        self.is_open = True
        self._good = 0
        self._leave_alone(now_s, self._longer_s(error) if is_relapse else self._first_s(error))

    def _first_s(self, error: UpstreamError) -> float:
        """A key is not mended in a second."""
        settings = self._settings
        return settings.circuit_max_wait_s if isinstance(error, UpstreamDenied) else settings.circuit_wait_s

    def _longer_s(self, error: UpstreamError) -> float:
        return min(max(2 * self._wait_s, self._first_s(error)), self._settings.circuit_max_wait_s)

    def _leave_alone(self, now_s: float, wait_s: float) -> None:
        """Ask nothing for about so long: a quarter more or less, so that gateways do not come back together."""
        self._wait_s = wait_s
        self._until_s = now_s + wait_s * (0.75 + self._jitter() / 2)


def _told(wait_s: float) -> str:
    return f"{max(wait_s, 0.1):.1f} s"
