"""Reports as files: what is read back is what was written, and no cell of text is a formula."""

import csv
import io
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.types import LedgerEntry
from embedgate.storage.export import (
    Table,
    csv_lines,
    entry_table,
    json_pieces,
    reconciliation_table,
    usage_table,
)
from embedgate.storage.reconcile import Compared, ReconciledRow, Reconciliation
from embedgate.storage.reports import UsageRow

ENTRY = LedgerEntry(
    request_id="r1",
    at_ms=1_767_225_600_001,
    dialect="openai",
    user_id="user_a",
    key_id="key_a",
    end_user="=HYPERLINK(1)",
    model="openai/m",
    space="m",
    provider="openai",
    upstream_model="m",
    items=2,
    tokens=7,
    reused_tokens=0,
    tokens_estimated=True,
    price_picodollars=20_000,
    price_as_of=None,
    cost_picodollars=140_000,
    outcome="ok",
    total_ms=1.25,
    upstream_ms=0.5,
)
USAGE = [UsageRow(("2026-01-01", None), 1, 2, 3, 4, 10**18, 0), UsageRow(("2026-01-02", "@p"), 1, 2, 3, 4, 1, 1, 7)]


def as_csv(table: Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO("".join(csv_lines(table)), newline="")))


def as_json(table: Table) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(b"".join(json_pieces(table)))
    return rows


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.integers()), max_size=5))
def test_csv_gives_back_every_text_and_never_a_formula(rows: list[tuple[str, int]]) -> None:
    head, *read = as_csv(Table(("text", "number"), rows))
    assert head == ["text", "number"]
    assert [(text.removeprefix("'"), int(number)) for text, number in read] == rows
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for text, _ in read)


def test_entries_are_written_with_every_field() -> None:
    head, row = as_csv(entry_table([ENTRY]))
    assert len(head) == len(row) == len(LedgerEntry.__struct_fields__)
    cells = dict(zip(head, row, strict=True))
    assert cells["at"] == "2026-01-01T00:00:00.001Z"
    assert cells["end_user"] == "'=HYPERLINK(1)"
    assert (cells["price_usd"], cells["cost_usd"]) == ("0.00000002", "0.00000014")
    assert (cells["tokens_estimated"], cells["price_as_of"], cells["total_ms"]) == ("true", "", "1.25")
    (written,) = as_json(entry_table([ENTRY]))
    assert list(written) == head
    assert (written["end_user"], written["cost_usd"], written["price_as_of"]) == ("=HYPERLINK(1)", "0.00000014", None)


def test_usage_is_written_under_its_dimensions() -> None:
    assert as_csv(usage_table(("day", "project"), USAGE)) == [
        ["day", "project", "requests", "items", "tokens", "reused_tokens", "cost_usd", "errors", "output_tokens"],
        ["2026-01-01", "", "1", "2", "3", "4", "1000000", "0", "0"],
        ["2026-01-02", "'@p", "1", "2", "3", "4", "0.000000000001", "1", "7"],
    ]
    assert [row["project"] for row in as_json(usage_table(("day", "project"), USAGE))] == [None, "@p"]


def test_a_reconciliation_is_written_with_its_differences() -> None:
    compared = Compared(ledger_tokens=10, billed_tokens=8, ledger_picodollars=5, billed_picodollars=None)
    table = reconciliation_table(Reconciliation((ReconciledRow("2026-01-01", "m", compared),), compared))
    assert as_csv(table)[1] == ["2026-01-01", "m", "10", "8", "-2", "0.000000000005", "", ""]


def test_a_table_without_rows_is_a_header_or_an_empty_array() -> None:
    assert as_csv(usage_table(("day",), []))[1:] == []
    assert as_json(usage_table(("day",), [])) == []


@pytest.mark.parametrize(("amount", "text"), [("0", "0"), ("1E+3", "1000"), ("-0.50", "-0.5")])
def test_amounts_have_all_their_digits_and_no_apostrophe(amount: str, text: str) -> None:
    assert as_csv(Table(("usd",), [(Decimal(amount),)]))[1] == [text]
