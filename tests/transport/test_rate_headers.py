"""What answers say of rate limits: every shape that vendors are known to send, and nothing else is believed."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.hints import NO_HINTS, Allowance, RateHints
from embedgate.transport.faults import retry_after_s
from embedgate.transport.rate_headers import read_hints

OPENAI = {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-requests": "4999",
    "x-ratelimit-reset-requests": "12ms",
    "x-ratelimit-limit-tokens": "160000",
    "x-ratelimit-remaining-tokens": "159976",
    "x-ratelimit-reset-tokens": "6m0s",
}
DATE = "Thu, 21 Aug 2025 12:41:00 GMT"


def reset_s(text: str, **others: str) -> float | None:
    headers = {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": text, **others}
    return read_hints(headers).requests.reset_s


def remaining(text: str) -> int | None:
    return read_hints({"x-ratelimit-remaining-requests": text}).requests.remaining


def test_requests_and_tokens_are_read_as_openai_says_them() -> None:
    assert read_hints(OPENAI) == RateHints(Allowance(5000, 4999, 0.012), Allowance(160_000, 159_976, 360.0))


def test_anthropic_gives_dates_which_count_by_its_own_clock() -> None:
    headers = {
        "date": DATE,
        "anthropic-ratelimit-requests-limit": "1000",
        "anthropic-ratelimit-requests-remaining": "999",
        "anthropic-ratelimit-requests-reset": "2025-08-21T12:40:59Z",
        "anthropic-ratelimit-tokens-limit": "96000",
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": "2025-08-21T14:41:30+02:00",
    }
    assert read_hints(headers) == RateHints(Allowance(1000, 999, 0.0), Allowance(96_000, 0, 30.0))


def test_limits_without_a_unit_are_of_requests() -> None:
    headers = {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1755780075000"}
    assert read_hints({**headers, "date": DATE}) == RateHints(Allowance(20, 0, 15.0))
    assert read_hints({"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "98", "ratelimit-reset": "3"}) == (
        RateHints(Allowance(100, 98, 3.0))
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("12ms", 0.012),
        ("7m12.5s", 432.5),
        ("1h2m3s", 3723),
        ("1d2h", 93_600),
        ("250µs", 0.00025),
        ("0s", 0),
        (" 8.64s ", 8.64),
        ("59.9", 59.9),
        ("0", 0),
        ("1755780090", 30),
        ("1755780000", 0),
        ("1755780090500", 30.5),
        ("2025-08-21T12:41:30.250Z", 30.25),
        ("Thu, 21 Aug 2025 12:42:00 GMT", 60),
    ],
)
def test_a_reset_is_a_duration_seconds_an_epoch_or_a_date(text: str, expected: float) -> None:
    assert reset_s(text, date=DATE) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "-1", "-1s", "soon", "1x", "s", "1s later", "nan", "inf", "1e9", "٣", "1.", "9" * 80, "9" * 18 + "d"]
)
def test_a_reset_that_is_none_is_not_believed(text: str) -> None:
    assert reset_s(text) is None


def test_without_a_date_of_the_provider_our_own_clock_counts() -> None:
    began_s = time.monotonic()
    in_a_minute = datetime.now(UTC) + timedelta(seconds=60)
    for text in (in_a_minute.isoformat(), format_datetime(in_a_minute), str(in_a_minute.timestamp())):
        left_s = reset_s(text)
        assert left_s is not None
        assert 59 - (time.monotonic() - began_s) <= left_s <= 61


@pytest.mark.parametrize("text", ["", "-1", "many", "1e3", "nan", "9" * 15, "1 000"])
def test_a_count_that_is_none_is_unknown(text: str) -> None:
    assert remaining(text) is None


def test_no_limit_is_not_a_limit_of_nothing() -> None:
    for limit in ("0", "-1"):
        headers = {"x-ratelimit-limit-tokens": limit, "x-ratelimit-remaining-tokens": "-1"}
        assert read_hints(headers) == RateHints(tokens=Allowance())


def test_answers_that_say_nothing_share_one_record() -> None:
    assert read_hints({"content-type": "application/json", "date": DATE}) is NO_HINTS


TEXTS = st.text(max_size=80) | st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(ms|s|m|h|d|us|ns)?", fullmatch=True)
DATES = st.builds(
    "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}".format,
    st.integers(0, 9999),
    *[st.integers(0, 99)] * 5,
    st.sampled_from(["Z", "", "+99:99", "-23:59"]),
) | st.builds(
    "Mon, {:02} {} {} {:02}:{:02}:{:02} {}".format,
    st.integers(0, 99),
    st.sampled_from(["Jan", "Foo"]),
    st.integers(0, 10**12),
    *[st.integers(0, 99)] * 3,
    st.sampled_from(["GMT", "+9999", "-9999", "", "(x"]),
)


@given(
    st.dictionaries(
        st.sampled_from(
            [*OPENAI, "date", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after", "retry-after-ms"]
        ),
        TEXTS | DATES,
    )
)
def test_no_text_is_an_error_and_nothing_negative_comes_out(headers: dict[str, str]) -> None:
    hints = read_hints(headers)
    for allowance in (hints.requests, hints.tokens):
        assert allowance.limit is None or allowance.limit > 0
        assert allowance.remaining is None or allowance.remaining >= 0
        assert allowance.reset_s is None or 0 <= allowance.reset_s < 4e7
    wait_s = retry_after_s(headers)
    assert wait_s is None or wait_s >= 0


def test_a_date_that_no_calendar_has_is_no_wait() -> None:
    assert retry_after_s({"retry-after": "Mon, 01 Jan 99999999999 00:00:00 GMT"}) is None
