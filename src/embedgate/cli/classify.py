"""`embedgate classify`: texts to labels, by their names, descriptions or examples."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedgate.cli import on_texts, results
from embedgate.cli.output import print_table
from embedgate.core.errors import InvalidInput

if TYPE_CHECKING:
    from embedgate.toolkit.classification import Classification, Label
    from embedgate.toolkit.records import Record
    from embedgate.toolkit.scores import Scores
    from embedgate.toolkit.writing import Row

_MOST_SHOWN = 20
_NEAR_MARGIN = 0.02


@on_texts.with_texts
def classify(
    call: on_texts.Call,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME[=TEXT]", help="A label, and what it means. Give one for each label."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table with the columns `label` and, if it likes, `description`."),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table with examples: the columns `label` and `text`.")
    ] = None,
    truth: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the true labels: prints how well they are met.")
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="COSINE", help="Below it a text has none of these labels. By itself if absent; -1: never."
        ),
    ] = None,
) -> None:
    """Give each text the label that it is most similar to, or none of these.

    With --output or --format, one row per text: its label, score, the margin to the next label, and that one.
    """
    known = _labels(call, label or [], labels, examples)
    records = call.records()
    found, true_labels = _found(call, records, known, truth, min_score)
    rows = [_row(record, found, at, truth) for at, record in enumerate(records)]
    if call.print_rows(rows):
        results.say(f"{results.count(len(records), 'text')}, {results.count(len(known), 'label')}")
        return
    results.say_result(_summary(found, len(records)) + "\n")
    counts = Counter(found.name_of(at) for at in range(len(records)))
    table = [(name, f"{n:,}", _typical(found, records, name)) for name, n in counts.most_common()]
    print_table(("label", "texts", "clearest text"), table, right=("texts",))
    if true_labels is not None:
        _print_scores(true_labels, found, _advice(known, has_examples=examples is not None))
    elif len(records) <= _MOST_SHOWN:
        typer.echo()
        print_table(
            ("id", "label", "score", "margin", "text"),
            [
                (each.id, found.name_of(at), f"{found.scores[at].max():.3f}", f"{found.margins[at]:.3f}",
                 results.excerpt(each.text))
                for at, each in enumerate(records)
            ],
            right=("score", "margin"),
        )  # fmt: skip


def _found(
    call: on_texts.Call,
    records: "Sequence[Record]",
    known: "Sequence[Label]",
    truth: str | None,
    min_score: float | None,
) -> "tuple[Classification, list[str] | None]":
    from embedgate.toolkit import classification

    true_labels = None if truth is None else _true_labels(records, truth, known)
    with call.embedder() as source:
        targets = [text for each in known for text in each.texts]
        of_labels = on_texts.embedded_texts(source, targets, "labels", [f"label {text!r}" for text in targets])
        vectors = on_texts.embedded(source, records)
    return classification.classify(vectors, known, of_labels, min_score=min_score), true_labels


def _labels(call: on_texts.Call, given: Sequence[str], labels: Path | None, examples: Path | None) -> "list[Label]":
    """The labels of the one option that names them."""
    from embedgate.toolkit.classification import by_examples, described
    from embedgate.toolkit.reading import Reading, read_file

    if sum(source is not None and source != [] for source in (given, labels, examples)) != 1:
        raise typer.BadParameter("give labels by --label, --labels or --examples, one of them", param_hint="--label")
    if given:
        pairs = [each.partition("=") for each in given]
        if not all(name.strip() for name, _, _ in pairs):
            raise typer.BadParameter("a label has no name; write NAME=TEXT", param_hint="--label")
        return [described(name.strip(), text.strip() or None) for name, _, text in pairs]
    how = Reading("label" if labels else None, read_as=None, encoding=call.encoding)
    records = read_file(labels or examples or Path(), how)
    if labels is not None:
        return [described(each.text, str(each.metadata.get("description") or "") or None) for each in records]
    missing = next((each for each in records if not each.metadata.get("label")), None)
    if missing is not None:
        raise InvalidInput(f"{missing.origin} has no label in the column 'label'.")
    return by_examples([(str(each.metadata["label"]), each.text) for each in records])


def _true_labels(records: "Sequence[Record]", column: str, known: "Sequence[Label]") -> list[str]:
    """The column of the true labels. Raises InvalidInput for one that is not known, naming its line."""
    from embedgate.toolkit.classification import NONE_OF_THESE

    if column not in records[0].metadata:
        there = ", ".join(records[0].metadata) or "no other column"
        raise InvalidInput(f"There is no column {column!r}, which --truth names; beside the texts there is {there}.")
    names = {label.name for label in known}
    found = []
    for record in records:
        value = str(record.metadata.get(column) or NONE_OF_THESE)
        if value not in names and value not in (NONE_OF_THESE, "other"):
            raise InvalidInput(
                f"{record.origin} has the true label {value!r}, which is none of {', '.join(sorted(names))}. Texts of "
                f"no label have an empty field, {NONE_OF_THESE!r} or 'other'."
            )
        found.append(value if value in names else NONE_OF_THESE)
    return found


def _row(record: "Record", found: "Classification", at: int, truth: str | None) -> "Row":
    order = found.scores[at].argsort()
    row = {
        "id": record.id,
        "label": found.name_of(at),
        "score": round(float(found.scores[at, order[-1]]), 6),
        "margin": round(float(found.margins[at]), 6),
        "next": found.names[order[-2]],
        "text": record.text,
    }
    return row if truth is None else row | {"truth": record.metadata.get(truth)}


def _summary(found: "Classification", n: int) -> str:
    n_near = int((found.margins < _NEAR_MARGIN).sum())
    how = ": three of four scores of labels that lost are below it" if found.is_automatic else ""
    return (
        f"{results.count(n, 'text')}, {results.count(len(found.names), 'label')}. A text whose best score is below "
        f"{found.min_score:.3f} has none of these{how}.\n"
        f"{results.count(n_near, 'text')} with a margin below {_NEAR_MARGIN} to the next label: look at these first."
    )


def _typical(found: "Classification", records: "Sequence[Record]", name: str) -> str:
    """The text of a label with the largest margin; of none, that with the lowest score."""
    members = [at for at in range(len(records)) if found.name_of(at) == name]
    if name in found.names:
        best = max(members, key=lambda at: float(found.margins[at]))
    else:
        best = min(members, key=lambda at: float(found.scores[at].max()))
    return results.excerpt(records[best].text)


def _advice(known: "Sequence[Label]", *, has_examples: bool) -> str:
    """What helps the labels that lose texts to others."""
    if has_examples:
        return "Give these more examples:"
    is_described = any(list(each.texts) != [each.name] for each in known)
    return "Describe these better:" if is_described else "Describe these, since a name alone says little:"


def _print_scores(truth: Sequence[str], found: "Classification", advice: str) -> None:
    """How well true labels are met, and which labels to do what `advice` says for."""
    from embedgate.toolkit import classification, scores

    given = [found.name_of(at) for at in range(len(truth))]
    names = list(found.names)
    if classification.NONE_OF_THESE in {*truth, *given}:
        names.append(classification.NONE_OF_THESE)
    result = scores.score(truth, given, names)
    typer.echo(f"\nAccuracy {result.accuracy:.1%}, macro F1 {result.macro_f1:.3f}.\n")
    print_table(
        ("label", "precision", "recall", "F1", "texts"),
        [(c.name, f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}", f"{c.support:,}") for c in result.classes],
        right=("precision", "recall", "F1", "texts"),
    )
    typer.echo("\nTrue labels in rows, given ones in columns:\n")
    rows = [(name, *map(str, line)) for name, line in zip(names, result.confusion.tolist(), strict=True)]
    print_table(("", *names), rows, right=names)
    _print_advice(result, advice)


def _print_advice(result: "Scores", advice: str) -> None:
    from embedgate.toolkit.classification import NONE_OF_THESE, confusions

    found = confusions(result)
    if not found:
        typer.echo("\nNo label loses a tenth of its texts to another one.")
        return
    typer.echo(f"\n{advice}")
    for each in found:
        where = "have none" if each.given == NONE_OF_THESE else f"went to {each.given}"
        typer.echo(f"  {each.truth}: {each.n} of its {each.of} texts {where}")
