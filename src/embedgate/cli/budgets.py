"""`embedgate budgets`: how much money a key, a user or a project may spend, and how much of it is spent."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedgate.cli import asking, options, subjects
from embedgate.cli.output import print_json, print_table
from embedgate.core.access import EVERY
from embedgate.core.clock import utc_now
from embedgate.core.money import usd_text

if TYPE_CHECKING:
    from embedgate.administration import Administration
    from embedgate.core.access import BudgetRule, Period

app = typer.Typer(no_args_is_help=True, help="Set and take away budgets, and see what is spent of them.")

PeriodName = Annotated[
    Literal["day", "month", "total"], typer.Option(help="A UTC day, a UTC month, or all time.", show_default=False)
]
_COLUMNS = ("for", "period", "cap", "spent", "left")


@app.command("list")
def list_budgets(
    context: typer.Context, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """List budgets, and what the ledger says is spent in the current period, in dollars."""
    with options.administration(context, config_file) as opened:
        rules = opened.budgets.list()
        names = subjects.names(opened, [rule.subject for rule in rules])
        spent = [_spent(opened, rule) for rule in rules]
    if as_json:
        print_json([_as_json(rule, amount) for rule, amount in zip(rules, spent, strict=True)])
        return
    rows = [_row(names[rule.subject], rule, amount) for rule, amount in zip(rules, spent, strict=True)]
    print_table(_COLUMNS, rows, right=_COLUMNS[2:])


@app.command("set")
def set_budget(
    context: typer.Context,
    cap_usd: Annotated[str, typer.Argument(metavar="DOLLARS", help="The most that may be spent, such as 12.50.")],
    period: PeriodName,
    user: subjects.User = None,
    project: subjects.Project = None,
    key: subjects.Key = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Set a budget, instead of the one that the subject has for that period."""
    subject = subjects.named(user, project, key)
    with options.administration(context, config_file) as opened:
        rule = opened.budgets.set(*subject, period, cap_usd)
        spent = _spent(opened, rule)
        names = subjects.names(opened, [rule.subject])
    if as_json:
        print_json(_as_json(rule, spent))
    else:
        print_table(_COLUMNS, [_row(names[rule.subject], rule, spent)], right=_COLUMNS[2:])


@app.command("delete")
def delete_budget(
    context: typer.Context,
    period: PeriodName,
    user: subjects.User = None,
    project: subjects.Project = None,
    key: subjects.Key = None,
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Take away a budget of a subject."""
    subject = subjects.named(user, project, key)
    asking.confirm(f"Take away the {period} budget of {subject.kind} {subject.name}?", is_agreed=is_agreed)
    with options.administration(context, config_file) as opened:
        deleted = opened.budgets.delete(*subject, period)
    if as_json:
        print_json(_as_json(deleted, None))
    else:
        typer.echo(f"the {period} budget of {subject.kind} {subject.name} is taken away")


def _spent(opened: "Administration", rule: "BudgetRule") -> int | None:
    """Picodollars in the current period; None where each subject has a sum of its own."""
    if rule.subject.id == EVERY:
        return None
    return opened.budgets.spent(rule.subject, _start_ms(rule.period))


def _start_ms(period: "Period") -> int:
    if period == "total":
        return 0
    day = utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
    return int((day if period == "day" else day.replace(day=1)).timestamp()) * 1000


def _row(name: str, rule: "BudgetRule", spent: int | None) -> tuple[str, ...]:
    cap = rule.cap_picodollars
    if spent is None:
        return name, rule.period, usd_text(cap), "", ""
    return name, rule.period, usd_text(cap), usd_text(spent), usd_text(max(0, cap - spent))


def _as_json(rule: "BudgetRule", spent: int | None) -> dict[str, Any]:
    return {
        "subject": rule.subject,
        "period": rule.period,
        "cap_usd": usd_text(rule.cap_picodollars),
        "spent_usd": None if spent is None else usd_text(spent),
    }
