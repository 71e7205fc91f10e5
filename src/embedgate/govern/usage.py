"""Usage: sums of the ledger by any of several dimensions, for administrators and for users.

Days, weeks and months are those of UTC; a week begins on Monday, as ISO has it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any, Literal, get_args

import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.core.money import to_usd, usd_text
from embedgate.govern.change import Reading
from embedgate.govern.csv_file import csv_lines
from embedgate.govern.entries import EVERY_ENTRY, Format, LedgerFilter, Narrowed, UserName, named, own
from embedgate.govern.lists import Listed, pick, sorts
from embedgate.govern.operation import Facts, File, reads
from embedgate.govern.values import Usd
from embedgate.storage import schema
from embedgate.storage.spending import exact_sum, joined

Dimension = Literal[
    "day",
    "week",
    "month",
    "model",
    "upstream_model",
    "provider",
    "user",
    "project",
    "key",
    "action",
    "end_user",
    "tenant",
    "outcome",
]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
By = Annotated[
    str,
    Meta(
        description=f"What to group by, with commas between: {', '.join(DIMENSIONS)}. A tenant is that of the user "
        "now; an end user is the `user` field of the request. Absent: one sum of all."
    ),
]

_LEDGER = schema.ledger
_IDS_AT_ONCE = 500
_MAX_GROUPS = 100_000
_FILE_COLUMNS = (
    "requests",
    "items",
    "tokens",
    "reused_tokens",
    "cost_usd",
    "errors",
    "output_tokens",
    "estimated_tokens",
    "estimated_usd",
)


class OwnUsageQuery(Narrowed):
    """What to sum up, and how."""

    by: By = ""
    sort: Annotated[
        str, sorts("requests", "items", "tokens", "reused_tokens", "cost_usd", "errors", "output_tokens")
    ] = ""


class UsageQuery(OwnUsageQuery):
    """What to sum up, and how."""

    user: UserName = None
    format: Format = "json"


class UsageSum(Struct, frozen=True):
    """What one group of requests used, and what it cost."""

    group: Annotated[
        dict[str, str | None],
        Meta(description="A value, or an id, for each thing grouped by; null: of none, such as no project."),
    ]
    names: Annotated[dict[str, str], Meta(description="Of the user, the project and the key in `group`, if known.")]
    requests: int
    items: int
    tokens: int
    reused_tokens: Annotated[int, Meta(description="Of these, tokens that were not computed for these requests.")]
    cost_usd: Usd
    errors: Annotated[int, Meta(description="Requests that did not end well.")]
    output_tokens: Annotated[int, Meta(description="Tokens that chat models wrote; `tokens` are of input.")]
    estimated_tokens: Annotated[int, Meta(description="Of `tokens`, those that no provider has confirmed.")]
    estimated_usd: Annotated[
        Usd, Meta(description="Of `cost_usd`, what is charged by estimate: no provider has confirmed it.")
    ]


@dataclass(frozen=True, slots=True)
class GroupSum:
    """The sums of one group of entries. `group` has a text for each dimension; None where entries have none,
    such as no project.

    A day is `2026-11-21`, a week `2026-W47`, a month `2026-11`.
    """

    group: tuple[str | None, ...]
    requests: int
    items: int
    tokens: int
    reused_tokens: int
    cost_picodollars: int
    errors: int
    output_tokens: int = 0
    estimated_tokens: int = 0
    estimated_picodollars: int = 0


@reads("usage.show", "GET", "/api/usage", Facts("showUsage", raises=(UnknownEntity, Conflict)))
def show_usage(reading: Reading, query: UsageQuery) -> Listed[UsageSum] | File:
    """Sum up usage and cost."""
    by = _dimensions(query.by)
    sums = sum_up(reading, by, named(reading, query, query.user))
    if query.format == "csv":
        rows = (
            (
                *each.group,
                each.requests,
                each.items,
                each.tokens,
                each.reused_tokens,
                to_usd(each.cost_picodollars),
                each.errors,
                each.output_tokens,
                each.estimated_tokens,
                to_usd(each.estimated_picodollars),
            )
            for each in sums
        )
        return File(csv_lines((*by, *_FILE_COLUMNS), rows))
    return pick(_with_names(reading, by, sums), query)


@reads("me.usage", "GET", "/api/me/usage", Facts("showMyUsage", who="user", raises=(UnknownEntity, Conflict)))
def show_own_usage(reading: Reading, query: OwnUsageQuery) -> Listed[UsageSum]:
    """Sum up your usage and cost."""
    by = _dimensions(query.by)
    sums = sum_up(reading, by, own(reading, query))
    return pick(_with_names(reading, by, sums), query)


def sum_up(reading: Reading, by: Sequence[Dimension] = (), filter_by: LedgerFilter = EVERY_ENTRY) -> list[GroupSum]:
    """The sums by one or several dimensions, in the order of their groups; without one, a single sum of all.

    Raises InvalidInput for a time before 1970, or for more than 100,000 groups.
    """
    groupings = [_GROUPINGS[name] for name in by]
    columns = [grouping.column for grouping in groupings]
    source = _LEDGER if "tenant" not in by else _LEDGER.outerjoin(schema.users, schema.users.c.id == _LEDGER.c.user_id)
    query = filter_by.narrow(sa.select(*columns, *_sums()).select_from(source)).group_by(*columns)
    query = query.limit(_MAX_GROUPS + 1)  # callers choose the names of end users
    totals: dict[tuple[str | None, ...], list[int]] = {}
    rows = reading.connection.execute(query).all()
    if len(rows) > _MAX_GROUPS:
        raise InvalidInput(
            f"There are more than {_MAX_GROUPS:,} groups by {', '.join(by)}. Group by less, or give since and until.",
            param="by",
        )
    for row in rows:
        labels = zip(groupings, row[: len(by)], strict=True)
        group = tuple(grouping.label(value) for grouping, value in labels)
        sums = _whole(row[len(by) :])
        known = totals.get(group)  # months are added up here, from days
        totals[group] = sums if known is None else [a + b for a, b in zip(known, sums, strict=True)]
    ordered = sorted(totals, key=lambda group: [(label is not None, label or "") for label in group])
    return [GroupSum(group, *totals[group]) for group in ordered]


def _dimensions(given: str) -> tuple[Dimension, ...]:
    known: dict[str, Dimension] = {name: name for name in DIMENSIONS}
    names = given.split(",") if given else []
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"Usage cannot be grouped by {name[:100]!r}. Group by some of {', '.join(known)}.", param="by"
            )
    if len(set(names)) < len(names):
        raise InvalidInput(f"Usage is grouped twice by the same: {', '.join(names)}. Name each once.", param="by")
    return tuple(known[name] for name in names)


def _with_names(reading: Reading, by: Sequence[Dimension], sums: Sequence[GroupSum]) -> list[UsageSum]:
    """The sums as they are answered: beside the ids of users, projects and keys, their names."""
    names: dict[str, dict[str | None, str]] = {
        dimension: _names(reading, table, {each.group[place] for each in sums} - {None})
        for place, dimension in enumerate(by)
        if (table := _NAMED.get(dimension)) is not None
    }
    found = []
    for each in sums:
        group: dict[str, str | None] = dict(zip(by, each.group, strict=True))
        known_names = {name: known[id_] for name, known in names.items() if (id_ := group[name]) in known}
        found.append(
            UsageSum(
                group=group,
                names=known_names,
                requests=each.requests,
                items=each.items,
                tokens=each.tokens,
                reused_tokens=each.reused_tokens,
                cost_usd=usd_text(each.cost_picodollars),
                errors=each.errors,
                output_tokens=each.output_tokens,
                estimated_tokens=each.estimated_tokens,
                estimated_usd=usd_text(each.estimated_picodollars),
            )
        )
    return found


def _names(reading: Reading, table: sa.Table, ids: Iterable[str | None]) -> dict[str | None, str]:
    """The names of users, projects or keys that are still there, by id."""
    left, names = list(ids), dict[str | None, str]()
    for start in range(0, len(left), _IDS_AT_ONCE):
        query = sa.select(table.c.id, table.c.name).where(table.c.id.in_(left[start : start + _IDS_AT_ONCE]))
        names |= {row.id: row.name for row in reading.connection.execute(query)}
    return names


@dataclass(frozen=True, slots=True)
class _Grouping:
    """How a dimension is read from the table, and what a value is called."""

    column: sa.ColumnElement[Any]
    label: Callable[[Any], str | None] = lambda value: value


def _day(days: int) -> date:
    return date(1970, 1, 1) + timedelta(days=days)


def _week(weeks: int) -> str:
    year, week, _ = _day(7 * weeks - 3).isocalendar()
    return f"{year}-W{week:02}"


# Literals: PostgreSQL would not take an expression with two parameters for the same one, once grouped by, once read.
_DAY = _LEDGER.c.at_ms // sa.literal_column("86400000", sa.BigInteger)
_GROUPINGS: dict[Dimension, _Grouping] = {
    "day": _Grouping(_DAY, lambda days: _day(days).isoformat()),
    # 1970 began on a Thursday.
    "week": _Grouping((_DAY + sa.literal_column("3", sa.BigInteger)) // sa.literal_column("7", sa.BigInteger), _week),
    "month": _Grouping(_DAY, lambda days: _day(days).isoformat()[:7]),
    "model": _Grouping(_LEDGER.c.model),
    "upstream_model": _Grouping(_LEDGER.c.upstream_model),
    "provider": _Grouping(_LEDGER.c.provider),
    "user": _Grouping(_LEDGER.c.user_id),
    "project": _Grouping(_LEDGER.c.project_id),
    "key": _Grouping(_LEDGER.c.key_id),
    "action": _Grouping(_LEDGER.c.action),
    "end_user": _Grouping(_LEDGER.c.end_user),
    "tenant": _Grouping(schema.users.c.tenant),
    "outcome": _Grouping(_LEDGER.c.outcome),
}
_NAMED: dict[Dimension, sa.Table] = {"user": schema.users, "project": schema.projects, "key": schema.keys}


def _sums() -> list[sa.ColumnElement[Any]]:
    """The columns of a GroupSum after its group; the cost as two."""
    counted = [sa.func.sum(_LEDGER.c[name]) for name in ("items", "tokens", "reused_tokens")]
    requests = sa.func.sum(sa.case((_LEDGER.c.outcome == "settled", 0), else_=1))  # those correct other entries
    errors = sa.func.sum(sa.case((_LEDGER.c.outcome.in_(("ok", "settled")), 0), else_=1))
    cost, estimated = exact_sum(_LEDGER.c.cost_picodollars), exact_sum(_LEDGER.c.estimated_picodollars)
    written = sa.func.sum(_LEDGER.c.output_tokens)
    return [requests, *counted, *cost, errors, written, sa.func.sum(_LEDGER.c.estimated_tokens), *estimated]


def _whole(row: Sequence[Any]) -> list[int]:
    requests, items, tokens, reused_tokens, high, low, errors, output_tokens, estimated_tokens, *estimated = row
    cost, estimate = joined(high, low), joined(*estimated)
    counted = (requests, items, tokens, reused_tokens, cost, errors, output_tokens, estimated_tokens, estimate)
    return [int(n or 0) for n in counted]


OPERATIONS = (show_usage, show_own_usage)
