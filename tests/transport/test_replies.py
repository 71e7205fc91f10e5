"""Counts of tokens are read however a host writes them, and nothing else in their place is an error."""

import msgspec
import pytest

from embedgate.transport import read_count, read_usage

DEEP = "[" * 10_000


@pytest.mark.parametrize(
    ("written", "count"),
    [("5", 5), ("5.0", 5), ("5.5", 6), ('"5"', 5), ('"5.5"', 6), ("0", 0), ("1e9", 10**9)]
    + [
        (odd, None)
        for odd in ("-5", "1e10", "1e999", "true", "null", "[5]", "{}", '""', '"many"', '"nan"', '"inf"', DEEP)
    ],
)
def test_a_count_is_rounded_up_and_nothing_else_is_one(written: str, count: int | None) -> None:
    assert read_count(msgspec.Raw(written.encode())) == count
    assert read_usage(msgspec.Raw(b'{"a":%s}' % written.encode()), "a") == count


@pytest.mark.parametrize("written", ["null", "[]", "5", '"5"', "{}", DEEP])
def test_what_is_no_usage_has_no_count(written: str) -> None:
    assert read_usage(msgspec.Raw(written.encode()), "total_tokens") is None


def test_the_first_field_that_is_a_count_is_taken() -> None:
    assert read_usage(msgspec.Raw(b'{"a":null,"b":"x","c":7,"d":8}'), "a", "b", "c", "d") == 7
