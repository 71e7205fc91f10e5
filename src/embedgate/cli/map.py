"""`embedgate map`: texts as points on a page, a picture or in a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedgate.cli import on_texts, results
from embedgate.core.errors import InvalidInput

if TYPE_CHECKING:
    from embedgate.core.vectors import Vectors
    from embedgate.toolkit.mapping import Map
    from embedgate.toolkit.records import Record

_ENDINGS = (".html", ".png", ".parquet")


@on_texts.with_texts_into_files
def map(  # noqa: A001 - the name of the command
    call: on_texts.Call,
    colour: Annotated[
        str | None,
        typer.Option("--colour", "--color", metavar="COLUMN", help="Column to colour by; clusters if absent."),
    ] = None,
    layout: Annotated[Literal["tsne", "pca"], typer.Option(help="How texts are laid out.")] = "tsne",
    k: Annotated[
        int | None,
        typer.Option("--clusters", "-k", metavar="N", min=1, help="How many clusters; if absent, by silhouette."),
    ] = None,
    perplexity: Annotated[
        float, typer.Option(metavar="N", min=1, help="About how many neighbours count, of tsne.")
    ] = 30,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title; the name of the file if absent.")] = None,
    outputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", metavar="FILE", help="File to write: .html, .png or .parquet. May be given more than once."
        ),
    ] = None,
    seed: on_texts.Seed = 0,
) -> None:
    """Draw a map on which similar texts are near: a page with hover and search, a picture, a table with coordinates.

    The page stands alone and works offline.
    """
    paths = outputs or [Path("map.html")]
    for path in paths:
        results.check_place(path)
        if path.suffix.lower() not in _ENDINGS:
            raise InvalidInput(f"{path}: maps are written to {', '.join(_ENDINGS)}. Rename it.")
    records, vectors = call.read_and_embed()
    from embedgate.toolkit import map_page, mapping

    name, groups = _groups(records, vectors, colour, k, seed)
    found = mapping.make_map(vectors, layout=layout, perplexity=perplexity, seed=seed)
    heading = title or ", ".join(each.stem for each in call.files)
    for path in paths:
        colours = map_page.colourings(records, {name: groups})
        if path.suffix.lower() == ".parquet":
            content = _parquet(mapping.map_table(found, records, groups))
        elif path.suffix.lower() == ".png":
            content = map_page.map_png(found, colours[name], title=heading)
        else:
            content = map_page.map_html(found, records, colours, title=heading, note=_note(found, len(records)))
        with results.written(path) as write:
            write(content)
        typer.echo(f"{path}: {results.count(len(records), 'text')}, {max(1, round(len(content) / 1000)):,} KB")


def _groups(
    records: "Sequence[Record]", vectors: "Vectors", colour: str | None, k: int | None, seed: int
) -> "tuple[str, list[Any]]":
    """What the map is coloured by, and the value of each text."""
    if colour is not None:
        if all(colour not in record.metadata for record in records):
            there = ", ".join(records[0].metadata) or "none"
            raise InvalidInput(f"There is no column {colour!r}, which --colour names; beside the texts: {there}.")
        return colour, [record.metadata.get(colour) for record in records]
    from embedgate.toolkit.clustering import cluster

    texts = [record.text for record in records]
    found = cluster(vectors, texts, k=k, seed=seed)
    names = {each.number: f"{each.number}: {', '.join(each.keywords[:3])}" for each in found.clusters}
    return "cluster", [names[int(label)] for label in found.labels]


def _note(found: "Map", n: int) -> str:
    if found.explained is not None:
        return f"{results.count(n, 'text')}; principal components, which show {found.explained:.0%} of the variance"
    return f"{results.count(n, 'text')}; t-SNE: near points are similar texts, far groups may be at any distance"


def _parquet(table: Any) -> bytes:
    from embedgate.toolkit.libraries import library

    sink = library("pyarrow").BufferOutputStream()
    library("pyarrow.parquet").write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content
