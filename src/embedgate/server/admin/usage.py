"""Routes for what was used and what it cost, as JSON or as CSV, and for a provider's bill beside it."""

from datetime import date
from typing import Annotated, Literal

from msgspec import Meta, Struct

from embedgate.administration import UsageFilter, UsageReport
from embedgate.core.errors import UnknownEntity
from embedgate.core.money import usd_text
from embedgate.core.types import LedgerEntry
from embedgate.govern.operation import File
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import (
    Listed,
    ListQuery,
    Moment,
    Usd,
    listed,
    milliseconds,
    moment,
    pick,
    sorts,
    usd_or_none,
)
from embedgate.storage.reconcile import Compared
from embedgate.storage.reports import LedgerFilter

Form = Annotated[Literal["json", "csv"], Meta(description="`csv` answers with a file.")]
By = Annotated[
    str,
    Meta(
        description="What to group by, with commas between: day, week, month, model, upstream_model, provider, user, "
        "project, key, action. Absent: one sum of all."
    ),
]


class Narrowed(ListQuery):
    """Which entries of the ledger. project, key: name or id; of what is one's own, the id."""

    since: Annotated[Moment | None, Meta(description="The first moment that counts.")] = None
    until: Annotated[Moment | None, Meta(description="The first moment that no longer counts.")] = None
    project: str | None = None
    key: str | None = None
    model: Annotated[str | None, Meta(description="Id of a model.")] = None
    provider: str | None = None

    @property
    def own(self) -> LedgerFilter:
        """The entries that are meant, by ids."""
        return LedgerFilter(
            since_ms=milliseconds(self.since),
            until_ms=milliseconds(self.until),
            project_id=self.project,
            key_id=self.key,
            model=self.model,
            provider=self.provider,
        )


class OwnUsageQuery(Narrowed):
    """What to sum up, and how."""

    by: By = ""
    sort: Annotated[
        str, sorts("requests", "items", "tokens", "reused_tokens", "cost_usd", "errors", "output_tokens")
    ] = ""

    @property
    def dimensions(self) -> list[str]:
        """What to group by."""
        return self.by.split(",") if self.by else []


class OwnEntryQuery(Narrowed):
    """Which entries of the ledger."""

    sort: Annotated[str, sorts("at", "model", "provider", "items", "tokens", "cost_usd", "total_ms")] = ""


class UsageQuery(OwnUsageQuery):
    """What to sum up, and how."""

    user: Annotated[str | None, Meta(description="Name or id of a user.")] = None
    format: Form = "json"


class EntryQuery(OwnEntryQuery):
    """Which entries of the ledger. A file has all of them, whatever `offset`, `limit`, `sort` and `search` say."""

    user: Annotated[str | None, Meta(description="Name or id of a user.")] = None
    format: Form = "json"


class UsageSum(Struct, frozen=True):
    """What one group of requests used, and what it cost."""

    group: Annotated[
        dict[str, str | None], Meta(description="A value, or an id, for each thing grouped by; null: of no project.")
    ]
    names: Annotated[dict[str, str], Meta(description="Of the user, the project and the key in `group`, if known.")]
    requests: int
    items: int
    tokens: int
    reused_tokens: Annotated[int, Meta(description="Of these, tokens that were not computed for these requests.")]
    cost_usd: Usd
    errors: Annotated[int, Meta(description="Requests that did not end well.")]
    output_tokens: Annotated[int, Meta(description="Tokens that chat models wrote; `tokens` are of input.")]


class Entry(Struct, frozen=True):
    """A line of the ledger: one request."""

    request_id: str
    at: Moment
    dialect: Annotated[str, Meta(description="The API that it spoke.")]
    user_id: str
    key_id: str
    project_id: str | None
    end_user: Annotated[str | None, Meta(description="The `user` field of the request.")]
    model: str
    space: str
    provider: str
    upstream_model: Annotated[str, Meta(description="What the provider calls the model.")]
    items: int
    tokens: int
    reused_tokens: int
    tokens_estimated: bool
    price_usd: Annotated[str, Meta(description="Dollars per token.")]
    price_as_of: str | None
    cost_usd: Usd
    outcome: Annotated[str, Meta(description="`ok`, or the code of an error.")]
    total_ms: float
    upstream_ms: float
    authenticate_ms: float
    admit_ms: float
    action: Annotated[str, Meta(description="What was asked for: embedding, completion or rerank.")]
    output_tokens: Annotated[int, Meta(description="Tokens that a chat model wrote.")]


