"""Log lines that callers or providers can cause at will: so many of a sort in a window, and none without an end."""

import logging
from collections.abc import Callable

import pytest

from embedgate.observe import events
from embedgate.observe.events import LINES_WINDOW_S, MAX_LINES, MAX_VALUE_CHARACTERS, Event, ThrottledEvent


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def written(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [record.__dict__["fields"] for record in caplog.records]


def throttled(clock: Callable[[], float]) -> ThrottledEvent:
    return ThrottledEvent(Event("flood", logging.WARNING), "provider", clock=clock)


def test_of_equal_lines_so_many_are_written_and_the_next_says_how_many_were_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "embedgate")
    clock = Clock()
    event = throttled(clock)
    for number in range(1_000):
        event.emit(provider="a", number=number)
    event.emit(provider="b", number=0)  # another sort
    assert len(written(caplog)) == MAX_LINES + 1
    clock.now_s += LINES_WINDOW_S
    event.emit(provider="a", number=1_000)
    event.emit(provider="a", number=1_001)
    assert written(caplog)[-2:] == [
        {"provider": "a", "number": 1_000, "left_out": 1_000 - MAX_LINES},
        {"provider": "a", "number": 1_001},
    ]


def test_what_is_remembered_of_sorts_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "embedgate")
    event = throttled(Clock())
    for number in range(5_000):
        event.emit(provider=str(number))
    assert len(event._windows) <= 1_000
    assert len(caplog.records) == 5_000


@pytest.mark.parametrize("style", [events._TextFormat, events._JsonFormat])
def test_a_value_in_a_line_has_a_length(style: type[logging.Formatter]) -> None:
    record = logging.LogRecord("embedgate", logging.WARNING, "", 0, "flood", None, None)
    record.fields = {"detail": "x" * 10_000_000, "n": 3}
    line = style().format(record)
    assert len(line) < MAX_VALUE_CHARACTERS + 200
    assert "10000000 characters" in line
