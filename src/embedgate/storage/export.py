"""Reports as tables of cells, and tables as CSV or JSON, row by row: memory holds one row and not the whole table.

Money is written in dollars, exactly; times in UTC.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import orjson

from embedgate.core.money import to_usd
from embedgate.core.types import LedgerEntry
from embedgate.storage.reconcile import Compared, Reconciliation
from embedgate.storage.reports import Dimension, UsageRow

Cell = str | int | float | bool | Decimal | None

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENTRY_FIELDS = LedgerEntry.__struct_fields__
_ENTRY_COLUMNS = tuple(
    {"at_ms": "at", "price_picodollars": "price_usd", "cost_picodollars": "cost_usd"}.get(name, name)
    for name in _ENTRY_FIELDS
)
_USAGE_COLUMNS = ("requests", "items", "tokens", "reused_tokens", "cost_usd", "errors", "output_tokens")
_COMPARED_COLUMNS = (
    "ledger_tokens",
    "billed_tokens",
    "token_difference",
    "ledger_cost_usd",
    "billed_cost_usd",
    "cost_difference_usd",
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


class Table(NamedTuple):
    """Rows of cells under their columns. The rows can be read once."""

    columns: tuple[str, ...]
    rows: Iterable[tuple[Cell, ...]]


def usage_table(by: Sequence[Dimension], rows: Iterable[UsageRow]) -> Table:
    """Sums by the dimensions that they were grouped by."""
    return Table((*by, *_USAGE_COLUMNS), (_usage_cells(row) for row in rows))


def entry_table(entries: Iterable[LedgerEntry]) -> Table:
    """Ledger entries, every field."""
    return Table(_ENTRY_COLUMNS, (_entry_cells(entry) for entry in entries))


def reconciliation_table(reconciliation: Reconciliation) -> Table:
    """A comparison by day and model, without its total. A cell is empty where the bill does not say."""
    rows = ((row.day, row.model, *_compared_cells(row.compared)) for row in reconciliation.rows)
    return Table(("day", "model", *_COMPARED_COLUMNS), rows)


def csv_lines(table: Table) -> Iterator[str]:
    """Lines of CSV, the header first.

    A text that a spreadsheet might take for a formula gets an apostrophe before it, and so does one that begins with
    an apostrophe: whoever takes one off the beginning of each text has what was there.
    """
    yield _csv_line(table.columns)
    for row in table.rows:
        yield _csv_line(row)


def json_pieces(table: Table) -> Iterator[bytes]:
    """A JSON array of one object per row. Money is a string, since a JSON number may be read inexactly."""
    lead = b"[\n"
    for row in table.rows:
        yield lead + orjson.dumps(dict(zip(table.columns, row, strict=True)), default=_plain)
        lead = b",\n"
    yield b"\n]\n" if lead == b",\n" else b"[]\n"


def _usage_cells(row: UsageRow) -> tuple[Cell, ...]:
    cost = to_usd(row.cost_picodollars)
    counts = (row.requests, row.items, row.tokens, row.reused_tokens)
    return (*row.group, *counts, cost, row.errors, row.output_tokens)


def _entry_cells(entry: LedgerEntry) -> tuple[Cell, ...]:
    return tuple(_entry_cell(name, getattr(entry, name)) for name in _ENTRY_FIELDS)


def _entry_cell(name: str, value: str | int | float | bool | None) -> Cell:
    if name == "at_ms" and isinstance(value, int):
        moment = _EPOCH + timedelta(milliseconds=value)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if name.endswith("_picodollars") and isinstance(value, int):
        return to_usd(value)
    return value


def _compared_cells(compared: Compared) -> tuple[Cell, ...]:
    return (
        compared.ledger_tokens,
        compared.billed_tokens,
        compared.token_difference,
        to_usd(compared.ledger_picodollars),
        _usd(compared.billed_picodollars),
        _usd(compared.difference_picodollars),
    )


def _usd(amount_picodollars: int | None) -> Decimal | None:
    return None if amount_picodollars is None else to_usd(amount_picodollars)


def _csv_line(cells: Iterable[Cell]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow([_csv_cell(cell) for cell in cells])
    return line.getvalue()


def _csv_cell(cell: Cell) -> str | int | float | None:
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return _plain(cell) if isinstance(cell, Decimal) else cell


def _plain(amount: Decimal) -> str:
    """All the digits and no exponent: `0.00000014`."""
    return f"{amount.normalize():f}"
