"""What was used and what it cost: reports from the ledger, and a provider's bill beside them. Changes nothing."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, get_args

from embedgate.administration.stores import Stores
from embedgate.catalog import Catalog
from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.core.types import LedgerEntry
from embedgate.storage.export import (
    Table,
    csv_lines,
    entry_table,
    json_pieces,
    reconciliation_table,
    usage_table,
)
from embedgate.storage.paging import every
from embedgate.storage.reconcile import Reconciliation, read_bill, reconcile
from embedgate.storage.reports import Dimension, LedgerFilter, UsageRow

Form = Literal["csv", "json"]
_ID = re.compile(r"(user|project|key)_[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which entries are meant: those that agree in every field that is given.

    user, project: name or id; key: its id or the whole key. The id of one that was deleted is understood. `since_ms` is
    the first moment that counts, `until_ms` the first that no longer does.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    user: str | None = None
    project: str | None = None
    key: str | None = None
    model: str | None = None
    provider: str | None = None


ALL_USAGE = UsageFilter()


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Sums by the dimensions in `by`. `names` are those of the users, projects and keys whose ids are in the groups."""

    by: tuple[Dimension, ...]
    rows: tuple[UsageRow, ...]
    names: Mapping[str, str] = field(default_factory=dict)


class Usage:
    """Reports, blocking. Unknown names raise UnknownEntity, times that are none InvalidInput."""

    def __init__(self, stores: Stores, catalog: Callable[[], Catalog]) -> None:
        """catalog: the one in force."""
        self._stores = stores
        self._catalog = catalog

    def report(self, by: Sequence[str] = (), filter_by: UsageFilter = ALL_USAGE) -> UsageReport:
        """The sums by one or several dimensions, in the order of their groups; without one, a single row of totals.

        Raises InvalidInput for a dimension that there is not, or that is there twice.
        """
        dimensions = dimensions_of(by)
        rows = self._stores.reports.usage(dimensions, self._resolved(filter_by))
        return UsageReport(dimensions, tuple(rows), self._names(dimensions))

    def export(self, form: Form, by: Sequence[str] = (), filter_by: UsageFilter = ALL_USAGE) -> Iterator[bytes]:
        """The same as CSV or as a JSON array, in pieces. Raises, at once, as `report`, and InvalidInput for a form."""
        report = self.report(by, filter_by)
        return written(usage_table(report.by, report.rows), form)

    def entries(self, filter_by: UsageFilter = ALL_USAGE, query: PageQuery = FIRST_PAGE) -> Page[LedgerEntry]:
        """A page of the ledger, newest first unless sorted otherwise. Raises InvalidInput for an unfit page."""
        return self._stores.reports.entries(self._resolved(filter_by), query)

    def entry(self, request_id: str) -> LedgerEntry:
        """The entry of one request, whoever made it. Raises UnknownEntity if it left none."""
        return entry_of_request(self._stores, request_id)

    def export_entries(self, form: Form, filter_by: UsageFilter = ALL_USAGE) -> Iterator[bytes]:
        """All the entries, the oldest first, as CSV or as a JSON array; they are read while the pieces are taken."""
        return written(entry_table(self._stores.reports.every_entry(self._resolved(filter_by))), form)

    def reconcile(
        self, provider: str, bill: str, form: Form, *, first: date | None = None, last: date | None = None
    ) -> Reconciliation:
        """Compare a provider's bill with the ledger, by UTC day and the provider's own name of the model.

        bill: the text of the file. first, last: the days that it is for, by default those of its lines.
        Raises InvalidInput, naming the row, for what is no bill.
        """
        return reconcile(self._stores.reports, provider, read_bill(bill, _checked(form)), first, last)

    def export_reconciliation(self, form: Form, reconciliation: Reconciliation) -> Iterator[bytes]:
        """A comparison as CSV or as a JSON array, without its total."""
        return written(reconciliation_table(reconciliation), form)

    def _resolved(self, filter_by: UsageFilter) -> LedgerFilter:
        stores = self._stores
        return LedgerFilter(
            since_ms=filter_by.since_ms,
            until_ms=filter_by.until_ms,
            user_id=_id_of(filter_by.user, lambda name: stores.users.get(name).id),
            project_id=_id_of(filter_by.project, lambda name: stores.projects.get(name).id),
            key_id=_id_of(filter_by.key, lambda key: stores.keys.get(key).id),
            model=self._model_id(filter_by.model),
            provider=filter_by.provider,
        )

    def _model_id(self, name: str | None) -> str | None:
        model = None if name is None else self._catalog().find(name)
        return name if model is None else model.id  # a model that is no longer known is still in the ledger

    def _names(self, dimensions: Sequence[Dimension]) -> dict[str, str]:
        stores = self._stores
        names: dict[str, str] = {}
        if "user" in dimensions:
            names |= {user.id: user.name for user in every(stores.users.list)}
        if "project" in dimensions:
            names |= {project.id: project.name for project in every(stores.projects.list)}
        if "key" in dimensions:
            names |= {key.id: key.name for key in every(stores.keys.list)}
        return names


def dimensions_of(names: Sequence[str]) -> tuple[Dimension, ...]:
    """What a report is grouped by. Raises InvalidInput for what there is not, or is there twice."""
    known: dict[str, Dimension] = {name: name for name in get_args(Dimension)}
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"Usage cannot be grouped by {name[:100]!r}. Group by some of {', '.join(known)}.", param="by"
            )
    if len(set(names)) < len(names):
        raise InvalidInput(f"Usage is grouped twice by the same: {', '.join(names)}. Name each once.", param="by")
    return tuple(known[name] for name in names)


def entry_of_request(stores: Stores, request_id: str, user_id: str | None = None) -> LedgerEntry:
    """The entry of one request. user_id: whose it must be, None for anybody's. Raises UnknownEntity."""
    entry = stores.reports.entry(request_id, user_id)
    if entry is None:
        raise UnknownEntity(
            f"The ledger has no request {request_id[:100]!r} of yours. It has those that were answered, and those that "
            "failed after a provider was paid; their id is in the header x-request-id.",
            param="id",
        )
    return entry


def written(table: Table, form: Form) -> Iterator[bytes]:
    """A table as CSV or as a JSON array, in pieces. Raises InvalidInput, at once, for another form."""
    if _checked(form) == "json":
        return json_pieces(table)
    return (line.encode() for line in csv_lines(table))


def _checked(form: Form) -> Form:
    if form not in get_args(Form):
        raise InvalidInput(f"The form is {form!r}; it must be one of {', '.join(get_args(Form))}.", param="form")
    return form


def _id_of(named: str | None, find: Callable[[str], str]) -> str | None:
    # An id is not looked up: the ledger keeps what was deleted.
    return named if named is None or _ID.fullmatch(named) else find(named)
