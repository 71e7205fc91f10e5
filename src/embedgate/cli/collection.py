"""Opening a collection for a command, with the embedder of its model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedgate.cli import embedder, options, results
from embedgate.cli.output import print_table

if TYPE_CHECKING:
    from embedgate.toolkit.collections.collection import Collection, Found
    from embedgate.toolkit.collections.shelves import Collections
    from embedgate.toolkit.records import Scalar

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.", show_default=False)]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="ADDRESS",
        envvar="EMBEDGATE_STORE",
        show_envvar=True,
        help="Where the collections are: postgresql://..., http(s)://... of a Qdrant, qdrant:FOLDER, lancedb:FOLDER or "
        "sqlite:FOLDER; files in the data folder if absent.",
    ),
]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What is looked for.", show_default=False)]
K = Annotated[int, typer.Option("-k", metavar="N", min=1, help="How many results.")]
Where = Annotated[
    str | None,
    typer.Option("--where", metavar="FILTER", help="Only texts with such metadata: \"lang = 'en' and year >= 2020\"."),
]
Hybrid = Annotated[bool, typer.Option("--hybrid", help="Search for the question's words, too, and fuse both rankings.")]
OwnModel = Annotated[
    str | None, typer.Option("--model", metavar="ID", help="Id of the model; that of the collection if absent.")
]

_SNIPPET_CHARS = 160
_LEAST_UNINDEXED, _UNINDEXED_SHARE = 1_000, 0.05
"""Texts outside of an approximate index that are compared in less time than the index takes to be written anew."""


def collections(context: typer.Context, config_file: Path | None, store: str | None) -> "Collections":
    """The collections at an address, else those of the data folder. Raises ConfigError, and as `Collections`."""
    from embedgate.toolkit.collections.shelves import Collections

    if store:
        return Collections(store)
    loaded = options.load_settings(context, config_file)
    return Collections(loaded.settings.storage.data_dir / "collections")


@contextmanager
def opened(
    context: typer.Context, config_file: Path | None, place: str | None, name: str, wish: embedder.Wish
) -> "Iterator[Collection]":
    """A collection with the embedder that the options ask for, of its own model unless they name one.

    Raises Conflict if that model is another, or gives other vectors than it did.
    """
    from embedgate.toolkit.collections.collection import Collection

    embedder.check(context, wish)
    store = collections(context, config_file, place).open_store(name)
    try:
        generation = store.facts().generation()
        if wish.model is None:
            wish = replace(wish, model=generation.model, dim=generation.wanted_dim)
        with embedder.opened(context, config_file, wish) as source:
            found = Collection(store, source)
            found.check_model()
            yield found
    finally:
        store.close()


@contextmanager
def opened_alone(
    context: typer.Context, config_file: Path | None, place: str | None, name: str
) -> "Iterator[Collection]":
    """A collection without an embedder."""
    with collections(context, config_file, place).open(name) as collection:
        yield collection


def optimize(target: "Collection", number: int | None = None) -> None:
    """Bring the index of a collection, or of one of its generations, up to date, with a bar of progress."""
    chosen = target.facts.serving if number is None else number
    n_new = target.store.unindexed(chosen)
    with results.progress("indexing", n_new, is_long=n_new > 0) as advance:
        done = target.store.count(chosen) - n_new

        def on_progress(n_done: int, _: int) -> None:
            nonlocal done
            advance(n_done - done)
            done = n_done

        target.store.optimize(chosen, on_progress)


def keep_indexed(target: "Collection", number: int | None = None) -> None:
    """As `optimize`, if so many texts are not in the approximate index that searches become slow."""
    chosen = target.facts.serving if number is None else number
    n_new = target.store.unindexed(chosen)
    if n_new > max(_LEAST_UNINDEXED, _UNINDEXED_SHARE * target.store.count(chosen)):
        optimize(target, chosen)


def why_nothing(searched: "Collection", where: str | None) -> str:
    """What to say where a search finds nothing: that there are no texts, or no such field, if that is so."""
    name = searched.name
    if not len(searched):
        return f"{name} has no texts; add some with `embedgate index add {name}`"
    unknown = searched.unknown_fields(where) if where is not None else []
    if unknown:
        named = " and ".join(map(repr, unknown))
        return f"no text of {name} has the field {named}; `embedgate index show {name}` lists those that there are"
    return "nothing was found"


def print_found(
    found: "Sequence[Found]", output: Path | None, file_format: str | None, *, as_json: bool, nothing: str
) -> None:
    """Print the results of a search, or write them to a file. nothing: what to say if there are none."""
    rows = [_row(each) for each in found]
    if results.print_rows(rows, output, file_format, as_json=as_json):
        return
    if not found:
        results.say(nothing)
        return
    table = [(str(each.rank), f"{each.score:.3f}", each.id, snippet(each)) for each in found]
    print_table(("rank", "score", "id", "text"), table, right=("rank", "score"))


def snippet(found: "Found") -> str:
    """The beginning of a text that was found, on one line; of Markdown without its marks."""
    from embedgate.toolkit.plain_text import of_markdown
    from embedgate.toolkit.reading import MARKDOWN_ENDINGS

    is_markdown = found.source.lower().endswith(tuple(MARKDOWN_ENDINGS))
    text = of_markdown(found.text) if is_markdown else found.text
    return results.excerpt(text, _SNIPPET_CHARS, "...")


def _row(found: "Found") -> "dict[str, Scalar]":
    own: dict[str, Scalar] = {
        "rank": found.rank,
        "score": found.score,
        "id": found.id,
        "source": found.source,
        "text": found.text,
    }
    return own | {name: value for name, value in found.metadata.items() if name not in own}
