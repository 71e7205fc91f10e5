"""`embedgate usage`: what was used and what it cost, from the ledger, and a provider's bill beside it."""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from embedgate.cli import asking, moments, options
from embedgate.cli.access import every, items_of
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Shown, Table, count, print_json_list, print_pieces, print_shown
from embedgate.core.money import PICODOLLARS_PER_DOLLAR, usd_text
from embedgate.govern import entries, reconcile, settle, usage
from embedgate.govern.csv_file import csv_lines
from embedgate.govern.entries import Entry, EntryQuery
from embedgate.govern.lists import MAX_PAGE_ITEMS, Listed
from embedgate.govern.operation import no_file
from embedgate.govern.reconcile import Bill, Comparison, Difference
from embedgate.govern.settle import Settlement
from embedgate.govern.usage import UsageQuery, UsageSum
from embedgate.govern.values import milliseconds, moment_or_none

Since = Annotated[
    int | None,
    typer.Option(
        "--since", metavar="WHEN", parser=moments.past_ms, help="From then on: 7d ago, or a date or time in UTC."
    ),
]
Until = Annotated[
    int | None,
    typer.Option("--until", metavar="WHEN", parser=moments.past_ms, help="Before then, in the same forms."),
]
User = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this user, by name or id.")]
Project = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this project, by name or id.")]
Key = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this key, by name or id.")]
Model = Annotated[str | None, typer.Option(metavar="ID", help="Only of this model.")]
Provider = Annotated[str | None, typer.Option(metavar="NAME", help="Only at this provider.")]

_ESTIMATED = "estimated $"
_SUMS = ("requests", "inputs", "tokens", "reused", "output", "$", _ESTIMATED, "errors")
_ENTRY_FACTS = ("at", "request", "key", "model", "provider", "action")
_ENTRY_COUNTS = ("inputs", "tokens", "reused", "output", "$", _ESTIMATED)
_COMPARED = ("ledger tokens", "billed tokens", "difference", "ledger $", "billed $", "difference $")
_LEAST = ("reused", "output", "inputs", "request", "action", "ms", "key", "provider")
_COMPARED_LEAST = ("ledger $", "billed $")
_DEFAULT_ENTRIES = 50

commands = Commands("Sum up what was used and what it cost.")
app = commands.app


@commands.written_itself
def show_usage(
    session: Session,
    by: Annotated[
        str,
        typer.Option(
            metavar="DIMENSIONS",
            help=f"One or several of {', '.join(usage.DIMENSIONS)}, with commas between them.",
        ),
    ] = "",
    since_ms: Since = None,
    until_ms: Until = None,
    user: User = None,
    project: Project = None,
    key: Key = None,
    model: Model = None,
    provider: Provider = None,
    as_csv: options.AsCsv = False,
) -> None:
    """Add up requests, tokens and dollars from the ledger, by any of several dimensions.

    Reused tokens are those that came from the cache or from another request's call, output tokens those that a chat
    model wrote. Estimated dollars are those that no provider has confirmed. Errors are requests that did not end well.
    CSV and JSON have ids where the table has names.
    """
    _check_one_form(session, as_csv=as_csv)
    dimensions = [name.strip() for name in by.split(",") if name.strip()]
    query = UsageQuery(
        by=",".join(dimensions),
        since=moment_or_none(since_ms),
        until=moment_or_none(until_ms),
        user=user,
        project=project,
        key=key,
        model=model,
        provider=provider,
        format="csv" if as_csv else "json",
    )
    if as_csv:
        session.print_file(usage.show_usage, query)
    else:
        listed = every(lambda page: no_file(session.call(usage.show_usage, page)), query)
        session.show(listed, lambda: _report(dimensions, listed.items))


