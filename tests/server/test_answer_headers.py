"""Headers of answers have a length that callers and providers cannot choose."""

import pytest

from embedgate.server.answer import MAX_POSITIONS_BYTES, positions_text


@pytest.mark.parametrize(
    ("positions", "text"),
    [
        ((), ""),
        ((3,), "3"),
        ((0, 1, 2, 7), "0,1,2,7"),
        (tuple(range(2_048)), "0-2047"),
        ((*range(500), *range(600, 1_000), 2_000), "0-499,600-999,2000"),
    ],
)
def test_few_positions_are_told_one_by_one_and_many_as_ranges(positions: tuple[int, ...], text: str) -> None:
    assert positions_text(positions) == text


def test_what_does_not_fit_as_ranges_is_a_number() -> None:
    text = positions_text(range(0, 2_048, 2))
    told, _, more = text.removesuffix(" more").partition(" and ")
    assert len(text) <= MAX_POSITIONS_BYTES + len(" and 1024 more")
    assert told.split(",") == [str(2 * n) for n in range(len(told.split(",")))]
    assert len(told.split(",")) + int(more) == 1_024


def test_no_list_is_longer_than_its_bound() -> None:
    for step in (1, 2, 3, 7, 49):
        assert len(positions_text(range(0, 100_000, step))) <= MAX_POSITIONS_BYTES + len(" and 100000 more")
