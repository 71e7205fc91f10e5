"""`embedgate usage`: what was used and what it cost, from the ledger, and a provider's bill beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from embedgate.cli import asking, moments, options
from embedgate.cli.output import count, print_pieces, print_table
from embedgate.core.money import usd_text
from embedgate.core.pages import MAX_PAGE_ITEMS, PageQuery

if TYPE_CHECKING:
    from embedgate.administration import UsageFilter, UsageReport
    from embedgate.core.types import LedgerEntry
    from embedgate.storage.reconcile import Compared
    from embedgate.storage.reports import UsageRow

app = typer.Typer()

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
Key = Annotated[str | None, typer.Option(metavar="ID", help="Only of this key (key_...).")]
Model = Annotated[str | None, typer.Option(metavar="ID", help="Only of this model.")]
Provider = Annotated[str | None, typer.Option(metavar="NAME", help="Only at this provider.")]

_SUMS = ("requests", "inputs", "tokens", "reused", "output", "$", "errors")
_ENTRY_FACTS = ("at", "request", "key", "model", "provider", "action")
_ENTRY_COUNTS = ("inputs", "tokens", "reused", "output", "$")
_COMPARED = ("ledger tokens", "billed tokens", "difference", "ledger $", "billed $", "difference $")
_NAMED = ("user", "project", "key")
_DEFAULT_ENTRIES = 50


@app.callback(invoke_without_command=True)
def show_usage(
    context: typer.Context,
    by: Annotated[
        str,
        typer.Option(
            metavar="DIMENSIONS",
            help="One or several of day, week, month, model, upstream_model, provider, user, project, key and "
            "action, with commas between them.",
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
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Add up requests, tokens and dollars from the ledger, by any of several dimensions.

    Reused tokens are those that came from the cache or from another request's call, output tokens those that a chat
    model wrote. Errors are requests that did not end well. CSV and JSON have ids where the table has names.
    """
    if context.invoked_subcommand is not None:
        _refuse_options_in_front(context)
        context.obj = config_file or context.obj
        return
    dimensions = [name.strip() for name in by.split(",") if name.strip()]
    form = _form(as_csv=as_csv, as_json=as_json)
    with options.administration(context, config_file) as opened:
        filter_by = _filter(since_ms, until_ms, user, project, key, model, provider)
        if form is not None:
            print_pieces(opened.usage.export(form, dimensions, filter_by))
            return
        report = opened.usage.report(dimensions, filter_by)
    _print_report(report)


