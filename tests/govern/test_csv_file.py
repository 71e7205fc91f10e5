"""CSV: what is read back is what was written, and no cell of text is a formula."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.govern.csv_file import Cell, csv_lines


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[list[str]]:
    return list(csv.reader(io.StringIO(b"".join(csv_lines(columns, rows)).decode(), newline="")))


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.integers()), max_size=5))
def test_csv_gives_back_every_text_and_never_a_formula(rows: list[tuple[str, int]]) -> None:
    head, *read = as_csv(("text", "number"), rows)
    assert head == ["text", "number"]
    assert [(text.removeprefix("'"), int(number)) for text, number in read] == rows
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for text, _ in read)


def test_a_table_without_rows_is_a_header() -> None:
    assert as_csv(("day",), []) == [["day"]]


@pytest.mark.parametrize(("amount", "text"), [("0", "0"), ("1E+3", "1000"), ("-0.50", "-0.5")])
def test_amounts_have_all_their_digits_and_no_apostrophe(amount: str, text: str) -> None:
    assert as_csv(("usd",), [(Decimal(amount),)])[1] == [text]


def test_other_cells_are_written_so_that_programs_read_them() -> None:
    at = datetime(2026, 1, 1, 0, 0, 0, 1_000, UTC)
    assert as_csv("abcdef", [(at, date(2026, 1, 1), True, False, 1.25, None)])[1] == [
        "2026-01-01T00:00:00.001Z", "2026-01-01", "true", "false", "1.25", "",
    ]  # fmt: skip
