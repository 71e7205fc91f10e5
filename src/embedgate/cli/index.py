"""`embedgate index`: making, filling, listing, exporting and dropping collections."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli import asking, collection, embedder, options, results, texts
from embedgate.cli.advice import for_commands, sentence
from embedgate.cli.output import print_facts, print_json, print_table, time_of
from embedgate.core.errors import GatewayError, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedgate.toolkit.collections.adding import Added
    from embedgate.toolkit.collections.collection import Collection
    from embedgate.toolkit.collections.store import Item
    from embedgate.toolkit.embedding import OnError
    from embedgate.toolkit.records import Record
    from embedgate.toolkit.writing import Embedded

EMBEDDED_MODEL = "local/all-minilm-l6-v2"

app = typer.Typer(no_args_is_help=True, help="Make, fill, list, export and drop collections of texts.")

OnErrorOption = Annotated[
    Literal["stop", "skip"],
    typer.Option(help="skip: leave out texts that cannot be embedded, and report each with its line."),
]


@app.command("create")
def create(
    context: typer.Context,
    name: collection.Name,
    model: embedder.Model = None,
    dim: embedder.Dim = None,
    is_approximate: Annotated[
        bool,
        typer.Option("--approximate", help="Search by an approximate index: much faster for hundreds of thousands."),
    ] = False,
    url: embedder.Url = None,
    api_key: embedder.ApiKey = None,
    api_key_file: embedder.ApiKeyFile = None,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Make an empty collection for the vectors of one model."""
    wish = embedder.Wish(model, dim, "none", url, api_key, api_key_file)
    shelf = collection.collections(context, config_file, store)
    with (
        embedder.opened(context, config_file, wish) as source,
        shelf.create(name, source, wanted_dim=dim, approximate=is_approximate) as made,
    ):
        typer.echo(f"made the collection {name} of {made.serving}")


