"""`embedgate evaluate`: models, sizes and encodings against each other, on one's own questions, labels or texts."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedgate.cli import model_price, on_texts, results
from embedgate.cli.output import print_table
from embedgate.core.errors import InvalidInput
from embedgate.core.money import PICODOLLARS_PER_DOLLAR

if TYPE_CHECKING:
    from embedgate.core.ports import Embedder
    from embedgate.toolkit.evaluation import Encoding, Evaluation, Setting, Source
    from embedgate.toolkit.records import Record
    from embedgate.toolkit.writing import Row

_A_MILLION = 1_000_000
_TIMED, _TIMED_CHARS = 5, 200


@on_texts.with_texts
def evaluate(
    call: on_texts.Call,
    question: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of questions, each beside its right text; `question` if there."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of labels: texts of one belong together.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", metavar="ID", help="A further model. May be given more than once.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(metavar="N,N...", help="Numbers of dimensions; a half and a quarter if absent.")
    ] = None,
    stored_as: Annotated[
        str, typer.Option("--store-as", metavar="NAME,NAME...", help="How vectors are stored.")
    ] = "float32,int8,binary",
    chart: Annotated[Path | None, typer.Option(metavar="FILE", help="Picture of quality over size: .png.")] = None,
    seed: on_texts.Seed = 0,
) -> None:
    """Measure models, numbers of dimensions and encodings against each other, and say which is good enough.

    On pairs of question and right text, else on labels, else on nothing but the texts: how many of the neighbours at
    full size stay. With --output or --format, one row per setting.
    """
    dims = None if sizes is None else _sizes(sizes)
    encodings = _encodings(stored_as)
    if chart is not None and chart.suffix.lower() != ".png":
        raise InvalidInput(f"{chart}: the picture is written to .png. Rename it.")
    results.check_place(chart)
    records = call.records()
    asked = None if labels else _questions(records, question)
    texts, relevant = _texts(records, asked)
    from embedgate.toolkit import evaluation, verdicts

    found = evaluation.evaluate(
        [_source(call, model, texts, asked) for model in (call.wish.model, *(against or []))],
        relevant=relevant,
        labels=_labels(records, labels) if labels else None,
        dims=dims,
        encodings=encodings,
        seed=seed,
    )
    if chart is not None:
        with results.written(chart) as write:
            write(verdicts.curve_png(found))
    rows = [_row(each) for each in found.settings]
    if call.print_rows(rows):
        for sentence in verdicts.conclusions(found):
            results.say(sentence)
        return
    _print(found)


def _print(found: "Evaluation") -> None:
    """How good the settings of each model are and what they take, 80 characters wide at most; then what follows."""
    from embedgate.toolkit import verdicts

    results.say_result(_counted(found))
    for model in dict.fromkeys(each.model for each in found.settings):
        settings = [each for each in found.settings if each.model == model]
        typer.echo(f"\n{_heading(settings[0])}\n")
        columns = ("stored as", *_headers(found), "95 %", "against full")
        print_table(columns, [_quality(each, found) for each in settings], right=columns[1:-1])
        typer.echo()
        costs = ("stored as", "MB for a million", "of full", "search of a million")
        print_table(costs, [_cost(each) for each in settings], right=costs[1:])
    typer.echo()
    for sentence in verdicts.conclusions(found):
        results.say_result(sentence)


def _heading(each: "Setting") -> str:
    """A model, its price, and how long it takes for one text."""
    price = each.dollars_per_million
    cost = "price not known" if price is None else f"${price:g} per million tokens" if price else "costs nothing"
    takes = "" if each.ms_per_text is None else f", {each.ms_per_text:.1f} ms to embed a text"
    return f"{each.model}: {cost}{takes}"


def _headers(found: "Evaluation") -> list[str]:
    """The measures, in two lines where that makes narrow columns: `recall@1`, and below the others just `@5`."""
    first, *others = found.measures
    return [
        first.replace("@", "\n@"),
        *(name if "@" not in name else name[name.index("@") :] for name in others[:-2]),
        others[-2],
        others[-1].replace("@", "\n@"),
    ]


def _sizes(given: str) -> list[int]:
    try:
        return [int(part) for part in given.split(",")]
    except ValueError as error:
        raise typer.BadParameter("give whole numbers with commas, such as 512,256", param_hint="--sizes") from error


def _encodings(given: str) -> "list[Encoding]":
    known: dict[str, Encoding] = {"float32": "float32", "int8": "int8", "binary": "binary"}
    found = [known.get(part.strip()) for part in given.split(",")]
    if None in found:
        raise typer.BadParameter(f"give some of {', '.join(known)}, with commas", param_hint="--store-as")
    return [encoding for encoding in found if encoding is not None]


def _questions(records: "Sequence[Record]", column: str | None) -> list[str] | None:
    """The question of each record, None if there are none."""
    name = column or "question"
    if all(name not in record.metadata for record in records):
        if column is None:
            return None
        there = ", ".join(records[0].metadata) or "none"
        raise InvalidInput(f"There is no column {column!r}, which --question names; beside the texts: {there}.")
    found = []
    for record in records:
        value = record.metadata.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InvalidInput(f"{record.origin} has no question in the column {name!r}.")
        found.append(value)
    return found


def _texts(records: "Sequence[Record]", asked: list[str] | None) -> "tuple[list[Record], list[list[int]] | None]":
    """The texts, and the right ones of each question. Equal texts are one; a question that occurs twice has both."""
    if asked is None:
        return list(records), None
    first: dict[str, int] = {}
    texts: list[Record] = []
    right: dict[str, list[int]] = {}
    for record, question in zip(records, asked, strict=True):
        if record.text not in first:
            first[record.text] = len(texts)
            texts.append(record)
        right.setdefault(question, []).append(first[record.text])
    asked[:] = right
    return texts, list(right.values())


def _labels(records: "Sequence[Record]", column: str) -> list[str | None]:
    """The label of each text; None for an empty field. Raises InvalidInput for a column that is not there."""
    if all(column not in record.metadata for record in records):
        there = ", ".join(records[0].metadata) or "none"
        raise InvalidInput(f"There is no column {column!r}, which --labels names; beside the texts: {there}.")
    values = [record.metadata.get(column) for record in records]
    return [None if value is None or value == "" else str(value) for value in values]


def _source(call: on_texts.Call, model: str | None, texts: "Sequence[Record]", asked: list[str] | None) -> "Source":
    """Embed everything with one model, and measure how long it takes for one text."""
    from embedgate.toolkit.evaluation import Source

    wanted = replace(call, wish=replace(call.wish, model=model))
    with wanted.embedder() as embedder:
        vectors = on_texts.embedded(embedder, texts, "texts", None if asked is None else "document")
        questions = None
        if asked is not None:
            origins = [f"question {text!r}" for text in asked]
            questions = on_texts.embedded_texts(embedder, asked, "questions", origins, "query")
        prices = model_price.known_prices(call.context, call.config_file, embedder.model)
        dollars = prices[0] * _A_MILLION / PICODOLLARS_PER_DOLLAR if prices else None
        return Source(embedder.model, vectors, questions, _ms_per_text(embedder, asked or texts), dollars)


def _ms_per_text(embedder: "Embedder", texts: "Sequence[str | Record]") -> float:
    """Milliseconds to embed one text by itself, as a question is: the median of five that no cache has."""
    found = []
    for each in texts[:_TIMED]:
        text = each if isinstance(each, str) else each.text
        start_s = time.perf_counter()
        embedder.embed([f"{text[:_TIMED_CHARS]} {secrets.token_hex(4)}"], "query")
        found.append((time.perf_counter() - start_s) * 1_000)
    return median(found)


def _counted(found: "Evaluation") -> str:
    texts = results.count(found.n_texts, "text")
    return {
        "pairs": f"{results.count(found.n_questions, 'question')}, each asked of {texts}.",
        "labels": f"{results.count(found.n_questions, 'text')} of {found.n_texts:,} ask for those of their label.",
        "neighbours": f"{texts} ask for the neighbours that they have at full size.",
    }[found.kind]


def _quality(each: "Setting", found: "Evaluation") -> tuple[str, ...]:
    low, high = each.intervals[found.measures[-1]]
    verdict = {"too few to tell": "too few"}.get(each.verdict, each.verdict)
    return (_stored(each), *(f"{each.means[name]:.3f}" for name in found.measures), f"{low:.3f}-{high:.3f}", verdict)


def _cost(each: "Setting") -> tuple[str, ...]:
    megabytes = f"{each.bytes_per_million / 1_000_000:,.0f}"
    return (_stored(each), megabytes, f"{each.size:.0%}", f"{each.ms_per_search:.0f} ms")


def _stored(each: "Setting") -> str:
    return f"{each.dim} {each.encoding}"


def _row(each: "Setting") -> "Row":
    found: dict[str, Any] = {
        "model": each.model,
        "dimensions": each.dim,
        "encoding": each.encoding,
        "bytes_per_million_vectors": each.bytes_per_million,
        "dollars_per_million_tokens": each.dollars_per_million,
        "ms_per_text": each.ms_per_text,
        "ms_per_search_of_a_million": each.ms_per_search,
    }
    for name, mean in each.means.items():
        low, high = each.intervals[name]
        found |= {name: mean, f"{name} low": low, f"{name} high": high}
    low, high = each.difference_interval
    return found | {
        "difference": each.difference,
        "difference low": low,
        "difference high": high,
        "verdict": each.verdict,
    }
