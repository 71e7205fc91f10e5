"""`embedgate dedupe`: near duplicates in groups, and what is kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli import on_texts, results
from embedgate.cli.output import print_table

if TYPE_CHECKING:
    from embedgate.toolkit.duplicates import Duplicates
    from embedgate.toolkit.records import Record, Scalar

_WHY = {
    "first": "The first text of a group is kept",
    "last": "The last text of a group is kept",
    "longest": "The longest text of a group is kept",
    "shortest": "The shortest text of a group is kept",
}


@on_texts.with_texts
def dedupe(
    call: on_texts.Call,
    similarity: Annotated[
        float, typer.Option(metavar="COSINE", help="Cosine from which two texts say the same. Lower finds more.")
    ] = 0.95,
    keep: Annotated[
        Literal["first", "last", "longest", "shortest"], typer.Option(help="Which text of a group is kept.")
    ] = "first",
) -> None:
    """Find near duplicates, and say which text of each group is kept.

    With --output or --format, the rows that are kept, with all their columns.
    """
    records, vectors = call.read_and_embed()
    from embedgate.toolkit.duplicates import find_duplicates

    found = find_duplicates(vectors, [record.text for record in records], similarity=similarity, keep=keep)
    rows = [_row(records[position]) for position in found.kept]
    n_groups = results.count(len(found.groups), "group")
    sentence = (
        f"{len(found.kept):,} of {results.count(len(records), 'text')} kept, {found.n_dropped:,} dropped in {n_groups}"
    )
    if call.print_rows(rows):
        results.say(sentence)
        return
    results.say_result(
        f"{sentence}.\n{_WHY[keep]}; every other has a cosine of at least {similarity:g} to it. No two kept texts have."
    )
    if found.groups:
        typer.echo()
        print_table(("", "id", "cosine", "text"), _table(found, records), right=("cosine",))
    if found.near_misses:
        typer.echo("\nThe nearest pairs that are both kept:")
        for miss in found.near_misses:
            first, other = records[miss.position], records[miss.other]
            texts = f"{results.excerpt(first.text, 60)} ({first.id}) | {results.excerpt(other.text, 60)} ({other.id})"
            results.say_result(f"  {miss.similarity:.3f}  {texts}")


def _row(record: "Record") -> "dict[str, Scalar]":
    own: dict[str, Scalar] = {"id": record.id, "text": record.text}
    return own | {name: value for name, value in record.metadata.items() if name not in own}


def _table(found: "Duplicates", records: "Sequence[Record]") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for group in found.groups:
        rows.append(("keep", records[group.kept].id, "", results.excerpt(records[group.kept].text)))
        for each in group.dropped:
            cosine = "equal" if each.is_equal else f"{each.similarity:.3f}"
            rows.append(("drop", records[each.position].id, cosine, results.excerpt(records[each.position].text)))
    return rows
