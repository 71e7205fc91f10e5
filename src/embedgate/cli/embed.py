"""`embedgate embed`: texts in, vectors out, through a gateway in this process or one elsewhere."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli import options
from embedgate.cli.texts import Texts, from_arguments, from_lines
from embedgate.core.errors import GatewayError, InvalidInput

if TYPE_CHECKING:
    from embedgate.cli.formats import Embedded
    from embedgate.config import Loaded
    from embedgate.core.types import Input, InputType
    from embedgate.core.vectors import Vectors

Format = Literal["json", "csv", "npy"]

_STANDARD_INPUT = "-"
_REMOTE_TIMEOUT_S = 300
"""As long as a gateway may take for one request, unless its settings say otherwise."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is asked of a model."""

    model: str | None
    dim: int | None
    input_type: "InputType | None"


@dataclass(frozen=True, slots=True)
class _Source:
    """Where vectors come from, and how much one call of it takes."""

    model: str
    embed: "Callable[[Sequence[Input]], Vectors]"
    max_inputs: int
    max_tokens: int


def embed(
    context: typer.Context,
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Texts; - reads standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with one text per line; - is standard input.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="ID", help="Id of the model; the embedded one if absent.")
    ] = None,
    dim: Annotated[int | None, typer.Option("--dimensions", metavar="N", min=1, help="Length of the vectors.")] = None,
    input_type: Annotated[Literal["query", "document"] | None, typer.Option(help="What the texts are.")] = None,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="If absent: as --output ends, else json.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write, whole or not at all.")] = None,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Leave empty texts out.")] = False,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Use the gateway at this address.")] = None,
    api_key: Annotated[str | None, typer.Option(metavar="KEY", help="Key for the gateway at --url.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with that key, which then no list of processes shows.")
    ] = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Embed texts from the command line, a file or a pipe. Needs no server.

    In json and csv the index is the position among all texts or lines, counted from 0.
    """
    style = _format(file_format, output)
    key = _key(api_key, api_key_file)
    if key is not None and url is None:
        raise typer.BadParameter("a key is for the gateway at --url, which is missing", param_hint="--url")
    given = _read(texts or [], file, skip_empty=skip_empty)
    wish = _Wish(model, dim, input_type)
    if url is None:
        opening = _in_process(options.load_settings(context, config_file), wish)
    else:
        opening = _elsewhere(url, key, wish)
    # numpy takes longer to import than a wrong command line to report
    from embedgate.cli.formats import RENDER, Result

    with _written(output) as write, opening as source:
        result = Result(_embedded(given, source, output), len(given.values), source.model)
        for piece in RENDER[style](result):
            write(piece)


def _key(given: str | None, file: Path | None) -> str | None:
    if given is not None and file is not None:
        raise typer.BadParameter("give the key or its file, not both", param_hint="--api-key")
    return file.read_text(encoding="utf-8", errors="replace").strip() if file is not None else given


def _format(wanted: Format | None, output: Path | None) -> Format:
    """The format to write. Refuses what a terminal cannot show."""
    by_suffix: dict[str, Format] = {".csv": "csv", ".npy": "npy"}
    found = wanted or (by_suffix.get(output.suffix.lower()) if output else None) or "json"
    if found == "npy" and output is None and sys.stdout.isatty():
        raise typer.BadParameter("npy is binary; give --output, or pipe it", param_hint="--format")
    return found


def _read(arguments: Sequence[str], file: Path | None, *, skip_empty: bool) -> Texts:
    if arguments and file is not None:
        raise typer.BadParameter("texts come from it or from the command line, not from both", param_hint="--file")
    if list(arguments) == [_STANDARD_INPUT] or str(file) == _STANDARD_INPUT:
        return from_lines(sys.stdin.buffer, "standard input", skip_empty=skip_empty)
    if file is not None:
        with file.open("rb") as stream:
            return from_lines(stream, str(file), skip_empty=skip_empty)
    if arguments:
        return from_arguments(arguments, skip_empty=skip_empty)
    if sys.stdin.isatty():
        raise typer.BadParameter("nothing to embed; give texts, --file, or lines through a pipe", param_hint="TEXT")
    return from_lines(sys.stdin.buffer, "standard input", skip_empty=skip_empty)


@contextmanager
def _in_process(loaded: "Loaded", wish: _Wish) -> Iterator[_Source]:
    from embedgate.observe import events
    from embedgate.wiring import open_embedder

    events.configure("warning", loaded.settings.log.format)
    model = wish.model or loaded.settings.local.default_model
    limits = loaded.settings.limits
    with open_embedder(loaded, model, wish.dim) as embedder:
        yield _Source(model, lambda texts: embedder.embed(texts, wish.input_type), limits.max_inputs, limits.max_tokens)


@contextmanager
def _elsewhere(url: str, api_key: str | None, wish: _Wish) -> Iterator[_Source]:
    from embedgate.client import DEFAULT_MODEL, MAX_INPUTS, MAX_TOKENS, Client

    model = wish.model or DEFAULT_MODEL
    with Client(api_key, url, timeout_s=_REMOTE_TIMEOUT_S, model=model) as client:
        yield _Source(model, lambda texts: client.embed(texts, wish.input_type, dim=wish.dim), MAX_INPUTS, MAX_TOKENS)


def _embedded(given: Texts, source: _Source, output: Path | None) -> "Iterator[Embedded]":
    """Embed in as many calls as the limits take, one after the other."""
    from embedgate.cli.formats import Embedded
    from embedgate.client import batches

    cut = list(batches(given.values, max_inputs=source.max_inputs, max_tokens=source.max_tokens))
    start = 0
    with _progress(len(given.values), output, is_long=len(cut) > 1) as advance:
        for batch in cut:
            end = start + len(batch)
            try:
                vectors = source.embed(batch)
            except InvalidInput as error:
                if error.index is None:
                    raise
                raise InvalidInput(f"{given.place(start + error.index)} {error.reason}") from error
            except GatewayError:
                if len(cut) > 1:
                    typer.echo(f"failed between {given.place(start)} and {given.place(end - 1)}:", err=True)
                raise
            yield Embedded(given.positions[start:end], vectors)
            advance(len(batch))
            start = end


@contextmanager
def _progress(n: int, output: Path | None, *, is_long: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, for long work, where it disturbs nothing else on the terminal."""
    if not is_long or not sys.stderr.isatty() or (output is None and sys.stdout.isatty()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("embedding", total=n)
        yield lambda done: progress.update(task, advance=done)


def _written(output: Path | None) -> AbstractContextManager[Callable[[bytes], object]]:
    """Where the result goes: a new file in place of `output`, or standard output."""
    return nullcontext(sys.stdout.buffer.write) if output is None else _replaced(output)


@contextmanager
def _replaced(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Write beside `path`, and put the file in its place when all went well."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        stream = draft.open("wb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with stream:
            yield stream.write
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
