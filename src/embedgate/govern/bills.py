"""Bills of providers, read from files: exports of vendors as they are, or a table of one's own.

Which columns of an export say what is a fact of `bill_formats/`. What is not understood is refused with its row, never
guessed: a settlement gives money back by it.
"""

import csv
import functools
import io
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from importlib import resources
from typing import Any, Literal, NamedTuple

from msgspec import Struct, convert

from embedgate.core.errors import InvalidInput
from embedgate.core.money import PICODOLLARS_PER_DOLLAR

_MAX_TOKENS = 10**15
_MAX_USD = 10**9
_MAX_NUMBER_CHARACTERS = 40
_MAX_NUMBER_DIGITS = 40
"""Before the point: arithmetic with 1e9999999 fails."""
_FIRST_YEAR = 1970
_HEADER_WITHIN_LINES = 20
_FORM = (
    "Give the columns date (2026-11-21), model, and tokens or cost_usd or both; or an export of OpenAI, Azure, Google, "
    "Cohere or Voyage as it is."
)
_UNIT = re.compile(r"(\d[\d,]*)\s*([KM]?)(?:\s*tokens?)?", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1_000, "M": 1_000_000}
_COMMA_DECIMAL = re.compile(r"-?\d+,\d+")


class Format(Struct, frozen=True, forbid_unknown_fields=True):
    """Which columns of an export say what; see `bill_formats/README.md`. Names are plain: letters and digits."""

    name: str
    known_by: tuple[str, ...]
    date: tuple[str, ...]
    model: tuple[str, ...]
    order: int = 0
    tokens: tuple[str, ...] = ()
    cost: tuple[str, ...] = ()
    currency: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    date_form: str = ""
    model_ends: str = ""
    only_in: str = ""
    only: tuple[str, ...] = ()

    @property
    def columns(self) -> frozenset[str]:
        """All that is read."""
        several = (self.date, self.model, self.tokens, self.cost, self.currency, self.unit)
        return frozenset(name for names in several for name in names) | {self.only_in}


_OWN = Format("", ("date", "model"), ("date",), ("model",), tokens=("tokens",), cost=("costusd",))


@dataclass(frozen=True, slots=True)
class BillLine:
    """What was billed for one model on one UTC day. A bill states tokens, or costs, or both, in all of its lines."""

    day: date
    model: str
    tokens: int | None
    cost_picodollars: int | None


class Export(NamedTuple):
    """A bill that was read: as which export, empty for a table of one's own; what of it was not read."""

    lines: list[BillLine]
    read_as: str
    not_read: tuple[str, ...]
    passed_over: int


def read_bill(text: str, form: Literal["csv", "json"]) -> list[BillLine]:
    """The lines of a bill, at least one. csv: with a header. json: an array of objects. Columns that are not ours are
    passed over, and costs rounded to whole picodollars.

    Raises InvalidInput, naming the row, for what is no bill.
    """
    return read_export(text, form).lines


def read_export(text: str, form: Literal["csv", "json"]) -> Export:
    """As `read_bill`, with what was not read."""
    rows, has_commas = _csv_rows(text) if form == "csv" else (_json_rows(text), False)
    names = list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))
    found = _format_of(names)
    plain = [_with_plain_names(row) if isinstance(row, dict) else row for row in rows]
    kept = [(number, row) for number, row in enumerate(plain, start=1) if not _is_passed_over(row, found)]
    lines = [_line(number, _stated(number, row, found, has_commas=has_commas)) for number, row in kept]
    _check_same(lines, [number for number, _ in kept])
    not_read = tuple(name for name in names if _plain(name) not in found.columns)
    return Export(lines, found.name, not_read, len(rows) - len(kept))


def _check_same(lines: Sequence[BillLine], numbers: Sequence[int]) -> None:
    if not lines:
        raise InvalidInput(f"The bill has no rows. {_FORM}", param="bill")
    for number, line in zip(numbers, lines, strict=True):
        if _states(line) != _states(lines[0]):
            raise _fault(number, "leaves out what row 1 states, or states what row 1 leaves out")


def _states(line: BillLine) -> tuple[bool, bool]:
    return line.tokens is not None, line.cost_picodollars is not None


@functools.cache
def formats() -> tuple[Format, ...]:
    """The exports that are known, in the order in which they are tried."""
    files = resources.files("embedgate.govern.bill_formats").iterdir()
    texts = [file.read_text(encoding="utf-8") for file in files if file.name.endswith(".toml")]
    return tuple(sorted((convert(tomllib.loads(text), Format) for text in texts), key=lambda each: each.order))


def _format_of(names: Sequence[str]) -> Format:
    """A table of one's own, or the first export whose columns are all there; without one, the rows are refused."""
    plain = {_plain(name) for name in names}
    if {"date", "model", "tokens"} <= plain:
        return _OWN
    return next((each for each in formats() if set(each.known_by) <= plain), _OWN)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _with_plain_names(row: Mapping[str, Any]) -> dict[str, Any]:
    return {_plain(name): value for name, value in row.items()}


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _is_passed_over(row: object, found: Format) -> bool:
    """Whether a row of an export is of another service, or a sum without a day and a model."""
    if not isinstance(row, dict) or found is _OWN:
        return False
    if _first(row, found.date) is None and _first(row, found.model) is None:
        return True
    service = row.get(found.only_in)
    return service is not None and not any(text in str(service).lower() for text in found.only)