@commands.written("entries")
def show_entries(
    session: Session,
    since_ms: Since = None,
    until_ms: Until = None,
    user: User = None,
    project: Project = None,
    key: Key = None,
    model: Model = None,
    provider: Provider = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MAX_PAGE_ITEMS, help=f"Rows of the table; {_DEFAULT_ENTRIES} if absent."),
    ] = None,
    search: options.Search = "",
    as_csv: options.AsCsv = False,
) -> None:
    """Show the newest entries of the ledger. CSV and JSON have all entries, the oldest first, and every field."""
    _check_one_form(session, as_csv=as_csv)
    is_whole = as_csv or session.as_json
    if is_whole and (limit is not None or search):
        raise typer.BadParameter("--limit and --search are for the table; CSV and JSON have every entry")
    query = EntryQuery(
        limit=limit or _DEFAULT_ENTRIES,
        search=search,
        sort="at" if is_whole else "",
        since=moment_or_none(since_ms),
        until=moment_or_none(until_ms),
        user=user,
        project=project,
        key=key,
        model=model,
        provider=provider,
        format="csv" if as_csv else "json",
    )
    if as_csv:
        session.print_file(entries.list_entries, query)
        return

    def read(page: EntryQuery) -> Listed[Entry]:
        return no_file(session.call(entries.list_entries, page))

    if is_whole:
        every_entry = items_of(read, query)
        print_json_list(every_entry)
        return
    listed = read(query)
    hidden = f"{len(listed.items):,} of {listed.total:,} entries; --limit shows more, --csv all"
    session.show(
        listed,
        lambda: _table(
            (*_ENTRY_FACTS, *_ENTRY_COUNTS, "outcome", "ms"),
            [_entry_row(entry) for entry in listed.items],
            right=(*_ENTRY_COUNTS, "ms"),
            after=hidden if listed.total > len(listed.items) else "",
        ),
    )


@commands.written("reconcile")
def reconcile_bill(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The bill, CSV or JSON; - reads standard input.")],
    provider: Annotated[str, typer.Option(metavar="NAME", help="Whose bill it is.")],
    first: Annotated[
        Any, typer.Option(metavar="DAY", parser=moments.day, help="First UTC day; that of the bill if absent.")
    ] = None,
    last: Annotated[
        Any, typer.Option(metavar="DAY", parser=moments.day, help="Last UTC day; that of the bill if absent.")
    ] = None,
    bill_format: Annotated[
        Literal["csv", "json"] | None, typer.Option("--format", help="If absent: as FILE ends, else csv.")
    ] = None,
    is_settling: Annotated[
        bool,
        typer.Option(
            "--settle", help="Give back what was charged by estimate and was not billed; shows first what that is."
        ),
    ] = False,
    is_agreed: asking.Yes = False,
    as_csv: options.AsCsv = False,
) -> None:
    """Compare a provider's bill with the ledger, by day and model. Changes nothing without --settle.

    The bill is an export of OpenAI, Azure, Google, Cohere or Voyage as it is, or has the columns date, model (as the
    provider calls it), and tokens or cost_usd or both, cut by commas, semicolons or tabs. A difference is
    what was billed beyond the ledger. Settling takes off the estimates what the ledger has beyond the bill, of the days
    and models that the bill names; a line of 0 tokens says that nothing was billed.
    """
    _check_one_form(session, as_csv=as_csv)
    bill = asking.read_text(file)
    format_of_bill = bill_format or ("json" if file.suffix.lower() == ".json" else "csv")
    if is_settling:
        _settle(session, Bill(provider, bill, format_of_bill, first, last), is_agreed=is_agreed)
        return
    found = session.call(reconcile.reconcile, Bill(provider, bill, format_of_bill, first, last))
    if as_csv:
        print_pieces(_comparison_file(found))
    else:
        session.show(found, lambda: _comparison(found))


def _settle(session: Session, bill: Bill, *, is_agreed: bool) -> None:
    """Show what a bill would settle, and settle it if that is meant."""
    if not is_agreed:
        planned = session.call(settle.preview_settlement, bill)
        if not session.as_json:  # then what is printed is the result alone
            print_shown(_planned(planned))
        if planned.total.requests:
            question = (
                f"Settle {planned.total.requests:,} requests, and give back {planned.total.returned_usd} dollars?"
            )
            asking.confirm(question, is_agreed=False)
    settled = session.call(settle.settle, bill)
    session.show(
        settled,
        lambda: (
            f"{settled.requests} requests settled: of {settled.estimated_usd} dollars charged by estimate, "
            f"{settled.returned_usd} were not billed and no longer count."
            + (
                f" {settled.kept_requests} others keep their estimates of {settled.kept_usd} dollars, because the bill "
                "does not name their day and model; a line of 0 tokens would say that nothing was billed."
                if settled.kept_requests
                else ""
            )
        ),
    )


