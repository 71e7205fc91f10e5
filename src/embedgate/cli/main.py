"""The `embedgate` program: its commands, and the one place where an error becomes an exit code."""

import functools
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer
from typer._click import Command, Context
from typer.core import TyperGroup

from embedgate import __version__
from embedgate.cli import options
from embedgate.cli.advice import sentence
from embedgate.cli.output import CHOICE, Choice
from embedgate.cli.table_options import add_table_options
from embedgate.core.errors import ConfigError, GatewayError, GatewayRefused

OK = 0
FAILED = 1
BAD_USAGE = 2
BAD_CONFIG = 3
NOT_REACHED = 4
INTERRUPTED = 130

EXIT_CODES: tuple[tuple[int, str], ...] = (
    (OK, "done"),
    (FAILED, "failed; the message says why"),
    (BAD_USAGE, "the command line is wrong"),
    (BAD_CONFIG, "the settings are wrong, or the address to listen on is taken"),
    (NOT_REACHED, "a gateway or provider cannot be reached, or failed"),
    (INTERRUPTED, "interrupted"),
)
"""What the program ends with, and what it means. The reference page is made from this."""

_UPSTREAM_STATUSES = (502, 504)
_SERVER_FAULT = 500

COMMANDS = {
    "serve": "Start the gateway.",
    "health": "Ask a gateway whether it runs.",
    "embed": "Embed texts from the command line, a file or a pipe.",
    "clean": "Clean texts: mojibake, HTML remains, odd characters and spaces.",
    "split": "Split texts into pieces that fit a model.",
    "cluster": "Find the topics of texts.",
    "outliers": "Find the texts that do not belong to the others.",
    "classify": "Give texts the labels that they are most similar to.",
    "map": "Draw a map on which similar texts are near.",
    "evaluate": "Measure models, sizes and encodings on texts of one's own.",
    "dedupe": "Find near duplicates, and choose what is kept.",
    "index": "Make, fill, list, export and drop collections of texts.",
    "search": "Find the texts of a collection that fit a question.",
    "similar": "Find the texts of a collection that are nearest to one of them.",
    "reindex": "Move a collection to another model, and back.",
    "ask": "Answer a question from the texts of a collection.",
    "models": "Look at the models.",
    "aliases": "Set and remove other names of models.",
    "users": "Make, change and delete users.",
    "roles": "Make and delete roles.",
    "projects": "Make, change and delete projects.",
    "keys": "Make, rotate, stop and delete keys.",
    "policies": "Check, save, switch and try policies.",
    "limits": "Set and take away limits of requests and tokens.",
    "budgets": "Set and take away budgets, and see what is spent of them.",
    "prices": "Set and delete prices of your own.",
    "providers": "Add and change providers and their keys.",
    "usage": "Sum up what was used and what it cost.",
    "audit": "Read, verify and shorten the audit trail.",
    "backup": "Back the data folder up into one archive.",
    "restore": "Restore the data folder from an archive, or check one.",
    "cache": "Look at the vector cache, and clear it.",
    "config": "Check and show the settings.",
}
"""Commands by name, each in a module of that name that is imported when it is needed: together they import the database
and all providers, which takes longer than the help takes to print."""

_MODULES = {"config": "settings"}


@functools.cache
def load(name: str) -> Command:
    """The command of that name, or the group of commands, with all its options. Made once in a process."""
    module = importlib.import_module(f"embedgate.cli.{_MODULES.get(name, name)}")
    program = typer.Typer(rich_markup_mode=None, add_completion=False)
    program.callback()(lambda: None)  # with it a program of one command is a group, too
    if hasattr(module, "app"):
        program.add_typer(module.app, name=name)
    else:
        program.command(name)(getattr(module, name))
    command = typer.main.get_group(program).commands[name]
    add_table_options(name, command)
    return command


class _LazyGroup(TyperGroup):
    """A group of commands that knows only their names and help until one of them is run."""

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: rich would take longer to import than the help takes to print.
    rich_markup_mode=None,
    # A line with \b keeps the paragraph after it from being filled.
    epilog="\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES),
)
for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


@app.callback()
def _root(context: typer.Context, config_file: options.ConfigFile = None) -> None:
    """OpenAI-compatible gateway to every text-embedding model, with a model on this machine."""
    context.obj = config_file


@app.command()
def version(as_json: options.AsJson = False) -> None:
    """Print the version."""
    if as_json:
        from embedgate.cli.output import print_json

        print_json({"version": __version__})
    else:
        typer.echo(f"embedgate {__version__}")


@functools.cache
def _program() -> Command:
    return typer.main.get_command(app)


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit. arguments: those of the process if None."""
    CHOICE.set(Choice())
    try:
        _program()(args=arguments, prog_name="embedgate")
    except ConfigError as error:
        _fail(BAD_CONFIG, error.mistakes)
    except GatewayError as error:
        _fail(NOT_REACHED if _is_upstream(error) else FAILED, [sentence(error)])
    except OSError as error:
        _fail(FAILED, [sentence(error)])
    sys.exit(OK)


def _is_upstream(error: GatewayError) -> bool:
    """Whether the far side is at fault: a provider, or a gateway elsewhere that says so of itself."""
    return error.status in _UPSTREAM_STATUSES or (isinstance(error, GatewayRefused) and error.status >= _SERVER_FAULT)


def _fail(code: int, messages: Sequence[str]) -> NoReturn:
    for message in messages:
        typer.echo(f"error: {message}", err=True)
    sys.exit(code)
