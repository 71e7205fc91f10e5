"""Server-sent events of a streamed chat completion: usage is read from them, and a usage event can be removed.

Bytes are passed on unchanged, except for a usage event that the gateway has asked for and the caller has not. Only then
is anything held back: the end of a chunk that is not yet a whole event, up to MAX_EVENT_BYTES. A client cannot use
a part of an event, so it loses no time. Memory does not grow with the stream.
"""

import re

from embedgate.core.types import ChatUsage
from embedgate.transport.chat_usage import Said, read_completion

MAX_EVENT_BYTES = 65_536
"""A larger event is passed on unread, and counts as written by the model."""
_END = re.compile(rb"\n\r?\n")
"""An event ends with an empty line. Lines end with LF or CRLF."""
_OVERLAP_BYTES = 2
"""Bytes of an event's end that may be in the chunk before."""
_ERROR_EVENT = re.compile(rb"^event: ?error\r?$", re.MULTILINE)
_DATA = re.compile(rb"^data: ?([^\r\n]*)", re.MULTILINE)
_BETWEEN = re.compile(rb"(?::[^\n]*\n|\r?\n)*")
"""Lines before an event: comments, which keep a connection alive, and empty ones."""
_LAST_WORD = b"[DONE]"


class EventReader:
    """Reads one event stream, chunk by chunk, and returns what to pass on.

    `first` is the data of the first event that has any: None before it has come, empty if it was too large to be read;
    `first_said` is what it says, None unless it is a JSON object.
    `is_over`: `[DONE]` has come, and nothing should follow. `usage` is the last one reported, None until the stream is
    over, because some hosts report as they go. `written_bytes` is what the model has written so far. `fault` is the
    data of the first event that is an error. `is_finished`: the model has said why it stopped, or `[DONE]` has come; an
    event that was too large to be read may have said so.
    """

    def __init__(self, *, hides_usage: bool) -> None:
        """hides_usage: remove the event that only reports usage."""
        self.first: bytes | None = None
        self.first_said: Said | None = None
        self.is_over = False
        self.usage: ChatUsage | None = None
        self.written_bytes = 0
        self.fault: bytes | None = None
        self.is_finished = False
        self._hides_usage = hides_usage
        self._usage_so_far: ChatUsage | None = None
        self._event = b""
        """The part of an incomplete event that has come; of one that is too large, its last bytes."""
        self._is_too_large = False

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come but whole comments, and events without data."""
        return self.first is None and not self._event

    def feed(self, chunk: bytes) -> bytes:
        """Read a chunk. Returns the bytes to pass on now; may be empty."""
        buffer = self._event + chunk
        kept = []
        start, passed = 0, len(self._event) if self._is_too_large else 0
        for end in _END.finditer(buffer, max(0, len(self._event) - _OVERLAP_BYTES)):
            kept.append(self._read_event(buffer[start : end.end()], passed))
            start, passed = end.end(), 0
        self._event = buffer[start:]
        kept.append(self._let_go(passed))
        return b"".join(kept) if self._hides_usage else chunk

    def finish(self) -> bytes:
        """End the stream, maybe in the middle of an event. Returns the bytes left to pass on."""
        event, self._event = self._event, b""
        kept = b"" if self._is_too_large else self._read_event(event, passed=0)
        self.usage = self._usage_so_far
        return kept if self._hides_usage else b""

    def _read_event(self, event: bytes, passed: int) -> bytes:
        """Read a whole event. Returns the bytes of it that are still to be passed on.

        passed: how much of it has been passed on, because it is too large.
        """
        if self._is_too_large:
            self._is_too_large = False
            self.written_bytes += len(event) - passed
            return event[passed:]
        data = b"\n".join(_DATA.findall(event))
        if not data:
            return event
        said = read_completion(data)
        if self.first is None:
            self.first, self.first_said = data, said
        if said is not None:
            self._usage_so_far = said.usage or self._usage_so_far
            self.written_bytes += said.written_bytes
            self.is_finished = self.is_finished or said.is_finished
        if self.fault is None and ((said is not None and said.is_error) or _ERROR_EVENT.search(event)):
            self.fault = data
        is_usage_only = said is not None and said.is_usage_only
        self.is_over = self.is_over or data == _LAST_WORD
        self.is_finished = self.is_finished or self.is_over
        if is_usage_only or self.is_over:
            self.usage = self._usage_so_far
        return self._before(event) if is_usage_only and self._hides_usage else event

    def _let_go(self, passed: int) -> bytes:
        """The part of an incomplete event to pass on: lines before it, and all of it once it is too large."""
        event = self._event
        if self._is_too_large or len(event) > MAX_EVENT_BYTES:
            self._is_too_large = self.is_finished = True
            self._event = event[-_OVERLAP_BYTES:]
            self.first = self.first or b""
            self.written_bytes += len(event) - passed
            return event[passed:]
        before = self._before(event)
        self._event = event[len(before) :]
        return before

    @staticmethod
    def _before(event: bytes) -> bytes:
        found = _BETWEEN.match(event)
        return found.group() if found else b""
