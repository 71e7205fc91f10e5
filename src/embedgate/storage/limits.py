"""Limits and budgets as stored: set, taken away, and gone with the key, user or project they are for.

Whether a request is within them is decided in the engine.
"""

from typing import Any, get_args

import sqlalchemy as sa

from embedgate.core.access import EVERY, BudgetRule, LimitRule, Period, Subject, SubjectKind
from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import check_number, findable
from embedgate.storage.revision import count_up

_SUBJECTS = {"key": schema.keys, "user": schema.users, "project": schema.projects}


class SqlLimits:
    """Limits and budgets, blocking. Every method is one transaction, and raises InternalError if the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set_limit(self, rule: LimitRule) -> LimitRule | None:
        """Put a limit in force. Returns the one that it replaces, None if its subject had none.

        Raises UnknownEntity if there is no such subject, InvalidInput if a number is not positive or none is given.
        """
        _check_limit(rule)
        with self._database.write() as connection:
            _check_subject(connection, rule.subject)
            table = schema.limits
            replaced = _take_limit(connection, rule.subject)
            connection.execute(
                table.insert().values(
                    subject_kind=rule.subject.kind,
                    subject_id=rule.subject.id,
                    requests_per_minute=rule.requests_per_minute,
                    tokens_per_minute=rule.tokens_per_minute,
                    max_parallel=rule.max_parallel,
                    max_waiting=rule.max_waiting,
                )
            )
            count_up(connection)
        return replaced

    def delete_limit(self, subject: Subject) -> LimitRule:
        """Take away the limit of a subject, and return it. Raises UnknownEntity if it has none."""
        with self._database.write() as connection:
            taken = _take_limit(connection, subject)
            if taken is None:
                raise UnknownEntity(f"There is no limit for {subject.kind} {subject.id!r}. List the limits.")
            count_up(connection)
        return taken

    def set_budget(self, rule: BudgetRule) -> BudgetRule | None:
        """Put a budget in force. Returns the one that it replaces, None if its subject had none for that period.

        Raises UnknownEntity if there is no such subject, InvalidInput if the cap is out of range or the period unknown.
        """
        _check_period(rule.period)
        check_number(rule.cap_picodollars, "cap in picodollars", param="cap_picodollars", minimum=0)
        with self._database.write() as connection:
            _check_subject(connection, rule.subject)
            replaced = _take_budget(connection, rule.subject, rule.period)
            connection.execute(
                schema.budgets.insert().values(
                    subject_kind=rule.subject.kind,
                    subject_id=rule.subject.id,
                    period=rule.period,
                    cap_picodollars=rule.cap_picodollars,
                )
            )
            count_up(connection)
        return replaced

    def delete_budget(self, subject: Subject, period: Period) -> BudgetRule:
        """Take away a budget of a subject, and return it. Raises UnknownEntity if there is none."""
        with self._database.write() as connection:
            taken = _take_budget(connection, subject, period)
            if taken is None:
                raise UnknownEntity(
                    f"There is no budget of period {period!r} for {subject.kind} {subject.id!r}. List the budgets."
                )
            count_up(connection)
        return taken


def read_limits(connection: sa.Connection) -> tuple[LimitRule, ...]:
    """Every limit, by subject."""
    table = schema.limits
    rows = connection.execute(table.select().order_by(table.c.subject_kind, table.c.subject_id))
    return tuple(_limit(row) for row in rows)


def read_budgets(connection: sa.Connection) -> tuple[BudgetRule, ...]:
    """Every budget, by subject and period."""
    table = schema.budgets
    rows = connection.execute(table.select().order_by(table.c.subject_kind, table.c.subject_id, table.c.period))
    return tuple(_budget(row) for row in rows)


def drop_rules_of(connection: sa.Connection, kind: SubjectKind, *ids: str) -> None:
    """Take away the limits and budgets of subjects that are being deleted, as part of that transaction."""
    dropped = 0
    for table in (schema.limits, schema.budgets):
        of_them = (table.c.subject_kind == kind) & table.c.subject_id.in_(ids)
        dropped += connection.execute(table.delete().where(of_them)).rowcount
    if dropped:
        count_up(connection)


def _take_limit(connection: sa.Connection, subject: Subject) -> LimitRule | None:
    table = schema.limits
    taken = table.delete().where(table.c.subject_kind == subject.kind, table.c.subject_id == findable(subject.id))
    row = connection.execute(taken.returning(table)).one_or_none()
    return None if row is None else _limit(row)


def _take_budget(connection: sa.Connection, subject: Subject, period: Period) -> BudgetRule | None:
    table = schema.budgets
    taken = table.delete().where(
        table.c.subject_kind == subject.kind,
        table.c.subject_id == findable(subject.id),
        table.c.period == period,
    )
    row = connection.execute(taken.returning(table)).one_or_none()
    return None if row is None else _budget(row)


def _limit(row: sa.Row[Any]) -> LimitRule:
    fields = dict(row._mapping)
    return LimitRule(Subject(fields.pop("subject_kind"), fields.pop("subject_id")), **fields)


def _budget(row: sa.Row[Any]) -> BudgetRule:
    fields = dict(row._mapping)
    return BudgetRule(Subject(fields.pop("subject_kind"), fields.pop("subject_id")), **fields)


def _check_limit(rule: LimitRule) -> None:
    numbers = {
        "requests_per_minute": rule.requests_per_minute,
        "tokens_per_minute": rule.tokens_per_minute,
        "max_parallel": rule.max_parallel,
    }
    given = {name: number for name, number in numbers.items() if number is not None}
    if not given:
        raise InvalidInput(
            f"The limit limits nothing. Give at least one of {', '.join(numbers)}.", param="requests_per_minute"
        )
    for name, number in given.items():
        check_number(number, name, param=name, minimum=1)
    check_number(rule.max_waiting, "max_waiting", param="max_waiting", minimum=0)


def _check_period(period: Period) -> None:
    if period not in get_args(Period):
        raise InvalidInput(
            f"The period is {period!r}; it must be one of {', '.join(get_args(Period))}.", param="period"
        )


def _check_subject(connection: sa.Connection, subject: Subject) -> None:
    """Raises unless the subject exists. An old secret's record is none: limits go by the key's own id."""
    table = _SUBJECTS.get(subject.kind)
    if table is None:
        raise InvalidInput(
            f"The kind of subject is {subject.kind!r}; it must be one of {', '.join(_SUBJECTS)}.", param="subject"
        )
    if subject.id == EVERY:
        return
    is_meant = table.c.id == findable(subject.id)
    if table is schema.keys:
        is_meant &= schema.keys.c.replaced_by.is_(None)
    if connection.execute(sa.select(table.c.id).where(is_meant)).one_or_none() is None:
        raise UnknownEntity(
            f"There is no {subject.kind} {subject.id!r}. Give the id of one, or {EVERY!r} for each of them.",
            param="subject",
        )
