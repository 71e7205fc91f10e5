"""The texts of a command: shared options, and reading them from files, folders or standard input."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli.advice import for_commands
from embedgate.core.errors import InvalidInput

if TYPE_CHECKING:
    from embedgate.toolkit.reading import Reading
    from embedgate.toolkit.records import Record

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Files or folders with texts; - is standard input.", show_default=False),
]
Column = Annotated[
    str | None,
    typer.Option("--column", metavar="NAME", help="Column of the texts; `text`, or the only one, if absent."),
]
IdColumn = Annotated[
    str | None, typer.Option("--id", metavar="NAME", help="Column of the ids; `id`, or the line's number, if absent.")
]
ReadAs = Annotated[
    Literal["lines", "csv", "tsv", "jsonl", "parquet", "document"] | None,
    typer.Option("--read-as", help="Format of the texts. If absent: as the file's name ends; standard input is lines."),
]
Encoding = Annotated[str, typer.Option("--encoding", metavar="NAME", help="Encoding of the texts.")]
SkipEmpty = Annotated[bool, typer.Option("--skip-empty", help="Leave empty texts out.")]

STANDARD_INPUT = Path("-")
STANDARD_INPUT_NAME = "standard input"
THE_QUESTION = "the question"


def read(files: Sequence[Path], how: "Reading") -> "list[Record]":
    """The texts of the files that a command names, or of standard input. Raises InvalidInput, OSError."""
    from embedgate.toolkit.reading import read_files, read_stream

    if STANDARD_INPUT not in files:
        return read_files(files, how)
    if len(files) > 1:
        raise typer.BadParameter("- stands for all texts; name files, or -", param_hint="FILE")
    if sys.stdin.isatty():
        raise typer.BadParameter("nothing is piped into it", param_hint="-")
    return read_stream(sys.stdin.buffer, STANDARD_INPUT_NAME, how)


@contextmanager
def named_by_line(origins: Sequence[object]) -> Iterator[None]:
    """Name a text that is refused inside by where it comes from, in place of its position.

    origins: where each text is from. Raises InvalidInput, TextRefused.
    """
    from embedgate.toolkit.embedding import TextRefused  # with numpy, which takes long to import

    try:
        yield
    except InvalidInput as error:
        if error.index is None:
            raise
        raise InvalidInput(f"{origins[error.index]} {for_commands(error.reason)}") from error
    except TextRefused as error:
        raise TextRefused(error, error.index, for_commands(error.reason), str(origins[error.index])) from error
