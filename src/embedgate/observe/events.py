"""Log events: constant names with typed fields, never inputs, vectors or credentials.

Every event goes through `Event.emit`, as one line of text or one JSON object.
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

_logger = logging.getLogger("embedgate")

MAX_VALUE_CHARACTERS = 4_000
"""Of one value in a line, so that nobody who is quoted in it can fill the disk. The rest is cut, with a mark."""
MAX_LINES = 20
LINES_WINDOW_S = 10.0
"""Of a `ThrottledEvent` so many lines of one sort are written in so long."""
_MAX_SORTS = 1_000

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of event. `level` is a logging level."""

    name: str
    level: int = logging.INFO

    @property
    def is_written(self) -> bool:
        """Whether the configured level includes it, so that fields need not be computed in vain."""
        return _logger.isEnabledFor(self.level)

    def emit(self, **fields: Value) -> None:
        """Write the event with its fields. Costs nothing below the configured level."""
        if _logger.isEnabledFor(self.level):
            _logger.log(self.level, self.name, extra={"fields": fields})

    def emit_fault(self, fault: BaseException, **fields: Value) -> None:
        """Write the event with the kind of a fault and where it happened.

        Its message is left out: exceptions of libraries may quote an input or a credential.
        """
        self.emit(**fields, fault=type(fault).__name__, trace=_trace(fault))


class ThrottledEvent:
    """An event that callers or providers can cause at will: of equal ones only so many in a window are written.

    The next line after those that were left out says how many they were, in `left_out`. Thread-safe as far as needed:
    a race may miscount.
    """

    def __init__(self, event: Event, *sort: str, clock: Callable[[], float] = time.monotonic) -> None:
        """sort: the names of the fields in which equal ones agree. clock: monotonic seconds."""
        self._event = event
        self._sort = sort
        self._clock = clock
        self._windows: dict[tuple[Value, ...], list[float]] = {}

    @property
    def name(self) -> str:
        """The name of the event."""
        return self._event.name

    def emit(self, **fields: Value) -> None:
        """Write the event, unless too many of its sort were written just now."""
        if not self._event.is_written:
            return
        now_s = self._clock()
        sort = tuple([fields.get(name) for name in self._sort])
        window = self._windows.get(sort)
        if window is None or now_s - window[0] >= LINES_WINDOW_S:
            left_out = 0 if window is None else int(window[2])
            if window is None and len(self._windows) >= _MAX_SORTS:
                self._windows.clear()
            self._windows[sort] = window = [now_s, 0, 0]
            if left_out:
                fields["left_out"] = left_out
        if window[1] >= MAX_LINES:
            window[2] += 1
            return
        window[1] += 1
        self._event.emit(**fields)

    def emit_fault(self, fault: BaseException, **fields: Value) -> None:
        """As `Event.emit_fault`."""
        self.emit(**fields, fault=type(fault).__name__, trace=_trace(fault))


def _trace(fault: BaseException) -> str:
    """Where a fault happened, innermost first."""
    frames = traceback.extract_tb(fault.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))


