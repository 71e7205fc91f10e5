"""Budgets: how much money a key, a user or a project may spend in a day, a month, or ever."""

from decimal import Decimal

from embedgate.administration.stores import Stores
from embedgate.administration.subjects import find_subject
from embedgate.administration.trail import Trail
from embedgate.core.access import BudgetRule, Period, Subject, SubjectKind
from embedgate.core.money import usd_text
from embedgate.govern.values import picodollars_of
from embedgate.storage.spending import sum_spent


class Budgets:
    """Budgets, blocking. A subject is a kind and a name: see `find_subject`, whose errors every method raises."""

    def __init__(self, stores: Stores, trail: Trail) -> None:
        self._stores = stores
        self._trail = trail

    def list(self) -> tuple[BudgetRule, ...]:
        """Every budget, by subject and period."""
        return self._stores.rules.load().budgets

    def spent(self, subject: Subject, since_ms: int) -> int:
        """What a subject has spent from a time on, in picodollars."""
        with self._stores.database.read() as connection:
            return sum_spent(connection, subject, since_ms)

    def set(self, kind: SubjectKind, subject: str, period: Period, cap_usd: Decimal | str) -> BudgetRule:
        """Put a budget in force, instead of the one that the subject has for that period.

        cap_usd: dollars, exactly. Raises InvalidInput for an amount that is none, or finer than a picodollar, and for
        an unknown period.
        """
        cap_picodollars = picodollars_of(cap_usd, "cap", param="cap_usd")
        with self._trail.change("budgets.set") as note:
            rule = BudgetRule(find_subject(self._stores, kind, subject), period, cap_picodollars)
            replaced = self._stores.limits.set_budget(rule)
            note(
                rule.subject.id,
                subject_kind=rule.subject.kind,
                period=period,
                cap_usd=usd_text(cap_picodollars),
                replaced_cap_usd=None if replaced is None else usd_text(replaced.cap_picodollars),
            )
        return rule

    def delete(self, kind: SubjectKind, subject: str, period: Period) -> BudgetRule:
        """Take away a budget of a subject, and return it. Raises UnknownEntity if there is none."""
        with self._trail.change("budgets.delete") as note:
            deleted = self._stores.limits.delete_budget(find_subject(self._stores, kind, subject), period)
            note(deleted.subject.id, subject_kind=deleted.subject.kind, period=deleted.period)
        return deleted
