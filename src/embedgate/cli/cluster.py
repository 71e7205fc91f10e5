"""`embedgate cluster`: the topics of texts that nobody has labelled."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli import on_texts, results
from embedgate.cli.output import print_table

if TYPE_CHECKING:
    from embedgate.toolkit.clustering import Clustering
    from embedgate.toolkit.writing import Row

_NO_STRUCTURE = 0.02
"""A mean silhouette below which clusters of sentence embeddings are hardly apart; 0.05 is usual for clear topics."""


@on_texts.with_texts
def cluster(
    call: on_texts.Call,
    method: Annotated[
        Literal["kmeans", "hdbscan"], typer.Option(help="hdbscan finds how many there are, and leaves texts out.")
    ] = "kmeans",
    k: Annotated[
        int | None,
        typer.Option("--clusters", "-k", metavar="N", min=1, help="How many; chosen by silhouette if absent."),
    ] = None,
    most: Annotated[int, typer.Option("--most", metavar="N", min=2, help="Try 2 to N clusters.")] = 12,
    min_size: Annotated[int, typer.Option(metavar="N", min=2, help="Smallest cluster, of hdbscan.")] = 5,
    seed: on_texts.Seed = 0,
) -> None:
    """Find the topics of texts: groups of similar ones, with their size, keywords and most typical texts.

    With --output or --format, one row per text with the number of its cluster, and its distance to the centre.
    """
    records, vectors = call.read_and_embed()
    from embedgate.toolkit import clustering

    values = [record.text for record in records]
    found = clustering.cluster(vectors, values, method=method, k=k, most=most, min_size=min_size, seed=seed)
    keywords = {each.number: ", ".join(each.keywords) for each in found.clusters}
    rows: list[Row] = [
        {
            "id": record.id,
            "cluster": int(label),
            "keywords": keywords.get(int(label), ""),
            "distance": round(float(distance), 6),
            "text": record.text,
        }
        for record, label, distance in zip(records, found.labels, found.distances, strict=True)
    ]
    if call.print_rows(rows):
        results.say(f"{results.count(len(records), 'text')} in {results.count(len(found.clusters), 'cluster')}")
        return
    results.say_result(_summary(found, len(records)) + "\n")
    table = []
    for each in found.clusters:
        first, *others = [results.excerpt(values[position]) for position in each.nearest]
        table.append((str(each.number), f"{each.size:,}", keywords[each.number], first))
        table += [("", "", "", text) for text in others]
    print_table(("cluster", "texts", "keywords", "most typical texts"), table, right=("cluster", "texts"))


def _summary(found: "Clustering", n: int) -> str:
    return "\n".join(_sentences(found, n))


def _sentences(found: "Clustering", n: int) -> Iterator[str]:
    k = len(found.clusters)
    noise = f", and {results.count(found.n_noise, 'text')} in none" if found.method == "hdbscan" else ""
    yield f"{results.count(n, 'text')} in {results.count(k, 'cluster')}{noise}."
    if found.tried:
        scores = ", ".join(f"{tried}: {score:.3f}" for tried, score in found.tried)
        yield f"{k} has the highest mean silhouette of {found.tried[0][0]} to {found.tried[-1][0]} ({scores})."
        if k == found.tried[-1][0] < n - 1:
            yield f"That is the most that was tried; see with --most {min(2 * k, n - 1)} whether more fit better."
    elif found.silhouette is not None:
        yield f"Their mean silhouette is {found.silhouette:.3f}."
    if found.silhouette is not None and found.silhouette < _NO_STRUCTURE:
        yield "That is low: the clusters are hardly apart, and another number of them may serve as well."
    if k == 0:
        yield "No region is dense enough. Try a smaller --min-size, or --method kmeans."