def _stated(number: int, row: object, found: Format, *, has_commas: bool) -> object:
    """A row with the names of a table of one's own. has_commas: whether costs may have a decimal comma."""
    if not isinstance(row, dict):
        return row
    currency = _first(row, found.currency)
    cost = _first(row, found.cost)
    if currency is not None and str(currency).strip().upper() != "USD" and "costinusd" not in row:
        raise _fault(number, f"is in {str(currency)[:10]!r}, and the ledger in dollars; convert it")
    if has_commas and isinstance(cost, str) and _COMMA_DECIMAL.fullmatch(cost.strip()):
        cost = cost.replace(",", ".")
    tokens = [_number(number, row.get(name), name) for name in found.tokens]
    counted = [each for each in tokens if each is not None]
    model = _first(row, found.model)
    if isinstance(model, str) and found.model_ends:
        model = re.sub(found.model_ends, "", model.strip())
    total = sum(counted) * _factor(number, _first(row, found.unit)) if counted else None
    return {
        "date": _date_text(number, _first(row, found.date), found),
        "model": model,
        "tokens": total,
        "cost_usd": cost,
    }


def _factor(number: int, unit: object) -> int:
    """How many tokens a unit is: 1 without one, 1,000 for `1K`."""
    if unit is None:
        return 1
    match = _UNIT.fullmatch(str(unit).strip())
    if match is None:
        raise _fault(number, f"has the unit {str(unit)[:40]!r}, which does not count tokens")
    return int(match[1].replace(",", "")) * _FACTORS[match[2].upper()]


def _date_text(number: int, value: object, found: Format) -> object:
    """A date as ISO 8601, where the export has it as seconds since 1970 or in a form of its own."""
    text = str(value).strip()
    try:
        if found is not _OWN and re.fullmatch(r"\d{9,11}", text):
            return datetime.fromtimestamp(int(text), UTC).isoformat()
        if found.date_form and "-" not in text:
            return datetime.strptime(text, found.date_form).date().isoformat()  # noqa: DTZ007 - a day, of UTC
    except (ValueError, OverflowError) as error:
        raise _fault(number, f"has the date {text[:40]!r}") from error
    return value


def _csv_rows(text: str) -> tuple[list[dict[str, Any]], bool]:
    """The rows by column, from the header on, and whether they are cut at semicolons."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    start, cut = _header(lines)
    try:
        reader = csv.DictReader(io.StringIO("".join(lines[start:]), newline=""), delimiter=cut, strict=True)
        names = list(reader.fieldnames or ())
        rows = list(reader)
    except csv.Error as error:
        raise InvalidInput(f"The bill is not CSV: {error}. {_FORM}", param="bill") from error
    read = _format_of(names).columns
    plain = [_plain(name) for name in names]
    for name, known in zip(names, plain, strict=True):
        if known in read and plain.count(known) > 1:
            raise InvalidInput(f"The bill has the column {name} {plain.count(known)} times. {_FORM}", param="bill")
    for number, row in enumerate(rows, start=1):
        if None in row:  # as of 1,204 tokens, which would be read as one
            raise _fault(number, f"has more than the {len(names)} cells of the header; write numbers without commas")
    return rows, cut == ";"


def _header(lines: Sequence[str]) -> tuple[int, str]:
    """Which line is the header, and what cuts it into cells: exports have lines about the account before it."""
    for place, line in enumerate(lines[:_HEADER_WITHIN_LINES]):
        for cut in (",", ";", "\t"):
            cells = {_plain(cell) for cell in line.split(cut)}
            if any(set(each.known_by) <= cells for each in (_OWN, *formats())):
                return place, cut
    return 0, ","


def _json_rows(text: str) -> list[Any]:
    try:
        rows = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The bill is not JSON. {_FORM}", param="bill") from error
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = [line for bucket in rows["data"] for line in _of_bucket(bucket)]
    if not isinstance(rows, list):
        raise InvalidInput(f"The bill is not an array of objects. {_FORM}", param="bill")
    return rows


def _of_bucket(bucket: object) -> list[Any]:
    """The results of one span of time, as OpenAI's usage API answers them, each with its start."""
    if not isinstance(bucket, dict) or not isinstance(bucket.get("results"), list):
        return [bucket]
    found: list[Any] = []
    for result in bucket["results"]:
        if not isinstance(result, dict):
            found.append(result)
            continue
        amount = result.get("amount")
        amounts = {f"amount_{name}": value for name, value in amount.items()} if isinstance(amount, dict) else {}
        found.append({"start_time": bucket.get("start_time"), **result, **amounts})
    return found


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
    if not exact.is_finite() or exact.adjusted() >= _MAX_NUMBER_DIGITS:
        raise _fault(number, f"has {text!r} for {name}")
    return exact


def _fault(number: int, what: str) -> InvalidInput:
    return InvalidInput(f"Row {number} of the bill {what}. {_FORM}", param="bill")