def _planned(planned: Settlement) -> Shown:
    """What would become of each estimate, as a table."""
    columns = ("day", "model", "requests", "estimated $", "given back $")
    rows = [
        (
            place.day.isoformat(),
            place.model,
            count(place.requests),
            place.estimated_usd,
            place.returned_usd if place.is_on_bill else "(not on the bill)",
        )
        for place in planned.places
    ]
    after = ""
    if planned.unknown_models:
        names = ", ".join(planned.unknown_models[:10])
        after = (
            f"On the bill, and not in the ledger of these days: {names}. Is it the provider's own name of the model?"
        )
    if not rows:
        return f"Nothing is charged by estimate in these days. {after}".rstrip()
    return Table(columns, rows, right=columns[2:], after=after)


def _check_one_form(session: Session, *, as_csv: bool) -> None:
    if as_csv and session.as_json:
        raise typer.BadParameter("give --csv or --json, not both", param_hint="--csv")


def _report(dimensions: Sequence[str], sums: Sequence[UsageSum]) -> Table:
    rows = sorted((*_labels(each), *_cells([each])) for each in sums)
    if len(sums) > 1:
        rows.append(("total", *[""] * (len(dimensions) - 1), *_cells(sums)))
    return _table((*dimensions, *_SUMS), rows, right=_SUMS)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str], after: str = "") -> Table:
    """A table of costs, without the column of what is estimated where nothing is."""
    place = columns.index(_ESTIMATED)
    if not any(Decimal(row[place]) for row in rows):
        columns = (*columns[:place], *columns[place + 1 :])
        rows = [(*row[:place], *row[place + 1 :]) for row in rows]
    return Table(columns, rows, right=right, after=after, least=_LEAST)


def _labels(each: UsageSum) -> Iterator[str]:
    """What the group is called: names instead of ids; an id is kept where its name is gone."""
    for dimension, label in each.group.items():
        yield each.names.get(dimension) or label or "(none)"


def _cells(sums: Sequence[UsageSum]) -> tuple[str, ...]:
    """The sums, added up."""
    return (
        count(sum(each.requests for each in sums)),
        count(sum(each.items for each in sums)),
        count(sum(each.tokens for each in sums)),
        count(sum(each.reused_tokens for each in sums)),
        count(sum(each.output_tokens for each in sums)),
        _total_usd(each.cost_usd for each in sums),
        _total_usd(each.estimated_usd for each in sums),
        count(sum(each.errors for each in sums)),
    )


def _total_usd(amounts: Iterable[str]) -> str:
    return usd_text(sum(int(Decimal(amount) * PICODOLLARS_PER_DOLLAR) for amount in amounts))


def _entry_row(entry: Entry) -> tuple[str, ...]:
    return (
        moments.exact(milliseconds(entry.at)),
        entry.request_id,
        entry.key_id,
        entry.model,
        entry.provider,
        entry.action,
        count(entry.items),
        count(entry.tokens),
        count(entry.reused_tokens),
        count(entry.output_tokens),
        entry.cost_usd,
        entry.estimated_usd,
        entry.outcome,
        f"{entry.total_ms:.0f}",
    )


def _comparison(found: Comparison) -> Table:
    rows = [(row.day.isoformat(), row.model, *_difference(row.difference)) for row in found.rows]
    rows.append(("total", "", *_difference(found.total)))
    return Table(
        ("day", "model", *_COMPARED), rows, right=_COMPARED, least=_COMPARED_LEAST, after=" ".join(_read_as(found))
    )


def _read_as(found: Comparison) -> Iterator[str]:
    """What the bill was taken for, and what of it was not read."""
    if found.read_as:
        yield f"Read as: {found.read_as}."
    if found.not_read:
        yield f"Columns that were not read: {', '.join(found.not_read)}."
    if found.passed_over:
        yield f"Rows of other services, and sums, that were passed over: {found.passed_over}."


def _difference(difference: Difference) -> tuple[str, ...]:
    return (
        count(difference.ledger_tokens),
        count(difference.billed_tokens),
        count(difference.token_difference),
        difference.ledger_cost_usd,
        difference.billed_cost_usd or "",
        difference.cost_difference_usd or "",
    )


def _comparison_file(found: Comparison) -> Iterator[bytes]:
    """A comparison as CSV, without its total. A cell is empty where the bill does not say."""
    names = Difference.__struct_fields__
    rows = ((row.day, row.model, *(_number(getattr(row.difference, name)) for name in names)) for row in found.rows)
    return csv_lines(("day", "model", *names), rows)


def _number(value: int | str | None) -> int | Decimal | None:
    return Decimal(value) if isinstance(value, str) else value