@app.command("entries")
def show_entries(
    context: typer.Context,
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
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Show the newest entries of the ledger. CSV and JSON have all entries, the oldest first, and every field."""
    form = _form(as_csv=as_csv, as_json=as_json)
    if form is not None and (limit is not None or search):
        raise typer.BadParameter("--limit and --search are for the table; CSV and JSON have every entry")
    with options.administration(context, config_file) as opened:
        filter_by = _filter(since_ms, until_ms, user, project, key, model, provider)
        if form is not None:
            print_pieces(opened.usage.export_entries(form, filter_by))
            return
        page = opened.usage.entries(filter_by, PageQuery(limit=limit or _DEFAULT_ENTRIES, search=search))
    rows = [_entry_row(entry) for entry in page.items]
    print_table((*_ENTRY_FACTS, *_ENTRY_COUNTS, "outcome", "ms"), rows, right=(*_ENTRY_COUNTS, "ms"))
    if page.total > len(page.items):
        typer.echo(f"\n{len(page.items):,} of {page.total:,} entries; --limit shows more, --csv all")


@app.command("reconcile")
def reconcile_bill(
    context: typer.Context,
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
    as_csv: options.AsCsv = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Compare a provider's bill with the ledger, day by day and model by model. Changes nothing.

    The bill has the columns date, model (as the provider calls it), and tokens or cost_usd or both. A difference is
    what was billed beyond the ledger.
    """
    form = _form(as_csv=as_csv, as_json=as_json)
    bill = asking.read_text(file)
    format_of_bill = bill_format or ("json" if file.suffix.lower() == ".json" else "csv")
    with options.administration(context, config_file) as opened:
        found = opened.usage.reconcile(provider, bill, format_of_bill, first=first, last=last)
        if form is not None:
            print_pieces(opened.usage.export_reconciliation(form, found))
            return
    rows = [(row.day, row.model, *_compared_cells(row.compared)) for row in found.rows]
    rows.append(("total", "", *_compared_cells(found.total)))
    print_table(("day", "model", *_COMPARED), rows, right=_COMPARED)


def _refuse_options_in_front(context: typer.Context) -> None:
    """Options of the report that stand before the name of another command would do nothing."""
    group = context.command
    given = [
        parameter
        for parameter in (group.params if isinstance(group, TyperGroup) else ())
        if parameter.name != "config_file"
        and context.params.get(parameter.name or "") != parameter.get_default(context)
    ]
    if given:
        option = given[0].opts[0]
        raise typer.BadParameter(f"put it behind `{context.invoked_subcommand}`", param_hint=option)


def _form(*, as_csv: bool, as_json: bool) -> Literal["csv", "json"] | None:
    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both", param_hint="--csv")
    return "csv" if as_csv else "json" if as_json else None


def _filter(
    since_ms: int | None,
    until_ms: int | None,
    user: str | None,
    project: str | None,
    key: str | None,
    model: str | None,
    provider: str | None,
) -> "UsageFilter":
    from embedgate.administration import UsageFilter

    return UsageFilter(since_ms, until_ms, user=user, project=project, key=key, model=model, provider=provider)


def _print_report(report: "UsageReport") -> None:
    rows = sorted((*_labels(report, row), *_sums(row)) for row in report.rows)
    if len(report.rows) > 1:
        rows.append(("total", *[""] * (len(report.by) - 1), *_sums(_total(report))))
    print_table((*report.by, *_SUMS), rows, right=_SUMS)


def _labels(report: "UsageReport", row: "UsageRow") -> list[str]:
    """What the group is called: names instead of ids; an id is kept where its name is gone."""
    return [
        (label or "(none)") if dimension not in _NAMED else report.names.get(label or "", label or "(none)")
        for dimension, label in zip(report.by, row.group, strict=True)
    ]


def _sums(row: "UsageRow") -> tuple[str, ...]:
    counts = (row.requests, row.items, row.tokens, row.reused_tokens, row.output_tokens)
    return (*map(count, counts), usd_text(row.cost_picodollars), count(row.errors))


def _total(report: "UsageReport") -> "UsageRow":
    from embedgate.storage.reports import UsageRow

    return UsageRow(
        (),
        requests=sum(row.requests for row in report.rows),
        items=sum(row.items for row in report.rows),
        tokens=sum(row.tokens for row in report.rows),
        reused_tokens=sum(row.reused_tokens for row in report.rows),
        cost_picodollars=sum(row.cost_picodollars for row in report.rows),
        errors=sum(row.errors for row in report.rows),
        output_tokens=sum(row.output_tokens for row in report.rows),
    )


def _entry_row(entry: "LedgerEntry") -> tuple[str, ...]:
    return (
        moments.exact(entry.at_ms),
        entry.request_id,
        entry.key_id,
        entry.model,
        entry.provider,
        entry.action,
        count(entry.items),
        count(entry.tokens),
        count(entry.reused_tokens),
        count(entry.output_tokens),
        usd_text(entry.cost_picodollars),
        entry.outcome,
        f"{entry.total_ms:.0f}",
    )


def _compared_cells(compared: "Compared") -> tuple[str, ...]:
    return (
        count(compared.ledger_tokens),
        count(compared.billed_tokens),
        count(compared.token_difference),
        usd_text(compared.ledger_picodollars),
        _usd(compared.billed_picodollars),
        _usd(compared.difference_picodollars),
    )


def _usd(amount_picodollars: int | None) -> str:
    return "" if amount_picodollars is None else usd_text(amount_picodollars)