class Bill(Struct, forbid_unknown_fields=True):
    """What a provider billed."""

    provider: str
    bill: Annotated[str, Meta(description="The text of the file: columns date, model, and tokens or cost_usd.")]
    format: Literal["csv", "json"] = "csv"
    first: Annotated[date | None, Meta(description="First day that it is for; absent: that of its lines.")] = None
    last: Annotated[date | None, Meta(description="Last day that it is for.")] = None


class Difference(Struct, frozen=True):
    """The ledger beside a bill. What the bill does not state is null; a difference is what was billed beyond it."""

    ledger_tokens: int
    billed_tokens: int | None
    token_difference: int | None
    ledger_cost_usd: Usd
    billed_cost_usd: Usd | None
    cost_difference_usd: Usd | None


class DayDifference(Struct, frozen=True):
    """The ledger beside a bill, for one UTC day and one of the provider's models."""

    day: date
    model: str
    difference: Difference


class Comparison(Struct, frozen=True):
    """The ledger beside a bill."""

    rows: tuple[DayDifference, ...]
    total: Difference


def sums_of(report: UsageReport, query: ListQuery) -> Listed:
    """A report as it is answered."""
    sums = []
    for row in report.rows:
        group = dict(zip(map(str, report.by), row.group, strict=True))
        names = {name: report.names[id_] for name, id_ in group.items() if id_ in report.names and id_ is not None}
        sums.append(
            UsageSum(
                group=group,
                names=names,
                requests=row.requests,
                items=row.items,
                tokens=row.tokens,
                reused_tokens=row.reused_tokens,
                cost_usd=usd_text(row.cost_picodollars),
                errors=row.errors,
                output_tokens=row.output_tokens,
            )
        )
    return pick(sums, query)


def entry_of(entry: LedgerEntry) -> Entry:
    """A line of the ledger as it is answered."""
    same = {name: getattr(entry, name) for name in Entry.__struct_fields__ if hasattr(entry, name)}
    return Entry(
        **same,
        at=moment(entry.at_ms),
        price_usd=usd_text(entry.price_picodollars),
        cost_usd=usd_text(entry.cost_picodollars),
    )


def _filter(query: UsageQuery | EntryQuery) -> UsageFilter:
    return UsageFilter(
        since_ms=milliseconds(query.since),
        until_ms=milliseconds(query.until),
        user=query.user,
        project=query.project,
        key=query.key,
        model=query.model,
        provider=query.provider,
    )


def _sum_up(asked: Asked) -> Listed | File:
    query: UsageQuery = asked.query
    usage, filter_by = asked.administration.usage, _filter(query)
    if query.format == "csv":
        return File(usage.export("csv", query.dimensions, filter_by))
    return sums_of(usage.report(query.dimensions, filter_by), query)


def _list(asked: Asked) -> Listed | File:
    query: EntryQuery = asked.query
    usage, filter_by = asked.administration.usage, _filter(query)
    if query.format == "csv":
        return File(usage.export_entries("csv", filter_by))
    return listed(usage.entries(filter_by, query.page), query, entry_of)


def _reconcile(asked: Asked) -> Comparison:
    bill: Bill = asked.body
    found = asked.administration.usage.reconcile(
        bill.provider, bill.bill, bill.format, first=bill.first, last=bill.last
    )
    rows = (DayDifference(date.fromisoformat(row.day), row.model, _difference(row.compared)) for row in found.rows)
    return Comparison(tuple(rows), _difference(found.total))


def _difference(compared: Compared) -> Difference:
    return Difference(
        ledger_tokens=compared.ledger_tokens,
        billed_tokens=compared.billed_tokens,
        token_difference=compared.token_difference,
        ledger_cost_usd=usd_text(compared.ledger_picodollars),
        billed_cost_usd=usd_or_none(compared.billed_picodollars),
        cost_difference_usd=usd_or_none(compared.difference_picodollars),
    )


ROUTES = (
    Route(
        "GET",
        "/api/usage",
        "showUsage",
        "Sum up what was used",
        _sum_up,
        UsageSum,
        query=UsageQuery,
        is_list=True,
        gives_file=True,
        raises=(UnknownEntity,),
    ),
    Route(
        "GET",
        "/api/usage/entries",
        "listEntries",
        "List the entries of the ledger",
        _list,
        Entry,
        "Newest first; in a file, the oldest first.",
        query=EntryQuery,
        is_list=True,
        gives_file=True,
        raises=(UnknownEntity,),
    ),
    Route(
        "POST",
        "/api/usage/reconcile",
        "reconcile",
        "Compare a provider's bill with the ledger",
        _reconcile,
        Comparison,
        "By UTC day and by the provider's own name of the model. Nothing is stored.",
        body=Bill,
        max_body_bytes=10_000_000,
        example={"provider": "openai", "bill": "date,model,tokens\n2026-11-21,text-embedding-3-small,1204\n"},
    ),
)