STARTED = Event("started")
DRAINING = Event("draining")
RELOADED = Event("reloaded")
RELOAD_FAILED = Event("reload_failed", logging.ERROR)
SHEDDING = Event("shedding", logging.WARNING)
SHEDDING_ENDED = Event("shedding_ended", logging.WARNING)
REQUESTS_CUT = Event("requests_cut", logging.WARNING)
STOPPED = Event("stopped")
CONNECTIONS_REFUSED = Event("connections_refused", logging.WARNING)
CONNECTIONS_CUT = Event("connections_cut")
MEMORY_SHORT = Event("memory_short", logging.WARNING)
SLOW_CALLER_CUT = Event("slow_caller_cut", logging.WARNING)
FEW_OPEN_FILES = Event("few_open_files", logging.WARNING)
SECRET_FILE_READABLE = Event("secret_file_readable", logging.WARNING)
MODEL_LOADED = Event("model_loaded")
REQUEST = Event("request", logging.DEBUG)
REQUEST_FAILED = Event("request_failed", logging.DEBUG)
INTERNAL_FAULT = ThrottledEvent(Event("internal_fault", logging.ERROR), "fault")
UPSTREAM_FAULT = ThrottledEvent(Event("upstream_fault", logging.WARNING), "provider", "code")
ROUTE_FAILING = Event("route_failing", logging.WARNING)
ROUTE_RECOVERED = Event("route_recovered", logging.WARNING)
ROUTE_DRIFTED = Event("route_drifted", logging.WARNING)
ROUTE_STEADY = Event("route_steady", logging.WARNING)
ROUTE_NOT_CHECKED = Event("route_not_checked", logging.WARNING)
USAGE_DOUBTED = ThrottledEvent(Event("usage_doubted", logging.WARNING), "provider")
BAD_ANSWER = ThrottledEvent(Event("bad_answer", logging.WARNING), "provider", "code")
ACCOUNT_BLOCKED = Event("account_blocked", logging.WARNING)
KEY_REFUSED = Event("key_refused", logging.WARNING)
PROVIDER_QUEUE_FULL = Event("provider_queue_full", logging.WARNING)
LEDGER_STUCK = Event("ledger_stuck", logging.CRITICAL)
LEDGER_RECOVERED = Event("ledger_recovered", logging.WARNING)
LEDGER_UNAVAILABLE = Event("ledger_unavailable", logging.CRITICAL)
LEDGER_AVAILABLE = Event("ledger_available", logging.WARNING)
INTENT_REFUSED = ThrottledEvent(Event("intent_refused", logging.CRITICAL), "reason")
INTENTS_UNREADABLE = Event("intents_unreadable", logging.ERROR)
INTENTS_RESTORED = Event("intents_restored", logging.ERROR)
INTERRUPTED_BOOKED = Event("interrupted_booked", logging.WARNING)
LEDGER_LOST = Event("ledger_lost", logging.CRITICAL)
AUDIT_LOST = Event("audit_lost", logging.CRITICAL)
AUDIT_PRUNED = Event("audit_pruned")
AUDIT_NOT_PRUNED = Event("audit_not_pruned", logging.WARNING)
ANSWER_NOT_KEPT = Event("answer_not_kept", logging.WARNING)
ANSWERS_SET_ASIDE = Event("answers_set_aside", logging.ERROR)
SECOND_SERVER = Event("second_server", logging.WARNING)
SERVER_TOOK_OVER = Event("server_took_over", logging.WARNING)
RULES_IN_FORCE = Event("rules_in_force")
POLICY_FAILED = Event("policy_failed", logging.ERROR)
RULES_NOT_READ = Event("rules_not_read", logging.ERROR)
CACHE_DISK_FAILED = Event("cache_disk_failed", logging.WARNING)
CACHE_DISK_RECOVERED = Event("cache_disk_recovered")
CACHE_SET_ASIDE = Event("cache_set_aside", logging.WARNING)


def _cut(value: Value) -> Value:
    if isinstance(value, str) and len(value) > MAX_VALUE_CHARACTERS:
        return f"{value[:MAX_VALUE_CHARACTERS]}… ({len(value)} characters)"
    return value


class _TextFormat(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Value] = getattr(record, "fields", {})
        tail = " ".join(f"{name}={_cut(value)}" for name, value in fields.items())
        at = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        return f"{at} {record.levelname.lower()} {record.getMessage()} {tail}".rstrip()


class _JsonFormat(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Value] = getattr(record, "fields", {})
        line: dict[str, Value] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{name: _cut(value) for name, value in fields.items()},
        }
        return orjson.dumps(line).decode()


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send events to standard error at `level` and above. Call once, from the command line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormat() if style == "json" else _TextFormat())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _logger.setLevel(level.upper())
