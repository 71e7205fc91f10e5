"""A bill beside the ledger: every difference is shown, and what is no bill is refused by row."""

from collections.abc import Sequence
from datetime import date

import pytest

from embedgate.core.errors import InvalidInput
from embedgate.core.types import LedgerEntry
from embedgate.govern.bills import BillLine, read_bill
from embedgate.govern.reconcile import Bill, Difference, reconcile
from embedgate.storage.appender import Appender
from embedgate.storage.database import Database
from governing import Governing

NEW_YEAR_MS = 1_767_225_600_000  # 2026-01-01T00:00Z
DAY_MS = 86_400_000
FIRST, SECOND, THIRD = date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)

BILL = """\ufeffdate,model,region,tokens,cost_usd
2026-01-01,small,eu,100,0.000002
2026-01-01,small,us,50,0.000001
2026-01-02T01:00:00+02:00,small,eu,5,0
2026-01-02T01:00:00Z,large,eu,30,0.0000039
"""


def write(database: Database, rows: Sequence[tuple[int, str, str, int, int]]) -> None:
    """Entries of (time, provider, upstream model, tokens, cost)."""
    entries = [
        LedgerEntry(
            f"r{i}", at_ms, "openai", "u", "k", None, "m", "s", provider, model, 1, tokens, 0, False, 1, None, cost,
            "ok", 1.0, 1.0,
        )
        for i, (at_ms, provider, model, tokens, cost) in enumerate(rows)
    ]  # fmt: skip
    with database.write() as connection:
        Appender(database.dialect)(connection.exec_driver_sql, entries)


def test_a_bill_is_compared_by_day_and_model(call: Governing, database: Database) -> None:
    write(
        database,
        [
            (NEW_YEAR_MS - 1, "openai", "small", 1, 1),
            (NEW_YEAR_MS, "openai", "small", 100, 2_000_000),
            (NEW_YEAR_MS + DAY_MS - 1, "openai", "small", 50, 1_000_000),
            (NEW_YEAR_MS + 1, "elsewhere", "small", 7, 7),
            (NEW_YEAR_MS + DAY_MS, "openai", "other", 9, 9),
            (NEW_YEAR_MS + 2 * DAY_MS, "openai", "small", 1, 1),
        ],
    )
    found = call(reconcile, Bill("openai", BILL))
    assert [(row.day, row.model) for row in found.rows] == [(FIRST, "small"), (SECOND, "large"), (SECOND, "other")]
    small, large, other = (row.difference for row in found.rows)
    assert small == Difference(150, 155, 5, "0.000003", "0.000003", "0.0")
    assert large == Difference(0, 30, 30, "0.0", "0.0000039", "0.0000039")
    assert other == Difference(9, 0, -9, "0.000000000009", "0.0", "-0.000000000009")
    assert found.total == Difference(159, 185, 26, "0.000003000009", "0.0000069", "0.000003899991")


def test_only_the_days_of_the_bill_are_compared(call: Governing, database: Database) -> None:
    write(database, [(NEW_YEAR_MS, "openai", "small", 1, 1), (NEW_YEAR_MS + 2 * DAY_MS, "openai", "small", 2, 2)])
    found = call(reconcile, Bill("openai", BILL, first=SECOND, last=THIRD))
    assert [(row.day, row.model) for row in found.rows] == [(SECOND, "large"), (THIRD, "small")]
    assert found.total == Difference(2, 30, 28, "0.000000000002", "0.0000039", "0.000003899998")


def test_what_a_bill_does_not_state_is_not_compared(call: Governing, database: Database) -> None:
    write(database, [(NEW_YEAR_MS, "openai", "small", 1, 1)])
    bill = '[{"date": "2026-01-01", "model": "small", "cost_usd": 0.0000000000026}]'
    assert read_bill(bill, "json") == [BillLine(FIRST, "small", None, 3)]
    total = call(reconcile, Bill("openai", bill, "json")).total
    assert total == Difference(1, None, None, "0.000000000001", "0.000000000003", "0.000000000002")


def test_costs_are_read_digit_by_digit() -> None:
    text = '[{"date": "20260101", "model": "m", "tokens": 1000000, "cost_usd": "123456.000000000001"}]'
    assert read_bill(text, "json") == [BillLine(FIRST, "m", 10**6, 123_456_000_000_000_001)]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("2026-01-32,m,1,1", "Row 2 of the bill has the date '2026-01-32'"),
        ("0001-01-01T00:00:00+10:00,m,1,1", "has the date"),
        ("1969-12-31,m,1,1", "has the date 1969-12-31"),
        (",m,1,1", "has the date"),
        ("2026-01-01,m,1,204,1", "write numbers without commas"),
        ("2026-01-01,,1,1", "has no model"),
        ("2026-01-01,m,,", "has neither tokens nor cost_usd"),
        ("2026-01-01,m,1,", "leaves out what row 1 states"),
        ("2026-01-01,m,1.5,1", "has 1.5 tokens"),
        ("2026-01-01,m,-1,1", "has -1 tokens"),
        ("2026-01-01,m,1e999999,1", "tokens"),
        ("2026-01-01,m,1,1e15", "has a cost of"),
        ("2026-01-01,m,1,1e999999", "for cost_usd"),
        ("2026-01-01,m,1,nan", "has 'nan' for cost_usd"),
        ("2026-01-01,m,1,many", "has 'many' for cost_usd"),
        (f"2026-01-01,m,1,{'1' * 41}", "for cost_usd"),
        ("2026-01-01", "has neither"),
    ],
)
def test_a_row_that_is_no_line_of_a_bill_is_named(row: str, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault) as caught:
        read_bill(f"date,model,tokens,cost_usd\n2026-01-01,m,1,1\n{row}\n", "csv")
    assert caught.value.param == "bill"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "not an array"),
        ("[]", "has no rows"),
        ("[1]", "Row 1 of the bill is not an object"),
        ('[{"date": "2026-01-01", "model": 5, "tokens": 1}]', "has no model"),
        ('[{"date": "2026-01-01", "model": "m", "tokens": true}]', "for tokens"),
        ('[{"date": "2026-01-01", "model": "m", "tokens": NaN}]', "for tokens"),
        ('[{"date": null, "model": "m", "tokens": 1}]', "has the date"),
    ],
)
def test_json_that_is_no_bill_is_refused(text: str, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        read_bill(text, "json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "date,model\n",
        "date,model,tokens,tokens\n2026-01-01,m,1,2\n",
        'date,model,tokens\n2026-01-01,"m,1\n',
    ],
)
def test_csv_that_is_no_bill_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="The bill"):
        read_bill(text, "csv")
