"""`embedgate embed`: texts in, vectors out, through a gateway in this process or one elsewhere."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli import embedder, options, results, texts
from embedgate.cli.advice import for_commands
from embedgate.core.errors import GatewayError, InvalidInput

if TYPE_CHECKING:
    from embedgate.core.ports import Embedder
    from embedgate.core.types import InputType
    from embedgate.toolkit.embedding import LeftOut, OnError
    from embedgate.toolkit.reading import Reading
    from embedgate.toolkit.records import Record
    from embedgate.toolkit.writing import Embedded

Format = Literal["json", "jsonl", "csv", "parquet", "npy"]


def embed(
    context: typer.Context,
    values: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Texts; - reads standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File or folder with texts; - is standard input.")
    ] = None,
    column: texts.Column = None,
    id_column: texts.IdColumn = None,
    read_as: texts.ReadAs = None,
    encoding: texts.Encoding = "utf-8",
    skip_empty: texts.SkipEmpty = False,
    model: embedder.Model = None,
    dim: embedder.Dim = None,
    input_type: Annotated[Literal["query", "document"] | None, typer.Option(help="What the texts are.")] = None,
    truncate: embedder.Truncate = "none",
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="skip: leave out texts that cannot be embedded, and report each with its line."),
    ] = "stop",
    file_format: Annotated[
        Format | None, typer.Option("--format", help="If absent: as --output ends, else json.")
    ] = None,
    output: results.Output = None,
    url: embedder.Url = None,
    api_key: embedder.ApiKey = None,
    api_key_file: embedder.ApiKeyFile = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Embed texts from the command line, a file or a pipe. Needs no server.

    In json and csv the index is the position among all texts or lines, counted from 0.
    """
    wish = embedder.Wish(model, dim, truncate, url, api_key, api_key_file)
    embedder.check(context, wish)
    # numpy takes longer to import than a wrong command line to report
    from embedgate.toolkit.reading import Reading
    from embedgate.toolkit.writing import VECTOR_PIECES, VectorResult, metadata_columns

    style = _format(file_format, output)
    how = Reading(column, id_column, read_as, skip_empty=skip_empty, encoding=encoding)
    records = _read(values or [], file, how)
    left_out: list[LeftOut] = []
    with embedder.opened(context, config_file, wish) as source, results.written(output) as write:
        batches = _embedded(records, source, input_type, on_error, left_out, is_printing=output is None)
        n = None if on_error == "skip" else len(records)
        for piece in VECTOR_PIECES[style](VectorResult(batches, n, source.model, metadata_columns(records))):
            write(piece)
    _report(records, left_out)


def _report(records: "Sequence[Record]", left_out: "Sequence[LeftOut]") -> None:
    """What was left out, by line, on standard error."""
    if left_out:
        results.say(f"left out {results.count(len(left_out), 'text')} of {len(records):,}:")
        for each in left_out:
            results.say(f"  {records[each.position].origin} {for_commands(each.reason)}")


def _format(wanted: Format | None, output: Path | None) -> Format:
    """The format to write. Refuses what a terminal cannot show, and an ending that is not known."""
    from embedgate.toolkit.writing import BINARY, VECTOR_ENDINGS, format_of_output

    results.check_place(output)
    found: Format = wanted or (format_of_output(output, VECTOR_ENDINGS) if output else "json")
    results.refuse_terminal(found in BINARY, found, output)
    return found


def _read(arguments: Sequence[str], file: Path | None, how: "Reading") -> "list[Record]":
    from embedgate.toolkit.reading import read_stream, read_values

    if arguments and file is not None:
        raise typer.BadParameter("texts come from it or from the command line, not from both", param_hint="--file")
    if file is not None and file != texts.STANDARD_INPUT:
        return texts.read([file], how)
    if arguments and list(arguments) != [str(texts.STANDARD_INPUT)]:
        return read_values(arguments, "the command line", how)
    if not arguments and file is None and sys.stdin.isatty():
        raise typer.BadParameter("nothing to embed; give texts, --file, or lines through a pipe", param_hint="TEXT")
    return read_stream(sys.stdin.buffer, texts.STANDARD_INPUT_NAME, how)


def _embedded(
    records: "Sequence[Record]",
    source: "Embedder",
    input_type: "InputType | None",
    on_error: "OnError",
    left_out: "list[LeftOut]",
    *,
    is_printing: bool,
) -> "Iterator[Embedded]":
    """Embed in as many calls as the limits take. What is left out is added to `left_out`."""
    from embedgate.toolkit.embedding import embed_in_parts
    from embedgate.toolkit.writing import Embedded

    is_long = len(records) > source.call_limits.max_inputs
    done = 0
    with (
        texts.named_by_line([record.origin for record in records]),
        results.progress("embedding", len(records), is_long=is_long, is_printing=is_printing) as advance,
    ):
        parts = embed_in_parts(source, [record.text for record in records], input_type, on_error=on_error)
        try:
            for part in parts:
                if len(part.positions):
                    yield Embedded([records[position] for position in part.positions], part.vectors)
                left_out += part.left_out
                done += part.n_done
                advance(part.n_done)
            if len(left_out) == len(records):
                _report(records, left_out)
                raise InvalidInput("No text could be embedded.")
        except InvalidInput:
            raise
        except GatewayError:
            if done:
                results.say(f"failed after {results.count(done, 'text')}, at {records[done].origin} or later:")
            raise
