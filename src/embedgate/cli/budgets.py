"""`embedgate budgets`: how much money a key, a user or a project may spend, and how much of it is spent."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Literal

import typer

from embedgate.cli import asking, subjects
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Table
from embedgate.core.access import Subject
from embedgate.core.money import PICODOLLARS_PER_DOLLAR, usd_text
from embedgate.govern import budgets
from embedgate.govern.budgets import BudgetQuery, BudgetStanding, NewBudget, WhichBudget

commands = Commands("Set and take away budgets, and see what is spent of them.")
app = commands.app

PeriodName = Annotated[
    Literal["day", "month", "total"], typer.Option(help="A UTC day, a UTC month, or all time.", show_default=False)
]
_COLUMNS = ("for", "period", "cap", "spent", "left")


@commands.written("list")
def list_budgets(session: Session) -> None:
    """List budgets, and what is spent in the current period, in dollars."""
    listed = session.every(budgets.list_budgets, BudgetQuery())
    session.show(listed, lambda: _table(session, listed.items))


@commands.written("set")
def set_budget(
    session: Session,
    cap_usd: Annotated[str, typer.Argument(metavar="DOLLARS", help="The most that may be spent, such as 12.50.")],
    period: PeriodName,
    user: subjects.User = None,
    project: subjects.Project = None,
    key: subjects.Key = None,
) -> None:
    """Set a budget of a subject. It replaces the one for the same period."""
    named = subjects.named(user, project, key)
    budget = session.call(budgets.set_budget, NewBudget(named.kind, named.name, period, cap_usd))
    subject = Subject(budget.kind, budget.subject)
    session.show(budget, lambda: _table(session, _standings(session, subject, period)))


@commands.written("delete")
def delete_budget(
    session: Session,
    period: PeriodName,
    user: subjects.User = None,
    project: subjects.Project = None,
    key: subjects.Key = None,
    is_agreed: asking.Yes = False,
) -> None:
    """Delete a budget of a subject."""
    named = subjects.named(user, project, key)
    asking.confirm(f"Take away the {period} budget of {named.kind} {named.name}?", is_agreed=is_agreed)
    subject = subjects.find(session, named)
    deleted = _standings(session, subject, period)
    session.call(budgets.delete_budget, WhichBudget(subject.kind, subject.id, period))
    session.show(next(iter(deleted), None), lambda: f"the {period} budget of {named.kind} {named.name} is taken away")


def _standings(session: Session, subject: Subject, period: str) -> list[BudgetStanding]:
    """The budget of a subject, if there is one."""
    listed = session.every(budgets.list_budgets, BudgetQuery())
    return [each for each in listed.items if (Subject(each.kind, each.subject), each.period) == (subject, period)]


def _table(session: Session, found: Sequence[BudgetStanding]) -> Table:
    names = subjects.names(session, [Subject(budget.kind, budget.subject) for budget in found])
    rows = [
        (
            names[Subject(budget.kind, budget.subject)],
            budget.period,
            budget.cap_usd,
            budget.spent_usd or "",
            _left(budget),
        )
        for budget in found
    ]
    return Table(_COLUMNS, rows, right=_COLUMNS[2:])


def _left(budget: BudgetStanding) -> str:
    if budget.spent_usd is None:
        return ""
    left = max(Decimal(0), Decimal(budget.cap_usd) - Decimal(budget.spent_usd))
    return usd_text(int(left * PICODOLLARS_PER_DOLLAR))
