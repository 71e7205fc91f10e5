"""How results are shown: tables for people, JSON for programs. Decides nothing about their content."""

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_PIPED_WIDTH = 10_000
"""Characters in a line of a table that goes into a file or another program: there no cell needs to be broken."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under their columns. right: the columns that hold numbers. before, after: lines around them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    before: str = ""
    after: str = ""


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
        print_table(shown.columns, shown.rows, right=shown.right)
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


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> None:
    """Print rows of texts under their columns. right: the columns that hold numbers.

    Cells are shown as they are: brackets in them are no markup.
    """
    from rich.console import Console  # rich takes as long to import as everything that `--help` needs
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(highlight=False, width=_PIPED_WIDTH)
    with console.capture() as printed:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print what is known of one thing, name by value; an empty value is left out."""
    print_table(("field", "value"), [(name, value) for name, value in facts if value])


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
