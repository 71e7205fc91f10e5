"""Sliding window of one subject of the rate limits: its last minute, its requests in flight, and its refusals.

The window slides: what was granted at t counts until t + 60 s. Counts are kept in slots of 60 ms, which end with their
newest request: a request may count up to 60 ms too long, never too short, and a subject has at most 1,002 slots.
Decides nothing for several subjects together; that is `rate_limits`.
"""

import math
import sys
from collections import deque
from dataclasses import dataclass

from embedgate.core.access import LimitRule, Subject
from embedgate.core.errors import Overloaded, RateLimited

WINDOW_S = 60.0
SLOT_S = WINDOW_S / 1000
RETRY_IN_FLIGHT_S = 1.0
"""`retry_after_s` where too many requests are in flight. A guess: nobody knows when a request in flight will end."""
UNLIMITED = sys.maxsize


@dataclass(slots=True, eq=False)
class Slot:
    """What one subject was granted within 60 ms. `until_s`: when the newest of it stops to count."""

    window: "SlidingWindow"
    opened_s: float
    until_s: float
    requests: int = 0
    tokens: int = 0
    is_over: bool = False

    def add(self, requests: int, tokens: int) -> None:
        """Change the count, as of then."""
        self.requests += requests
        self.tokens += tokens
        if not self.is_over:
            self.window.requests += requests
            self.window.tokens += tokens


class SlidingWindow:
    """Sliding-window counts of one subject: its limits, the last minute, and what is in flight or waits."""

    __slots__ = (
        "_slots",
        "in_flight",
        "max_parallel",
        "max_requests",
        "max_tokens",
        "max_waiting",
        "requests",
        "subject",
        "tokens",
        "waiting",
    )

    def __init__(self, subject: Subject, rule: LimitRule) -> None:
        self.subject = subject
        self.requests = self.tokens = self.in_flight = self.waiting = 0
        self._slots: deque[Slot] = deque()
        self.follow(rule)

    def follow(self, rule: LimitRule) -> None:
        """Follow the limits of a rule: its own, or the one for every subject of its kind."""
        self.max_requests = _or_unlimited(rule.requests_per_minute)
        self.max_tokens = _or_unlimited(rule.tokens_per_minute)
        self.max_parallel = _or_unlimited(rule.max_parallel)
        self.max_waiting = rule.max_waiting

    def has_room(self) -> bool:
        """Whether one more request may be in flight."""
        return self.in_flight < self.max_parallel

    def fits(self, tokens: int, now: float) -> bool:
        """Whether the minute has room for one more request."""
        self.expire(now)
        return self.requests < self.max_requests and self.tokens + tokens <= self.max_tokens

    def expire(self, now: float) -> None:
        """Drop counts older than a minute."""
        slots = self._slots
        while slots and slots[0].until_s <= now:
            over = slots.popleft()
            over.is_over = True
            self.requests -= over.requests
            self.tokens -= over.tokens

    def count(self, tokens: int, now: float) -> Slot:
        """Count an admitted request. `expire` must have been called."""
        slots = self._slots
        if slots and now - slots[-1].opened_s < SLOT_S:
            slot = slots[-1]
            slot.until_s = now + WINDOW_S
        else:
            slot = Slot(self, now, now + WINDOW_S)
            slots.append(slot)
        slot.add(1, tokens)
        self.in_flight += 1
        return slot

    def fits_at(self, tokens: int) -> float:
        """The first moment when a request that does not fit now will, if nothing more is granted; infinity if never."""
        surplus_requests = self.requests + 1 - self.max_requests
        surplus_tokens = self.tokens + tokens - self.max_tokens
        for slot in self._slots:
            surplus_requests -= slot.requests
            surplus_tokens -= slot.tokens
            if surplus_requests <= 0 and surplus_tokens <= 0:
                return slot.until_s
        return math.inf

    def is_idle(self, now: float) -> bool:
        """Whether it can be dropped without changing any decision."""
        self.expire(now)
        return not (self.requests or self.in_flight or self.waiting)

    def requests_left(self) -> int:
        """Requests that fit the minute as of the last `expire`."""
        return max(0, self.max_requests - self.requests)

    def tokens_left(self) -> int:
        """Tokens that fit the minute as of the last `expire`."""
        return max(0, self.max_tokens - self.tokens)

    def requests_reset_s(self, now: float) -> float:
        """Seconds until no request counts any more."""
        return next((slot.until_s - now for slot in reversed(self._slots) if slot.requests), 0.0)

    def tokens_reset_s(self, now: float) -> float:
        """Seconds until no token counts any more."""
        return next((slot.until_s - now for slot in reversed(self._slots) if slot.tokens), 0.0)

    def too_big(self, tokens: int) -> RateLimited:
        """The refusal of a request that fits no minute."""
        return RateLimited(
            f"The request has {tokens} tokens; your {self.subject.kind} may use {self.max_tokens} tokens per minute. "
            "Send fewer inputs in one request."
        )

    def minute_is_used(self, tokens: int, retry_after_s: float) -> RateLimited:
        """The refusal of a request that fits a later minute."""
        again = f"Try again in {math.ceil(retry_after_s)} s"
        if self.requests >= self.max_requests:
            message = (
                f"Requests of your {self.subject.kind} in the last minute: {self.requests}, "
                f"of {self.max_requests} allowed. {again}."
            )
        else:
            message = (
                f"Tokens of your {self.subject.kind} in the last minute: {self.tokens}, and {tokens} of this request, "
                f"of {self.max_tokens} allowed. {again}, or send fewer inputs."
            )
        return RateLimited(message, retry_after_s=retry_after_s)

    def queue_is_full(self) -> Overloaded:
        """The refusal of a request for which the queue has no room."""
        return Overloaded(
            f"Requests of your {self.subject.kind} in progress: {self.in_flight}, of {self.max_parallel} allowed; "
            f"waiting: {self.waiting}, of {self.max_waiting} allowed. Try again in a moment.",
            retry_after_s=RETRY_IN_FLIGHT_S,
        )

    def no_room_in_time(self) -> Overloaded:
        """The refusal of a request that waited until its deadline."""
        return Overloaded(
            f"Requests of your {self.subject.kind} in progress: {self.in_flight}, of {self.max_parallel} allowed, and "
            "none ended in the time of this one. Try again in a moment.",
            retry_after_s=RETRY_IN_FLIGHT_S,
        )


def _or_unlimited(limit: int | None) -> int:
    return UNLIMITED if limit is None else limit
