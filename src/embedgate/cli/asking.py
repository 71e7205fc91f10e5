"""Prompts of commands: confirmations, and secrets, which are never taken as arguments.

An argument can be read by everybody on the machine in its list of processes, and stays in the history of the shell.
Questions go to standard error, so that what a command prints stays clean.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedgate.core.errors import InvalidInput

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_STANDARD_INPUT = "-"
_MAX_TEXT_BYTES = 10_000_000


def confirm(question: str, *, is_agreed: bool, reason: str = "") -> None:
    """Continue only if the user confirms at a terminal, or gave --yes.

    question: in words that end with `?`. reason: why it is asked, printed before it.
    """
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"there is no terminal to ask at; give --yes to confirm: {reason or question}")
    if reason:
        typer.echo(reason, err=True)
    typer.confirm(question, abort=True, err=True)


def read_secret(what: str) -> str:
    """A secret from a terminal that does not show it, else from standard input without its line end.

    what: for the prompt and for messages, such as `Key`. Raises InvalidInput if there is none.
    """
    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=True, err=True))
    return read_piped_secret(what)


def read_piped_secret(what: str) -> str:
    """A secret from standard input, without its line end. Raises InvalidInput if there is none."""
    secret = sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise InvalidInput(
            f"Standard input is empty; the {what.lower()} is expected there, on one line.", param="stdin"
        )
    return secret


def read_new_password() -> str:
    """A password from a terminal, typed twice and not shown. Fails where there is no terminal."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to be asked; pipe the password in, with --stdin")
    return str(typer.prompt("New password", hide_input=True, confirmation_prompt=True, err=True))


def read_text(file: Path) -> str:
    """The text of a file; of standard input for `-`. Raises OSError, or InvalidInput if it is large or no UTF-8."""
    if str(file) == _STANDARD_INPUT:
        raw = sys.stdin.buffer.read(_MAX_TEXT_BYTES + 1)
    else:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_TEXT_BYTES + 1)
    if len(raw) > _MAX_TEXT_BYTES:
        raise InvalidInput(f"{file} is larger than {_MAX_TEXT_BYTES:,} bytes. Split it.", param="file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{file}, line {line}: not UTF-8. Convert the file first.", param="file") from error
