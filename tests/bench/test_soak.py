"""The soak test measures every period, and finds what grows."""

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmark reads /proc", allow_module_level=True)

from bench.soak import Minute, faults, soak
from msgspec.structs import replace

STEADY = Minute(requests=1000, n_errors=0, p99_ms=(5.0, 4.0, 30.0), memory_bytes=200_000_000, descriptors=80)


def run_of(*, late: Minute = STEADY) -> list[Minute]:
    """Twenty minutes: the caches fill, then it goes on evenly, and the last quarter is `late`."""
    filling = [replace(STEADY, memory_bytes=100_000_000 + 20_000_000 * n, p99_ms=(50.0,) * 3) for n in range(5)]
    return [*filling, *[STEADY] * 10, *[late] * 5]


def test_an_even_run_is_fine_and_so_is_one_slow_minute() -> None:
    assert faults(run_of()) == []
    slow = run_of()
    slow[-1] = replace(STEADY, p99_ms=(500.0,) * 3, memory_bytes=400_000_000)
    assert faults(slow) == []


@pytest.mark.parametrize(
    ("late", "said"),
    [
        (replace(STEADY, memory_bytes=215_000_000), "memory grew from 200 to 215 MB"),
        (replace(STEADY, descriptors=100), "open descriptors grew from 80 to 100"),
        (replace(STEADY, p99_ms=(5.0, 4.9, 30.0)), "p99 of repeated base64 drifted from 4.0 to 4.9 ms"),
        (replace(STEADY, n_errors=2), "10 requests failed"),
    ],
)
def test_what_grows_is_named(late: Minute, said: str) -> None:
    assert faults(run_of(late=late)) == [said]


def test_a_short_run_is_judged_by_its_errors_alone() -> None:
    worse = [replace(STEADY, memory_bytes=100_000_000 * n) for n in range(1, 5)]
    assert faults(worse) == []
    assert faults([*worse, replace(STEADY, n_errors=1)]) == ["1 requests failed"]


def test_periods_at_full_load_are_measured() -> None:
    for minute in soak(2, 0.5):
        assert minute.requests > 3
        assert min(minute.p99_ms) > 0
        assert minute.memory_bytes > 50_000_000
        assert minute.descriptors > 10
