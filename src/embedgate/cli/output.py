"""How results are shown: tables for people, JSON for programs. Decides nothing about their content."""

import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from embedgate.cli.columns import GAP, fit
from embedgate.core.errors import InvalidInput

_PIPED_WIDTH = 10_000
"""Characters in a line of a table that goes into a file or another program: there no cell needs to be broken."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under their columns. right: the columns that hold numbers. before, after: lines around them.

    least: the columns that are left out first where the screen is too narrow.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    before: str = ""
    after: str = ""
    least: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for of tables: is_wide, every column whatever the width; columns: these, in this order."""

    is_wide: bool = False
    columns: tuple[str, ...] = ()


_EVERYTHING_THAT_FITS = Choice()
CHOICE: ContextVar[Choice] = ContextVar("choice", default=_EVERYTHING_THAT_FITS)
"""Of the command that runs; set from its options by `table_options`."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one thing, name by value; an empty value is left out."""

    facts: Sequence[tuple[str, str]]


Shown = str | Table | Facts
"""A result for people: a line, a table, or the facts of one thing."""


def print_shown(shown: Shown) -> None:
    """Print a result for people."""
    if isinstance(shown, Table):
        if shown.before:
            sys.stdout.write(f"{shown.before}\n\n")
        print_table(shown.columns, shown.rows, right=shown.right, least=shown.least)
        if shown.after:
            sys.stdout.write(f"\n{shown.after}\n")
    elif isinstance(shown, Facts):
        print_facts(shown.facts)
    else:
        sys.stdout.write(f"{shown}\n")


def print_json(value: object) -> None:
    """Print a value, records included, as indented JSON."""
    import msgspec  # loaded by few commands

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_json_list(items: Iterable[object]) -> None:
    """Print a whole list as `print_json` does, while its items are read: one is in memory at a time."""
    import msgspec

    n_items = 0
    sys.stdout.write('{\n  "items": [')
    for n_items, item in enumerate(items, 1):
        text = msgspec.json.format(msgspec.json.encode(item), indent=2).decode()
        sys.stdout.write(f"{',' if n_items > 1 else ''}\n    {text.replace(chr(10), chr(10) + '    ')}")
    end = "\n  ]" if n_items else "]"
    sys.stdout.write(f'{end},\n  "total": {n_items},\n  "offset": 0,\n  "limit": {n_items}\n}}\n')


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = (), least: Sequence[str] = ()
) -> None:
    """Print rows of texts under their columns. right: the columns that hold numbers.

    least: the columns that are left out first where a screen is too narrow; a last line says which are. What is not
    printed on a screen has every column, and one line for each row. Cells are shown as they are: brackets in them are
    no markup. Raises InvalidInput for a chosen column that is not there.
    """
    choice = CHOICE.get()
    if choice.columns:
        places = [_place(name, columns) for name in choice.columns]
        columns, rows = [columns[place] for place in places], [[row[place] for place in places] for row in rows]
    _print_fitted(columns, rows, right, least, is_whole=choice.is_wide or bool(choice.columns))


def _place(name: str, columns: Sequence[str]) -> int:
    if name not in columns:
        known = ", ".join(column for column in columns if column)
        raise InvalidInput(f"There is no column {name!r} here. Choose of these: {known}.", param="columns")
    return columns.index(name)


def _print_fitted(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str], least: Sequence[str],
    *, is_whole: bool,
) -> None:  # fmt: skip
    from rich.console import Console  # rich takes as long to import as everything that `--help` needs
    from rich.table import Table as RichTable
    from rich.text import Text

    is_screen = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_screen and not CHOICE.get().is_wide else _PIPED_WIDTH
    fitted = fit(columns, rows, width, least, is_whole=is_whole or not is_screen)
    table = RichTable(box=None, pad_edge=False)
    for place, cells in zip(fitted.places, fitted.widths, strict=True):
        justify: Literal["left", "right"] = "right" if columns[place] in right else "left"
        table.add_column(columns[place], justify=justify, overflow="fold", width=cells)
    for row in rows:
        table.add_row(*(Text(row[place]) for place in fitted.places))
    # As wide as the table even where the screen is not: else rich would cut what does not fit.
    # With a height, too: without one, rich takes a plain terminal for one of 80 columns, whatever it is told.
    console = Console(highlight=False, width=max(width, sum(fitted.widths) + GAP * len(fitted.widths)), height=25)
    with console.capture() as printed:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())
    if fitted.left_out:
        sys.stdout.write(f"Left out: {', '.join(fitted.left_out)}. --wide shows all, --columns chooses.\n")


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print what is known of one thing, name by value; an empty value is left out."""
    _print_fitted(("field", "value"), [(name, value) for name, value in facts if value], (), (), is_whole=True)


def print_pieces(pieces: Iterable[bytes]) -> None:
    """Print a file that comes in pieces, byte for byte."""
    sys.stdout.flush()
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def yes_no(value: bool) -> str:
    """A truth value for a table."""
    return "yes" if value else "no"


def count(n: int | None) -> str:
    """A number for a table, in groups of three digits; nothing for none."""
    return "" if n is None else f"{n:,}"


def time_of(at: datetime | None, absent: str = "") -> str:
    """A time as UTC to the second: `2026-11-20 08:15:00Z`; `absent` if there is none."""
    return absent if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
