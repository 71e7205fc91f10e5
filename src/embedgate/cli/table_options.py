"""`--wide` and `--columns`: the options that every command with a table has."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import typer
from typer._click import Command
from typer.core import TyperGroup

from embedgate.cli.output import CHOICE

TABLES = frozenset(
    {
        "audit list",
        "budgets list",
        "cache stats",
        "clean",
        "cluster",
        "classify",
        "config show",
        "dedupe",
        "evaluate",
        "index list",
        "keys list",
        "limits list",
        "models discover",
        "models list",
        "models verify",
        "outliers",
        "policies list",
        "policies templates",
        "policies try",
        "prices list",
        "projects list",
        "providers list",
        "roles list",
        "search",
        "similar",
        "split",
        "usage",
        "usage entries",
        "usage reconcile",
        "users list",
    }
)
"""The commands that print a table, as they are typed."""


def add_table_options(name: str, command: Command) -> None:
    """Give a command, and those below it, the options of tables if they print one. name: as it is typed."""
    found = table_commands(name, command).values()
    if found:
        program = typer.Typer(rich_markup_mode=None, add_completion=False)
        program.command()(_with_a_table)
        shared = typer.main.get_command(program).params
        for each in found:
            each.params += shared


def table_commands(name: str, command: Command) -> dict[str, Command]:
    """The commands with a table at and below one, as they are typed."""
    return {path: each for path, each in _below(name, command) if path in TABLES}


def _choose_wide(value: bool) -> None:
    CHOICE.set(replace(CHOICE.get(), is_wide=value))


def _choose_columns(value: str) -> None:
    CHOICE.set(replace(CHOICE.get(), columns=tuple(name.strip() for name in value.split(",") if name.strip())))


def _with_a_table(
    *,
    is_wide: Annotated[
        bool,
        typer.Option(
            "--wide",
            callback=_choose_wide,
            expose_value=False,
            help="Show every column, however narrow the screen.",
        ),
    ] = False,
    columns: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            callback=_choose_columns,
            expose_value=False,
            help="Show these columns of the table, with commas between them.",
        ),
    ] = "",
) -> None:
    """What the options are read from."""


def _below(name: str, command: Command) -> Iterator[tuple[str, Command]]:
    yield name, command
    if isinstance(command, TyperGroup):
        for child, each in command.commands.items():
            yield from _below(f"{name} {child}", each)