@app.command("add")
def add(
    context: typer.Context,
    name: collection.Name,
    files: texts.Files,
    column: texts.Column = None,
    id_column: texts.IdColumn = None,
    read_as: texts.ReadAs = None,
    encoding: texts.Encoding = "utf-8",
    skip_empty: texts.SkipEmpty = False,
    truncate: embedder.Truncate = "none",
    on_error: OnErrorOption = "stop",
    url: embedder.Url = None,
    api_key: embedder.ApiKey = None,
    api_key_file: embedder.ApiKeyFile = None,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Add texts, or replace those with the same ids. What has not changed is not embedded again.

    A document is cut into pieces; all of its earlier pieces are replaced.
    """
    records = _read(files, column, id_column, read_as, encoding, skip_empty=skip_empty)
    documents = {record.origin.file for record in records if record.origin.number is None}
    wish = embedder.Wish(None, None, truncate, url, api_key, api_key_file)
    _add_pieces(context, config_file, store, name, wish, records, on_error, documents.__contains__)


@app.command("update")
def update(
    context: typer.Context,
    name: collection.Name,
    files: texts.Files,
    column: texts.Column = None,
    id_column: texts.IdColumn = None,
    read_as: texts.ReadAs = None,
    encoding: texts.Encoding = "utf-8",
    skip_empty: texts.SkipEmpty = False,
    truncate: embedder.Truncate = "none",
    on_error: OnErrorOption = "stop",
    url: embedder.Url = None,
    api_key: embedder.ApiKey = None,
    api_key_file: embedder.ApiKeyFile = None,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Add texts, and delete those no longer in the files.

    Only texts that were added from the same files and folders are deleted.
    """
    records = _read(files, column, id_column, read_as, encoding, skip_empty=skip_empty)
    if texts.STANDARD_INPUT in files:
        raise typer.BadParameter("what comes through a pipe is not known the next time; use add", param_hint="FILE")
    places = [file.as_posix() for file in files]
    wish = embedder.Wish(None, None, truncate, url, api_key, api_key_file)

    def is_from_them(source: str) -> bool:
        return any(place in (".", source) or source.startswith(f"{place}/") for place in places)

    _add_pieces(context, config_file, store, name, wish, records, on_error, is_from_them)


@app.command("delete")
def delete(
    context: typer.Context,
    name: collection.Name,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of texts.")] = None,
    where: collection.Where = None,
    is_agreed: asking.Yes = False,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete texts by id, or all texts whose metadata match."""
    if bool(ids) == (where is not None):
        raise typer.BadParameter("give ids, or --where", param_hint="ID")
    with collection.opened_alone(context, config_file, store, name) as target:
        chosen = ids or target.matching(where or "")
        if where is not None and chosen:
            what = results.count(len(chosen), "text")
            asking.confirm(f"Delete {what} of {len(target):,} from {name}?", is_agreed=is_agreed)
        n = target.delete(chosen)
        if ids and n < len(set(ids)):
            results.say(f"{results.count(len(set(ids)) - n, 'id')} of these the collection does not have")
        typer.echo(f"deleted {results.count(n, 'text')}")


@app.command("list")
def list_all(
    context: typer.Context,
    as_json: options.AsJson = False,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """List all collections with their models and sizes."""
    rows: list[dict[str, object]] = []
    n_closed = 0
    for name, found in collection.collections(context, config_file, store).each():
        if isinstance(found, (GatewayError, OSError)):
            results.say(f"{name} cannot be opened: {sentence(found)}")
            n_closed += 1
            continue
        rows.append(_facts(found))
    if as_json:
        print_json(rows)
    elif not rows:
        if n_closed:
            return
        results.say("there are no collections; make one with `embedgate index create`")
    else:
        columns = ("name", "texts", "model", "dim", "bytes")
        table = [
            tuple(f"{row[column]:,}" if column in _NUMBERS else str(row[column]) for column in columns) for row in rows
        ]
        print_table(columns, table, right=_NUMBERS)


@app.command("show")
def show(
    context: typer.Context,
    name: collection.Name,
    as_json: options.AsJson = False,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Show a collection: model, space, texts and metadata.

    Says, too, of which other models it keeps vectors.
    """
    with collection.opened_alone(context, config_file, store, name) as found:
        facts = found.facts
        shown = _facts(found) | {"search": "approximate" if facts.is_approximate else "exact"}
        if facts.is_approximate:
            shown["not_indexed"] = found.store.unindexed(facts.serving)
        fields: dict[str, int] = {}
        for item in found.items():
            for field in item.metadata:
                fields[field] = fields.get(field, 0) + 1
        others = {each: found.store.count(each.number) for each in facts.generations if each.number != facts.serving}
    if as_json:
        kept = [{"model": each.model, "space": each.space, "dim": each.dim, "texts": n} for each, n in others.items()]
        print_json({**shown, "metadata": fields, "created_at": facts.created_at, "other_vectors": kept})
        return
    print_facts(
        [
            *(
                (field.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
                for field, value in shown.items()
            ),
            ("made", time_of(facts.created_at)),
            ("metadata", ", ".join(f"{field} ({n:,})" for field, n in sorted(fields.items()))),
            *(("also kept", f"vectors of {each} for {results.count(n, 'text')}") for each, n in others.items()),
        ]
    )


@app.command("export")
def export(
    context: typer.Context,
    name: collection.Name,
    file_format: Annotated[
        Literal["json", "jsonl", "csv", "parquet", "npy"] | None,
        typer.Option("--format", help="If absent: as --output ends, else jsonl."),
    ] = None,
    output: results.Output = None,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Write all texts with their vectors to a file.

    The formats are those of `embedgate embed`; vectors have unit length.
    """
    from embedgate.toolkit.writing import (
        BINARY,
        VECTOR_ENDINGS,
        VECTOR_PIECES,
        VectorResult,
        format_of_output,
        metadata_columns,
    )

    results.check_place(output)
    chosen = file_format or (format_of_output(output, VECTOR_ENDINGS) if output else "jsonl")
    results.refuse_terminal(chosen in BINARY, chosen, output)
    with collection.opened_alone(context, config_file, store, name) as found:
        columns = metadata_columns(_record(item, 0) for item in found.items())
        batches = _batches(found)
        with results.written(output) as write:
            for piece in VECTOR_PIECES[chosen](VectorResult(batches, None, found.serving.model, columns)):
                write(piece)


@app.command("optimize")
def optimize(
    context: typer.Context,
    name: collection.Name,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Make searches fast after many changes. An approximate index is brought up to date, small files are joined."""
    with collection.opened_alone(context, config_file, store, name) as found:
        collection.optimize(found)
        typer.echo(f"optimized the collection {name} of {results.count(len(found), 'text')}")


@app.command("drop")
def drop(
    context: typer.Context,
    name: collection.Name,
    is_agreed: asking.Yes = False,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete a whole collection, its texts and vectors."""
    shelf = collection.collections(context, config_file, store)
    with shelf.open(name) as found:
        n = len(found)
    asking.confirm(f"Delete the collection {name} with {results.count(n, 'text')}?", is_agreed=is_agreed)
    shelf.drop(name)
    typer.echo(f"deleted the collection {name}")


_NUMBERS = ("texts", "dim", "bytes")


def _facts(found: "Collection") -> dict[str, object]:
    serving = found.serving
    return {
        "name": found.name,
        "texts": len(found),
        "model": serving.model,
        "space": serving.space,
        "dim": serving.dim,
        "bytes": found.store.size_bytes(),
    }


def _read(
    files: list[Path], column: str | None, id_column: str | None, read_as: object, encoding: str, *, skip_empty: bool
) -> "list[Record]":
    """The texts of files, with ids that last."""
    from embedgate.toolkit.collections.sources import known_by_text
    from embedgate.toolkit.reading import Reading

    how = Reading(column, id_column, read_as, "lines", skip_empty, encoding, name_in_ids=True)  # type: ignore[arg-type]
    found = texts.read(files, how)
    return known_by_text(found, texts.STANDARD_INPUT_NAME) if texts.STANDARD_INPUT in files else found


def _add_pieces(
    context: typer.Context,
    config_file: Path | None,
    store: str | None,
    name: str,
    wish: embedder.Wish,
    records: "list[Record]",
    on_error: "OnError",
    replaces: "Callable[[str], bool]",
) -> None:
    """Add texts to a collection, documents in pieces, and say what came of it. replaces: as `Collection.add`."""
    from embedgate.core.errors import UnknownEntity

    try:
        with collection.opened(context, config_file, store, name, wish) as target:
            pieces = _in_pieces(context, config_file, target.serving.model, records)
            _report(target, _add(target, pieces, on_error, replaces), pieces)
            collection.keep_indexed(target)
    except UnknownEntity as error:
        raise UnknownEntity(f"{error.message} `embedgate index create {name}` makes it.") from error


def _in_pieces(context: typer.Context, config_file: Path | None, model: str, records: "list[Record]") -> "list[Record]":
    """Documents in pieces, counted in the model's tokens; in the embedded one's if the model is not known here."""
    if all(record.origin.number is not None for record in records):
        return records
    from embedgate.core.errors import UnknownModel
    from embedgate.toolkit.collections.sources import in_pieces
    from embedgate.toolkit.splitting import Splitter
    from embedgate.wiring import open_tokens

    loaded = options.load_settings(context, config_file)
    try:
        known = open_tokens(loaded, model)
    except UnknownModel:
        known = open_tokens(loaded, EMBEDDED_MODEL)
    return in_pieces(records, Splitter(known.counter, known.max_tokens))


def _add(
    target: "Collection", records: "Sequence[Record]", on_error: "OnError", replaces: "Callable[[str], bool]"
) -> "Added":
    done = total = 0
    origins = [record.origin for record in records]
    with texts.named_by_line(origins), results.progress("embedding", len(records)) as advance:

        def on_progress(n_done: int, n_all: int) -> None:
            nonlocal done, total
            advance(n_done - done if total else n_done + len(records) - n_all)
            done, total = n_done, n_all

        try:
            return target.add(records, on_error=on_error, on_progress=on_progress, replaces=replaces)
        except InvalidInput:
            raise
        except (GatewayError, OSError):
            if done:
                results.say(f"failed after {done:,} of {total:,} texts, which are kept; the same command goes on")
            raise


def _report(target: "Collection", added: "Added", records: "Sequence[Record]") -> None:
    counts = (("new", added.n_new), ("changed", added.n_changed), ("unchanged", added.n_unchanged))
    done = ", ".join(f"{n:,} {what}" for what, n in (*counts, ("removed", added.n_removed)))
    there = f"{target.name} has {results.count(len(target), 'text')}"
    typer.echo(f"{done}; {results.count(added.n_embedded, 'text')} embedded; {there}")
    if added.left_out:
        results.say(f"left out {results.count(len(added.left_out), 'text')} of {len(records):,}:")
        reasons = (f"{records[each.position].origin} {for_commands(each.reason)}" for each in added.left_out)
        for line in results.listed(f"  {reason}" for reason in reasons):
            results.say(line)


def _record(item: "Item", position: int) -> "Record":
    from embedgate.toolkit.records import Origin, Record

    return Record(item.id, item.text, Origin(item.source), position, item.metadata)


def _batches(found: "Collection") -> "Iterator[Embedded]":
    from embedgate.toolkit.writing import Embedded

    position = 0
    for items, vectors in found.export():
        yield Embedded([_record(item, position + place) for place, item in enumerate(items)], vectors)
        position += len(items)
