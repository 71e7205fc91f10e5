"""Times and durations as people type them."""

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from embedgate.cli import moments
from embedgate.core.clock import utc_ms


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("90m", 5_400), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600), ("0d", 0)],
)
def test_durations(text: str, seconds: int) -> None:
    assert moments.duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "1y", "1d2h", "1 d", "٣d", "9999999999d"])
def test_what_is_no_duration_is_repeated_with_one_that_is(text: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        moments.duration_s(text)
    assert repr(text) in refused.value.message
    assert "30d" in refused.value.message


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1970-01-01", 0),
        ("2026-11-21", 1_795_219_200_000),
        ("2026-11-21T08:15Z", 1_795_248_900_000),
        ("2026-11-21 08:15", 1_795_248_900_000),
        ("2026-11-21T10:15+02:00", 1_795_248_900_000),
        ("2026-11-21T08:15:00.125Z", 1_795_248_900_125),
    ],
)
def test_a_time_without_an_offset_is_utc(text: str, at_ms: int) -> None:
    assert moments.moment_ms(text) == at_ms


@pytest.mark.parametrize(
    "text", ["", "today", "2026-13-01", "21.11.2026", "1969-12-31", "0001-01-01T00:00+23:00", "30d"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        moments.moment_ms(text)


@given(st.integers(0, 253_402_300_799_999))
def test_a_time_that_was_shown_is_read_as_the_same(at_ms: int) -> None:
    assert moments.moment_ms(moments.exact(at_ms)) == at_ms


def test_durations_count_from_now() -> None:
    before_ms = utc_ms()
    assert before_ms - 3_600_000 <= moments.past_ms("1h") <= utc_ms() - 3_600_000
    assert before_ms + 3_600_000 <= moments.future_ms("1h") <= utc_ms() + 3_600_000
    assert before_ms <= moments.future_ms("now") <= utc_ms()
    assert moments.past_ms("99999d") == 0


def test_days_are_a_number() -> None:
    assert (moments.days("90"), moments.days("7d")) == (90, 7)
    assert moments.day("2026-11-21").isoformat() == "2026-11-21"
    for text in ("", "x", "1h", "-1"):
        with pytest.raises(typer.BadParameter):
            moments.days(text)
    with pytest.raises(typer.BadParameter):
        moments.day("2026-11-31")
