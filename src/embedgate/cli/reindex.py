"""`embedgate reindex`: a collection moves to another model while the old one serves."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated

import typer

from embedgate.cli import asking, collection, embedder, model_price, options, results, texts
from embedgate.cli.output import print_table
from embedgate.core.errors import ConfigError, GatewayError
from embedgate.core.money import PICODOLLARS_PER_DOLLAR

if TYPE_CHECKING:
    from embedgate.core.vectors import Vectors
    from embedgate.toolkit.collections.collection import Collection
    from embedgate.toolkit.collections.reindexing import Change, Reindexing

_SHOWN = 5
_QUESTION_CHARS = 160
_SHORT_S = 120
_LEAST_DOLLARS = 0.01


def reindex(
    context: typer.Context,
    name: collection.Name,
    to: Annotated[str | None, typer.Option("--to", metavar="MODEL", help="Id of the new model.")] = None,
    dim: embedder.Dim = None,
    truncate: embedder.Truncate = "none",
    questions: Annotated[
        Path | None,
        typer.Option("--questions", metavar="FILE", help="One question per line, to see how much results change."),
    ] = None,
    sample: Annotated[
        int, typer.Option(metavar="N", min=0, help="Texts of the collection to use as questions if none are given.")
    ] = 50,
    is_back: Annotated[bool, typer.Option("--roll-back", help="Let the vectors serve that served before.")] = False,
    is_forgetting: Annotated[bool, typer.Option("--forget", help="Delete the vectors that do not serve.")] = False,
    is_agreed: asking.Yes = False,
    url: embedder.Url = None,
    api_key: embedder.ApiKey = None,
    api_key_file: embedder.ApiKeyFile = None,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Move a collection to another model. The old vectors serve until the new ones are complete, and are kept.

    Says first what it costs and how long it takes; 16 texts are embedded for that. Goes on where it was interrupted.
    """
    if (to is not None) + is_back + is_forgetting != 1:
        raise typer.BadParameter("give --to, --roll-back or --forget", param_hint="--to")
    if is_back or is_forgetting:
        with collection.opened_alone(context, config_file, store, name) as found:
            _look_back(found, is_back=is_back, is_agreed=is_agreed)
        return
    from embedgate.toolkit.collections.reindexing import Reindexing

    asked = _questions(questions)
    wish = embedder.Wish(to, dim, truncate, url, api_key, api_key_file)
    before = _with_old_model(context, config_file, store, name, wish, asked) if asked else None
    with (
        collection.opened_alone(context, config_file, store, name) as found,
        embedder.opened(context, config_file, wish) as source,
    ):
        work = Reindexing(found, source, wanted_dim=dim)
        _announce(
            max(model_price.known_prices(context, config_file, source.model), default=None), work, is_agreed=is_agreed
        )
        _embed(work)
        if before is None:
            changes = work.changes_of_samples(sample)
        else:
            changes = work.changes(asked, before, source.embed(asked, "query"))
        _report(changes, is_sampled=before is None)
        collection.keep_indexed(found, work.new.number)
        work.switch()
        typer.echo(f"{name} is searched with vectors of {work.new} now; those of {work.old.model} are kept")


def _questions(file: Path | None) -> list[str]:
    from embedgate.toolkit.reading import Reading

    return [] if file is None else [record.text for record in texts.read([file], Reading(skip_empty=True))]


def _with_old_model(
    context: typer.Context,
    config_file: Path | None,
    store: str | None,
    name: str,
    wish: embedder.Wish,
    questions: Sequence[str],
) -> "Vectors | None":
    """The questions' vectors by the model that serves; None if it does not answer any more."""
    with collection.opened_alone(context, config_file, store, name) as found:
        old = found.serving
    try:
        with embedder.opened(context, config_file, replace(wish, model=old.model, dim=old.wanted_dim)) as source:
            return source.embed(questions, "query")
    except (GatewayError, ConfigError) as error:
        results.say(f"{old.model} does not answer, so texts of the collection are compared, not questions: {error}")
        return None


def _announce(price: int | None, work: "Reindexing", *, is_agreed: bool) -> None:
    """What it costs and how long it takes, and the question whether it is meant."""
    estimate = work.estimate()
    if price is None:
        cost = "at a price that is not known here"
    else:
        dollars = price * estimate.n_tokens / PICODOLLARS_PER_DOLLAR
        cost = f"for about ${dollars:,.2f}" if dollars >= _LEAST_DOLLARS or price == 0 else "for less than one cent"
        cost = "for nothing" if price == 0 else cost
    takes = "" if estimate.seconds is None else f", in about {_time(estimate.seconds)}"
    results.say(f"from {work.old} to {work.new}")
    what = f"{results.count(estimate.n_texts, 'text')} to embed, some {estimate.n_tokens:,} tokens, {cost}{takes}"
    if estimate.n_texts:
        results.say(what)
        asking.confirm("Go on?", is_agreed=is_agreed)
    else:
        results.say("all texts have vectors of it already")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _SHORT_S else str(timedelta(seconds=round(seconds)))


def _embed(work: "Reindexing") -> None:
    done = total = 0

    with results.progress("embedding", work.estimate(with_trial=False).n_texts) as advance:

        def on_progress(n_done: int, n_all: int) -> None:
            nonlocal done, total
            advance(n_done - done)
            done, total = n_done, n_all

        try:
            work.embed(on_progress=on_progress)
        except GatewayError:
            if done:
                results.say(f"failed after {done:,} of {total:,} texts, which are kept; the same command goes on")
            raise


def _report(changes: "Sequence[Change]", *, is_sampled: bool) -> None:
    """How much the results change."""
    if not changes:
        return
    k = max(change.k for change in changes)
    what = results.count(len(changes), "text of the collection", "texts of the collection") if is_sampled else ""
    what = what or results.count(len(changes), "question")
    same = mean(change.n_same for change in changes)
    first = mean(change.is_first_same for change in changes)
    typer.echo(f"compared by {what}: {same:.1f} of the {k} best are the same, the first in {first:.0%}")
    most = sorted(changes, key=lambda change: change.n_same)[:_SHOWN]
    rows = [(str(change.n_same), results.excerpt(change.question, _QUESTION_CHARS)) for change in most]
    print_table(("same", "changed most"), rows, right=("same",))


def _look_back(found: "Collection", *, is_back: bool, is_agreed: bool) -> None:
    from embedgate.toolkit.collections.reindexing import forget, roll_back

    if is_back:
        typer.echo(f"{found.name} is searched with vectors of {roll_back(found)} again")
        return
    others = [each for each in found.facts.generations if each.number != found.facts.serving]
    if others:
        named = ", ".join(str(each) for each in others)
        asking.confirm(f"Delete the vectors of {named} from {found.name}?", is_agreed=is_agreed)
    typer.echo(f"deleted the vectors of {results.count(forget(found), 'model')}")
