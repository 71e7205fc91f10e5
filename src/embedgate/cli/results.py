"""Results of a command: the file they go to, a table or rows on standard output, and progress of long work."""

import errno
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from embedgate.toolkit.writing import Row

Output = Annotated[Path | None, typer.Option("--output", metavar="FILE", help="File to write, whole or not at all.")]
RowsFormat = Annotated[
    Literal["json", "jsonl", "csv", "parquet"] | None,
    typer.Option("--format", help="If absent: as --output ends, else a table."),
]


def print_rows(rows: "Sequence[Row]", output: Path | None, file_format: str | None, *, as_json: bool = False) -> bool:
    """Write rows where the options say; False if they say nothing, and a table is for the command to print.

    Raises InvalidInput for an ending that is not known, OSError.
    """
    chosen = rows_format(output, file_format, as_json=as_json)
    if chosen is None:
        return False
    from embedgate.toolkit.writing import ROW_PIECES

    with written(output) as write:
        for piece in ROW_PIECES[chosen](rows):
            write(piece)
    return True


def rows_format(output: Path | None, file_format: str | None, *, as_json: bool = False) -> str | None:
    """The format that the options ask for, None if for a table. To be asked before anything is embedded, too.

    Raises InvalidInput for an ending that is not known, OSError for a place where no file can be written.
    """
    from embedgate.toolkit.writing import BINARY, ROW_ENDINGS, format_of_output

    check_place(output)
    chosen: str | None = file_format
    if chosen is None and output is not None:
        chosen = format_of_output(output, ROW_ENDINGS)
    if chosen is None:
        return "json" if as_json else None
    refuse_terminal(chosen in BINARY, chosen, output)
    return chosen


def check_place(output: Path | None) -> None:
    """Refuse a file that cannot be written, before work is done for it. Raises OSError."""
    if output is None:
        return
    fault = None
    if output.is_dir():
        fault = errno.EISDIR
    elif not output.parent.is_dir():
        fault = errno.ENOENT
    elif not os.access(output.parent, os.W_OK):
        fault = errno.EACCES
    if fault is not None:
        raise OSError(fault, os.strerror(fault), str(output))


def refuse_terminal(is_binary: bool, file_format: str, output: Path | None) -> None:
    """Refuse to write to a terminal what it cannot show."""
    if is_binary and output is None and sys.stdout.isatty():
        raise typer.BadParameter(f"{file_format} is binary; give --output, or pipe it", param_hint="--format")


def written(output: Path | None) -> AbstractContextManager[Callable[[bytes | memoryview], object]]:
    """Where the result goes: a new file in place of `output`, or standard output. Raises what `check_place` raises."""
    check_place(output)
    from embedgate.toolkit.writing import replaced

    return nullcontext(sys.stdout.buffer.write) if output is None else replaced(output)


@contextmanager
def progress(what: str, n: int, *, is_long: bool = True, is_printing: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, for long work, where it disturbs nothing else on the terminal.

    Yields what is called with the number of things done since the last call. is_printing: results are printed
    meanwhile.
    """
    if not is_long or not sys.stderr.isatty() or (is_printing and sys.stdout.isatty()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=n)
        yield lambda done: bar.update(task, advance=done)


def say(line: str) -> None:
    """A remark for people on standard error, beside the result."""
    typer.echo(line, err=True)


def say_result(line: str) -> None:
    """Sentences of the result on standard output; a terminal gets each line broken between words.

    What a line begins with in spaces, its further lines do, too.
    """
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        line = "\n".join(_broken(part, width) for part in line.split("\n"))
    typer.echo(line)


def _broken(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip(" ")))
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def count(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 text`, `3,000 texts`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def excerpt(text: str, most: int = 72, mark: str = " ...") -> str:
    """A text on one line, cut between words if it is long. mark: what stands for the rest."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    kept = line[: most - len(mark)]
    return f"{kept.rpartition(' ')[0] or kept}{mark}"


def listed(lines: Iterable[str], most: int = 20) -> Iterator[str]:
    """The first lines of a report, and how many more there are."""
    found = list(lines)
    yield from found[:most]
    if len(found) > most:
        yield f"... and {len(found) - most:,} more"
