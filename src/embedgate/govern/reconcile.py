"""Reconciliation of a provider's bill with the ledger: by UTC day and by the provider's own name of the model.

The bill is a file of the provider's or one made from it; nothing is fetched here, and nothing in the ledger changes.
"""

import csv
import io
import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct

from embedgate.core.errors import InvalidInput
from embedgate.core.money import PICODOLLARS_PER_DOLLAR, usd_text
from embedgate.govern.change import Reading
from embedgate.govern.entries import LedgerFilter
from embedgate.govern.operation import Facts, reads
from embedgate.govern.usage import GroupSum, sum_up
from embedgate.govern.values import Usd, usd_or_none

_MAX_TOKENS = 10**15
_MAX_USD = 10**9
_MAX_NUMBER_CHARACTERS = 40
_FIRST_YEAR = 1970
_COLUMNS = ("date", "model", "tokens", "cost_usd")
MS_PER_DAY = 86_400_000
_FORM = "Give the columns date (2026-11-21), model, and tokens or cost_usd or both."


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


@dataclass(frozen=True, slots=True)
class BillLine:
    """What was billed for one model on one UTC day. A bill states tokens, or costs, or both, in all of its lines."""

    day: date
    model: str
    tokens: int | None
    cost_picodollars: int | None


@reads(
    "usage.reconcile",
    "POST",
    "/api/usage/reconcile",
    Facts(
        "reconcile",
        example={"provider": "openai", "bill": "date,model,tokens\n2026-11-21,text-embedding-3-small,1204\n"},
        max_body_bytes=10_000_000,
    ),
)
def reconcile(reading: Reading, bill: Bill) -> Comparison:
    """Compare a provider's bill with the ledger.

    By UTC day and by the provider's own name of the model. Nothing is stored.
    """
    lines = read_bill(bill.bill, bill.format)
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
    return Comparison(tuple(rows), _compare(used.values(), everything, states))


def read_bill(text: str, form: Literal["csv", "json"]) -> list[BillLine]:
    """The lines of a bill, at least one. csv: with a header. json: an array of objects. Columns that are not ours are
    passed over, and costs rounded to whole picodollars.

    Raises InvalidInput, naming the row, for what is no bill.
    """
    rows = _csv_rows(text) if form == "csv" else _json_rows(text)
    lines = [_line(number, row) for number, row in enumerate(rows, start=1)]
    if not lines:
        raise InvalidInput(f"The bill has no rows. {_FORM}", param="bill")
    for number, line in enumerate(lines, start=1):
        if _states(line) != _states(lines[0]):
            raise _fault(number, "leaves out what row 1 states, or states what row 1 leaves out")
    return lines


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


def days_of(bill: Bill, lines: Collection[BillLine]) -> tuple[date, date]:
    """First and last day that a bill is for."""
    return bill.first or min(line.day for line in lines), bill.last or max(line.day for line in lines)


def start_ms(day: date) -> int:
    """The first moment of a UTC day."""
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000


def _csv_rows(text: str) -> list[dict[str, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
        names = list(reader.fieldnames or ())
        rows = list(reader)
    except csv.Error as error:
        raise InvalidInput(f"The bill is not CSV: {error}. {_FORM}", param="bill") from error
    for name in _COLUMNS:
        if names.count(name) > 1:
            raise InvalidInput(f"The bill has the column {name} {names.count(name)} times. {_FORM}", param="bill")
    for number, row in enumerate(rows, start=1):
        if None in row:  # as of 1,204 tokens, which would be read as one
            raise _fault(number, f"has more than the {len(names)} cells of the header; write numbers without commas")
    return rows


def _json_rows(text: str) -> list[Any]:
    try:
        rows = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The bill is not JSON. {_FORM}", param="bill") from error
    if not isinstance(rows, list):
        raise InvalidInput(f"The bill is not an array of objects. {_FORM}", param="bill")
    return rows


def _line(number: int, row: object) -> BillLine:
    if not isinstance(row, dict):
        raise _fault(number, "is not an object")
    tokens, cost = (_number(number, row.get(name), name) for name in ("tokens", "cost_usd"))
    if tokens is None and cost is None:
        raise _fault(number, "has neither tokens nor cost_usd")
    if tokens is not None and (not 0 <= tokens <= _MAX_TOKENS or tokens != int(tokens)):
        raise _fault(number, f"has {tokens} tokens; it must be a whole number up to {_MAX_TOKENS}")
    if cost is not None and abs(cost) > _MAX_USD:
        raise _fault(number, f"has a cost of {cost} dollars; at most {_MAX_USD} are believed")
    model = row.get("model")
    if not isinstance(model, str) or not model:
        raise _fault(number, "has no model")
    return BillLine(
        _day(number, row.get("date")),
        model,
        None if tokens is None else int(tokens),
        None if cost is None else int((cost * PICODOLLARS_PER_DOLLAR).to_integral_value()),
    )


def _day(number: int, value: object) -> date:
    """A time of day is accepted; with an offset, the day is that of UTC."""
    try:
        moment = datetime.fromisoformat(str(value))
        day = (moment.astimezone(UTC) if moment.tzinfo else moment).date()
    except (ValueError, OverflowError) as error:
        raise _fault(number, f"has the date {str(value)[:40]!r}") from error
    if day.year < _FIRST_YEAR:
        raise _fault(number, f"has the date {day}")
    return day


def _number(number: int, value: object, name: str) -> Decimal | None:
    """A finite number of at most 40 characters; None for an absent or empty one."""
    if value is None or value == "":
        return None
    text = str(value).strip()
    try:
        if isinstance(value, bool) or len(text) > _MAX_NUMBER_CHARACTERS:
            raise InvalidOperation
        exact = Decimal(text)
    except InvalidOperation as error:
        raise _fault(number, f"has {text[:_MAX_NUMBER_CHARACTERS]!r} for {name}") from error
    if not exact.is_finite():
        raise _fault(number, f"has {text!r} for {name}")
    return exact


def _fault(number: int, what: str) -> InvalidInput:
    return InvalidInput(f"Row {number} of the bill {what}. {_FORM}", param="bill")


OPERATIONS = (reconcile,)
