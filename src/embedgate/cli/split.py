"""`embedgate split`: pieces of texts that fit a model, with the place and the headings of each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli import embedder, options, results, texts
from embedgate.cli.output import print_table

if TYPE_CHECKING:
    from embedgate.core.ports import Embedder
    from embedgate.toolkit.records import Record, Scalar
    from embedgate.toolkit.splitting import Piece

_SHOWN = 20
"""Pieces in the table for people; a file has all."""
_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 16


def split(
    context: typer.Context,
    files: texts.Files,
    size: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", help="Most tokens of a piece; 256, or what the model takes, if absent."),
    ] = None,
    overlap: Annotated[int, typer.Option(metavar="TOKENS", help="Tokens that a piece repeats of the one before.")] = 0,
    by: Annotated[
        Literal["paragraph", "meaning"],
        typer.Option(help="Where to cut: at sections and paragraphs, or where neighbouring sentences drift apart."),
    ] = "paragraph",
    output: results.Output = None,
    file_format: results.RowsFormat = None,
    as_json: options.AsJson = False,
    column: texts.Column = None,
    id_column: texts.IdColumn = None,
    read_as: texts.ReadAs = None,
    encoding: texts.Encoding = "utf-8",
    skip_empty: texts.SkipEmpty = False,
    model: embedder.Model = None,
    url: embedder.Url = None,
    api_key: embedder.ApiKey = None,
    api_key_file: embedder.ApiKeyFile = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Split texts into pieces of a size in the model's own tokens.

    Each piece has its file, its start and end in characters, and its headings. Put together, the pieces are the text.
    A .txt file is one text here; --read-as lines takes each line for one.
    """
    wish = embedder.Wish(model=model, url=url, api_key=api_key, api_key_file=api_key_file)
    embedder.check(context, wish)
    results.rows_format(output, file_format)
    from embedgate.toolkit.reading import Reading
    from embedgate.toolkit.splitting import Splitter
    from embedgate.wiring import open_tokens

    how = Reading(column, id_column, read_as, txt_as="document", skip_empty=skip_empty, encoding=encoding)
    records = texts.read(files, how)
    loaded = options.load_settings(context, config_file)
    known = open_tokens(loaded, model or loaded.settings.local.default_model)
    with _meaning(context, config_file, wish, wanted=by == "meaning") as source:
        splitter = Splitter(known.counter, known.max_tokens, size=size, overlap=overlap, embedder=source)
        found: list[tuple[Record, Piece]] = []
        with results.progress("splitting", len(records), is_long=source is not None) as advance:
            for record, pieces in splitter.split_records(records):
                found += [(record, piece) for piece in pieces]
                advance(1)
    is_printed = results.print_rows(_rows(found), output, file_format, as_json=as_json)
    _summarise(found, is_beside=is_printed and output is None, is_shown=not is_printed)


@contextmanager
def _meaning(
    context: typer.Context, config_file: Path | None, wish: embedder.Wish, *, wanted: bool
) -> "Iterator[Embedder | None]":
    if not wanted:
        yield None
        return
    with embedder.opened(context, config_file, wish) as source:
        yield source


def _rows(found: "Sequence[tuple[Record, Piece]]") -> "list[dict[str, Scalar]]":
    from embedgate.toolkit.splitting import as_records

    by_record: dict[int, tuple[Record, list[Piece]]] = {}
    for record, piece in found:
        by_record.setdefault(record.position, (record, []))[1].append(piece)
    return [
        {"id": each.id, "text": each.text, **each.metadata, "tokens": piece.n_tokens}
        for record, pieces in by_record.values()
        for each, piece in zip(as_records(record, pieces), pieces, strict=True)
    ]


def _summarise(found: "Sequence[tuple[Record, Piece]]", *, is_beside: bool, is_shown: bool) -> None:
    """The pieces, their number, median and histogram, for people."""
    sizes = [piece.n_tokens for _, piece in found]
    if is_shown:
        rows = [
            (record.id, f"{piece.start:,}", f"{piece.end:,}", f"{piece.n_tokens:,}", " > ".join(piece.headings))
            for record, piece in found[:_SHOWN]
        ]
        print_table(("text", "start", "end", "tokens", "headings"), rows, right=("start", "end", "tokens"))
        typer.echo(f"... and {len(found) - _SHOWN:,} more; --output writes all\n" if len(found) > _SHOWN else "")
    n = len({record.position for record, _ in found})
    typer.echo(
        f"{results.count(len(found), 'piece')} of {results.count(n, 'text')}, median {median(sizes):,.0f} tokens, "
        f"{min(sizes):,} {histogram(sizes)} {max(sizes):,}",
        err=is_beside,
    )


def histogram(sizes: Sequence[int]) -> str:
    """How often sizes occur, from the smallest to the largest, as one line of bars."""
    least, most = min(sizes), max(sizes)
    counts = [0] * _COLUMNS
    for size in sizes:
        counts[min(_COLUMNS - 1, (size - least) * _COLUMNS // max(1, most - least))] += 1
    highest = max(counts)
    return "".join(_BARS[-(-n * (len(_BARS) - 1) // highest)] if n else " " for n in counts)
