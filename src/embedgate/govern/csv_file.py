"""Tables as CSV, row by row: memory holds one row and not the whole table."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal

Cell = str | int | float | bool | Decimal | date | None
"""A Decimal is written with all its digits and no exponent, a time in UTC with milliseconds."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def csv_lines(columns: Sequence[str], rows: Iterable[Iterable[Cell]]) -> Iterator[bytes]:
    """Lines of CSV, the header first.

    A text that a spreadsheet might take for a formula gets an apostrophe before it, and so does one that begins with
    an apostrophe: whoever takes one off the beginning of each text has what was there.
    """
    yield _line(columns)
    for row in rows:
        yield _line(row)


def _line(cells: Iterable[Cell]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow([_written(cell) for cell in cells])
    return line.getvalue().encode()


def _written(cell: Cell) -> str | int | float | None:
    match cell:
        case str():
            return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell
        case bool():
            return "true" if cell else "false"
        case Decimal():
            return f"{cell.normalize():f}"
        case datetime():
            return cell.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case date():
            return cell.isoformat()
        case _:
            return cell
