"""`embedgate outliers`: texts that do not belong to the others."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli import on_texts, results
from embedgate.cli.output import print_table

if TYPE_CHECKING:
    from embedgate.toolkit.outliers import Outliers
    from embedgate.toolkit.writing import Row


@on_texts.with_texts
def outliers(
    call: on_texts.Call,
    by: Annotated[
        Literal["density", "distance", "both", "either"],
        typer.Option(help="Which texts count: in a thin neighbourhood, far from the centre of their cluster, or both."),
    ] = "density",
    spreads: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Usual spreads above the median from which a text counts. Fewer find more texts."
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--clusters", "-k", metavar="N", min=1, help="How many clusters; if absent, by silhouette."),
    ] = None,
    neighbours: Annotated[int, typer.Option(metavar="N", min=1, help="Neighbours that make up a neighbourhood.")] = 20,
    seed: on_texts.Seed = 0,
) -> None:
    """Find the texts that do not belong to the others, the most unusual first, and say why each counts.

    With --output or --format, one row for every text, outlier or not.
    """
    records, vectors = call.read_and_embed()
    from embedgate.toolkit.outliers import find_outliers

    found = find_outliers(vectors, criterion=by, spreads=spreads, k=k, neighbours=neighbours, seed=seed)
    chosen = set(found.positions)
    rows: list[Row] = [
        {
            "id": record.id,
            "is_outlier": position in chosen,
            "density": round(float(found.densities[position]), 6),
            "distance": round(float(found.distances[position]), 6),
            "reasons": ", ".join(found.reasons(position)),
            "text": record.text,
        }
        for position, record in enumerate(records)
    ]
    sentence = f"{results.count(len(chosen), 'outlier')} among {results.count(len(records), 'text')}"
    if call.print_rows(rows):
        results.say(sentence)
        return
    results.say_result(f"{sentence}.\n{_explained(found)}")
    if not chosen:
        return
    typer.echo()
    table = [
        (
            records[position].id,
            f"{found.densities[position]:.3f}",
            f"{found.distances[position]:.3f}",
            ", ".join(found.reasons(position)),
            results.excerpt(records[position].text),
        )
        for position in found.positions
    ]
    print_table(("id", "density", "distance", "why", "text"), table, right=("density", "distance"))


def _explained(found: "Outliers") -> str:
    """The two thresholds in words."""
    thin, far, n = found.thin, found.far, found.n_neighbours
    counts = {
        "density": "Texts in a thin neighbourhood count as outliers.",
        "distance": "Texts far from their cluster count as outliers.",
        "both": "Texts that are far and in a thin neighbourhood count as outliers.",
        "either": "Texts that are far or in a thin neighbourhood count as outliers.",
    }[found.criterion]
    return (
        f"Density: the local outlier factor over {n} neighbours, 1 where a text has neighbours as near as "
        f"they have theirs.\n  A neighbourhood is thin above {thin.value:.3f}: the median {thin.median:.3f} plus "
        f"{thin.spreads:g} times the usual spread, {thin.spread:.3f}.\n"
        f"Distance: to the centre of the text's cluster, of {found.n_clusters}.\n  It is far above {far.value:.3f}: "
        f"the median {far.median:.3f} plus {far.spreads:g} times the usual spread, {far.spread:.3f}.\n{counts}"
    )
