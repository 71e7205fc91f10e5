"""Reconciliation of a provider's bill with the ledger: by UTC day and by the provider's own name of the model.

The bill is a file of the provider's or one made from it; nothing is fetched here, and nothing in the ledger changes.
"""

from collections.abc import Collection
from datetime import UTC, date, datetime, time
from typing import Annotated, Literal, NamedTuple

import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.errors import UnknownProvider
from embedgate.core.money import usd_text
from embedgate.core.near_names import did_you_mean
from embedgate.govern.bills import BillLine, read_export
from embedgate.govern.change import Reading
from embedgate.govern.entries import LedgerFilter
from embedgate.govern.operation import Facts, reads
from embedgate.govern.providers import read_providers
from embedgate.govern.usage import GroupSum, sum_up
from embedgate.govern.values import Usd, usd_or_none
from embedgate.storage import schema

MS_PER_DAY = 86_400_000


class Bill(Struct, forbid_unknown_fields=True):
    """What a provider billed."""

    provider: str
    bill: Annotated[
        str,
        Meta(
            description="The text of the file: an export of a vendor as it is, or the columns date, model, and tokens "
            "or cost_usd."
        ),
    ]
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
    read_as: Annotated[str, Meta(description="Which export the bill was read as; empty: its own columns.")] = ""
    not_read: Annotated[tuple[str, ...], Meta(description="Columns of the bill that were not read.")] = ()
    passed_over: Annotated[int, Meta(description="Rows of other services, and sums at the end.")] = 0


@reads(
    "usage.reconcile",
    "POST",
    "/api/usage/reconcile",
    Facts(
        "reconcile",
        example={"provider": "openai", "bill": "date,model,tokens\n2026-11-21,text-embedding-3-small,1204\n"},
        max_body_bytes=10_000_000,
        raises=(UnknownProvider,),
    ),
)
def reconcile(reading: Reading, bill: Bill) -> Comparison:
    """Compare a provider's bill with the ledger.

    By UTC day and by the provider's own name of the model. Nothing is stored.
    """
    check_provider(reading, bill.provider)
    read = read_export(bill.bill, bill.format)
    lines = read.lines
    first, last = days_of(bill, lines)
    filter_by = LedgerFilter(start_ms(first), start_ms(last) + MS_PER_DAY, provider=bill.provider)
    sums = sum_up(reading, ("day", "upstream_model"), filter_by)
    used = {(date.fromisoformat(str(each.group[0])), str(each.group[1])): each for each in sums}
    billed: dict[tuple[date, str], list[BillLine]] = {}
    for line in lines:
        if first <= line.day <= last:
            billed.setdefault((line.day, line.model), []).append(line)
    states = _states(lines[0])
    rows = (
        DayDifference(*place, _compare([used[place]] if place in used else [], billed.get(place, []), states))
        for place in sorted({*used, *billed})
    )
    everything = [line for of_place in billed.values() for line in of_place]
    total = _compare(used.values(), everything, states)
    return Comparison(tuple(rows), total, read.read_as, read.not_read, read.passed_over)


class _States(NamedTuple):
    tokens: bool
    cost: bool


def _states(line: BillLine) -> _States:
    return _States(line.tokens is not None, line.cost_picodollars is not None)


def _compare(used: Collection[GroupSum], billed: Collection[BillLine], states: _States) -> Difference:
    used_tokens, used_cost = sum(each.tokens for each in used), sum(each.cost_picodollars for each in used)
    tokens = sum(line.tokens or 0 for line in billed) if states.tokens else None
    cost = sum(line.cost_picodollars or 0 for line in billed) if states.cost else None
    return Difference(
        ledger_tokens=used_tokens,
        billed_tokens=tokens,
        token_difference=None if tokens is None else tokens - used_tokens,
        ledger_cost_usd=usd_text(used_cost),
        billed_cost_usd=usd_or_none(cost),
        cost_difference_usd=usd_or_none(None if cost is None else cost - used_cost),
    )


def check_provider(reading: Reading, name: str) -> None:
    """Raises UnknownProvider for a provider that has no models here and no entries in the ledger."""
    if name in reading.resources.catalog().providers():
        return
    used = list(reading.connection.execute(sa.select(schema.ledger.c.provider).distinct()).scalars())
    if name in used or name in {record.name for record in read_providers(reading.connection)}:
        return
    known = sorted({*used, *reading.resources.catalog().providers()})
    near = did_you_mean(name, known)
    there = f"The ledger has entries of {', '.join(sorted(used))}." if used else "The ledger has no entries yet."
    raise UnknownProvider(f"There is no provider {name[:100]!r} here. {near}{there}", param="provider")


def days_of(bill: Bill, lines: Collection[BillLine]) -> tuple[date, date]:
    """First and last day that a bill is for."""
    return bill.first or min(line.day for line in lines), bill.last or max(line.day for line in lines)


def start_ms(day: date) -> int:
    """The first moment of a UTC day."""
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000


OPERATIONS = (reconcile,)
