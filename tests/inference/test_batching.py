"""Micro-batches: nothing lost, nothing padded much."""

from hypothesis import given
from hypothesis import strategies as st

from embedgate.inference.batching import MAX_WASTED_TOKENS, cut_by_length, cut_in_order

LENGTHS = st.lists(st.integers(1, 600), max_size=200)


@given(LENGTHS)
def test_every_text_is_in_one_run_that_is_neither_too_large_nor_padded_much(lengths: list[int]) -> None:
    runs = cut_by_length(lengths, 512)
    assert sorted(row for run in runs for row in run) == list(range(len(lengths)))
    for run in runs:
        padded = len(run) * max(lengths[row] for row in run)
        assert padded <= 512 or len(run) == 1
        assert padded - sum(lengths[row] for row in run) <= MAX_WASTED_TOKENS


def test_equal_lengths_fill_each_run() -> None:
    assert cut_by_length([16] * 70, 512) == [tuple(range(32)), tuple(range(32, 64)), tuple(range(64, 70))]


@given(LENGTHS)
def test_runs_in_order_are_neighbours_and_as_large_as_allowed(sizes: list[int]) -> None:
    runs = cut_in_order(sizes, 512)
    assert [row for run in runs for row in run] == list(range(len(sizes)))
    totals = [sum(sizes[row] for row in run) for run in runs]
    assert all(total <= 512 or len(run) == 1 for total, run in zip(totals, runs, strict=True))
    for total, following in zip(totals, runs[1:], strict=False):
        assert total + sizes[following[0]] > 512
