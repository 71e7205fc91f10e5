"""A provider's bill beside our ledger: by UTC day and by the provider's own name of the model.

The bill is a file of the provider's or one made from it; nothing is fetched here, and nothing in the ledger changes.
"""

import csv
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, NamedTuple

from embedgate.core.errors import InvalidInput
from embedgate.core.money import PICODOLLARS_PER_DOLLAR
from embedgate.storage.reports import LedgerFilter, SqlReports, UsageRow

_MAX_TOKENS = 10**15
_MAX_USD = 10**9
_MAX_NUMBER_CHARACTERS = 40
_FIRST_YEAR = 1970
_MS_PER_DAY = 86_400_000
_FORM = "Give the columns date (2026-11-21), model, and tokens or cost_usd or both."


@dataclass(frozen=True, slots=True)
class BillLine:
    """What was billed for one model on one UTC day. A bill states tokens, or costs, or both, in all of its lines."""

    day: date
    model: str
    tokens: int | None
    cost_picodollars: int | None


@dataclass(frozen=True, slots=True)
class Compared:
    """What the ledger has, and what was billed: None for what the bill does not state."""

    ledger_tokens: int
    billed_tokens: int | None
    ledger_picodollars: int
    billed_picodollars: int | None

    @property
    def token_difference(self) -> int | None:
        """What was billed beyond the ledger; below zero if the ledger has more."""
        return None if self.billed_tokens is None else self.billed_tokens - self.ledger_tokens

    @property
    def difference_picodollars(self) -> int | None:
        """What was billed beyond the ledger; below zero if the ledger has more."""
        return None if self.billed_picodollars is None else self.billed_picodollars - self.ledger_picodollars


@dataclass(frozen=True, slots=True)
class ReconciledRow:
    """One UTC day and one of the provider's models."""

    day: str
    model: str
    compared: Compared


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Every day and model that is in the ledger or in the bill, in order, and all of them together."""

    rows: tuple[ReconciledRow, ...]
    total: Compared


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


def reconcile(
    reports: SqlReports, provider: str, bill: Sequence[BillLine], first: date | None = None, last: date | None = None
) -> Reconciliation:
    """Compare a bill, of at least one line, with what the ledger has of one provider.

    first, last: the days that the bill is for, by default those of its first and its last line. Lines of other days
    are left out. Raises InternalError if the database fails.
    """
    first = first or min(line.day for line in bill)
    last = last or max(line.day for line in bill)
    filter_by = LedgerFilter(_start_ms(first), _start_ms(last) + _MS_PER_DAY, provider=provider)
    used = {(str(row.group[0]), str(row.group[1])): row for row in reports.usage(("day", "upstream_model"), filter_by)}
    billed: dict[tuple[str, str], list[BillLine]] = {}
    for line in bill:
        if first <= line.day <= last:
            billed.setdefault((line.day.isoformat(), line.model), []).append(line)
    states = _states(bill[0])
    rows = [
        ReconciledRow(*place, _compare([used[place]] if place in used else [], billed.get(place, []), states))
        for place in sorted({*used, *billed})
    ]
    everything = [line for lines in billed.values() for line in lines]
    return Reconciliation(tuple(rows), _compare(used.values(), everything, states))


class _States(NamedTuple):
    tokens: bool
    cost: bool


def _states(line: BillLine) -> _States:
    return _States(line.tokens is not None, line.cost_picodollars is not None)


def _compare(used: Collection[UsageRow], billed: Collection[BillLine], states: _States) -> Compared:
    return Compared(
        ledger_tokens=sum(row.tokens for row in used),
        billed_tokens=sum(line.tokens or 0 for line in billed) if states.tokens else None,
        ledger_picodollars=sum(row.cost_picodollars for row in used),
        billed_picodollars=sum(line.cost_picodollars or 0 for line in billed) if states.cost else None,
    )


def _start_ms(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000


def _csv_rows(text: str) -> list[dict[str, Any]]:
    try:
        return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True))
    except csv.Error as error:
        raise InvalidInput(f"The bill is not CSV: {error}. {_FORM}", param="bill") from error


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
