"""Settlement of estimated costs by a provider's bill: what was not billed is given back to who was charged for it.

The ledger stays append-only: each entry with an estimate gets one entry more, of outcome `settled` at the same time,
that takes the estimate away and the part of tokens and cost that the bill does not have. Budgets follow at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, NamedTuple

import sqlalchemy as sa
from msgspec import Meta, Struct
from msgspec.structs import replace

from embedgate.core.errors import InvalidInput, UnknownProvider
from embedgate.core.money import usd_text
from embedgate.core.types import LedgerEntry
from embedgate.engine.ledger.tokens import split
from embedgate.govern.bills import BillLine, read_bill
from embedgate.govern.change import Change, Reading
from embedgate.govern.operation import Facts, changes, reads
from embedgate.govern.reconcile import MS_PER_DAY, Bill, check_provider, days_of, start_ms
from embedgate.govern.values import Usd
from embedgate.storage import schema
from embedgate.storage.appender import Appender

SETTLED = "settled"
"""Outcome of an entry that corrects another one; no request of its own."""
_LEDGER = schema.ledger
_COLUMNS = tuple(_LEDGER.c[name] for name in LedgerEntry.__struct_fields__)
_SUFFIX = "/settled"
_MAX_ENTRIES = 100_000


class SettledPlace(Struct, frozen=True):
    """Estimates of one UTC day and one of the provider's models, and what becomes of them."""

    day: date
    model: Annotated[str, Meta(description="By the provider's own name.")]
    requests: int
    estimated_usd: Usd
    is_on_bill: Annotated[bool, Meta(description="Whether the bill says anything of it; if not, it stays as it is.")]
    returned_usd: Usd


class Settled(Struct, frozen=True):
    """What was settled: requests, what had been charged for them by estimate, and what of it was given back."""

    requests: int
    estimated_usd: Usd
    returned_usd: Usd
    kept_requests: Annotated[int, Meta(description="Requests with an estimate that the bill says nothing of.")] = 0
    kept_usd: Annotated[Usd, Meta(description="Their estimates, which stay as they are.")] = "0.0"


class Settlement(Struct, frozen=True):
    """What a bill would settle."""

    places: Annotated[tuple[SettledPlace, ...], Meta(description="Days and models with estimates.")]
    total: Settled
    unknown_models: Annotated[
        tuple[str, ...], Meta(description="Names on the bill that the ledger does not have of this provider then.")
    ]


_EXAMPLE = {"provider": "openai", "bill": "date,model,tokens\n2026-11-21,text-embedding-3-small,1204\n"}


@reads(
    "usage.preview_settlement",
    "POST",
    "/api/usage/settle/preview",
    Facts("previewSettlement", example=_EXAMPLE, max_body_bytes=10_000_000, raises=(UnknownProvider,)),
)
def preview_settlement(reading: Reading, bill: Bill) -> Settlement:
    """Show what a bill would settle.

    Nothing is changed. Estimates of days and models that the bill does not name are listed, and would stay.
    """
    plan = _plan(reading, bill)
    places = (
        SettledPlace(
            day,
            model,
            len(place.entries),
            usd_text(sum(entry.estimated_picodollars for entry in place.entries)),
            place.is_on_bill,
            usd_text(-sum(each.cost_picodollars for each in place.corrections)),
        )
        for (day, model), place in sorted(plan.places.items())
    )
    return Settlement(tuple(places), _total(plan), _unknown_models(reading, bill, plan))


@changes(
    "usage.settle",
    "POST",
    "/api/usage/settle",
    Facts("settle", example=_EXAMPLE, max_body_bytes=10_000_000, raises=(UnknownProvider,)),
)
def settle(change: Change, bill: Bill) -> Settled:
    """Settle estimated costs by a provider's bill.

    By UTC day and by the provider's own name of the model: what the ledger has beyond the bill is taken off the
    estimates, those of interrupted requests and of calls without an answer. It counts in no budget any more. Only what
    the bill names is settled: a day and model with a line, which may have 0 tokens; and, where first and last say that
    the bill is for all days between them, the other days of a model that it names. A bill that is settled again changes
    nothing.
    """
    plan = _plan(change, bill)
    corrections = [each for place in plan.places.values() for each in place.corrections]
    Appender(change.connection.dialect)(change.connection.exec_driver_sql, corrections)
    total = _total(plan)
    if any(each.cost_picodollars for each in corrections):
        change.rules_changed()  # so that every gateway takes the sums of its budgets anew
    change.note(
        "usage.settle",
        bill.provider,
        requests=total.requests,
        returned_usd=total.returned_usd,
        first=plan.first.isoformat(),
    )
    return total


class _Place(NamedTuple):
    """Estimates of one day and model, and the entries that settle them: none if the bill does not name it."""

    entries: Sequence[LedgerEntry]
    is_on_bill: bool
    corrections: Sequence[LedgerEntry]


class _Plan(NamedTuple):
    first: date
    last: date
    billed_models: frozenset[str]
    places: Mapping[tuple[date, str], _Place]


def _plan(reading: Reading, bill: Bill) -> _Plan:
    """What a bill settles. Raises InvalidInput for what is no bill, or if too many entries are estimated."""
    check_provider(reading, bill.provider)
    lines = read_bill(bill.bill, bill.format)
    first, last = days_of(bill, lines)
    billed: dict[tuple[date, str], list[BillLine]] = {}
    for line in lines:
        billed.setdefault((line.day, line.model), []).append(line)
    # A name that is wrong, or a day that was left out, must not give everything back. That a bill is for whole days is
    # what whoever states both ends of it says.
    models = frozenset(line.model for line in lines if first <= line.day <= last)
    is_for_whole_days = bill.first is not None and bill.last is not None
    places: dict[tuple[date, str], _Place] = {}
    for place, entries in _estimated(reading, bill.provider, first, last).items():
        is_on_bill = place in billed or (is_for_whole_days and place[1] in models)
        corrections = (
            _corrections(reading, bill.provider, place, entries, billed.get(place, []), lines[0]) if is_on_bill else []
        )
        places[place] = _Place(entries, is_on_bill, corrections)
    return _Plan(first, last, models, places)


def _total(plan: _Plan) -> Settled:
    corrections = [each for place in plan.places.values() for each in place.corrections]
    kept = [entry for place in plan.places.values() if not place.is_on_bill for entry in place.entries]
    return Settled(
        len(corrections),
        usd_text(-sum(each.estimated_picodollars for each in corrections)),
        usd_text(-sum(each.cost_picodollars for each in corrections)),
        len(kept),
        usd_text(sum(entry.estimated_picodollars for entry in kept)),
    )


def _unknown_models(reading: Reading, bill: Bill, plan: _Plan) -> tuple[str, ...]:
    """Models on the bill that the ledger does not have: names that are spelt otherwise, or what others have used."""
    query = (
        sa.select(_LEDGER.c.upstream_model)
        .distinct()
        .where(_LEDGER.c.provider == bill.provider)
        .where(_LEDGER.c.at_ms >= start_ms(plan.first), _LEDGER.c.at_ms < start_ms(plan.last) + MS_PER_DAY)
    )
    return tuple(sorted(plan.billed_models.difference(reading.connection.execute(query).scalars())))


def _estimated(reading: Reading, provider: str, first: date, last: date) -> dict[tuple[date, str], list[LedgerEntry]]:
    """Entries with an estimate that was not settled yet, by day and model. Raises InvalidInput if they are too many."""
    correction = _LEDGER.alias()
    is_settled = sa.exists().where(correction.c.request_id == _LEDGER.c.request_id + _SUFFIX)
    query = (
        sa.select(*_COLUMNS)
        .where(_LEDGER.c.provider == provider, _LEDGER.c.outcome != SETTLED)
        .where(_LEDGER.c.at_ms >= start_ms(first), _LEDGER.c.at_ms < start_ms(last) + MS_PER_DAY)
        .where(sa.or_(_LEDGER.c.estimated_picodollars > 0, _LEDGER.c.estimated_tokens > 0), ~is_settled)
        .order_by(_LEDGER.c.id)
        .limit(_MAX_ENTRIES + 1)
    )
    found: dict[tuple[date, str], list[LedgerEntry]] = {}
    rows = reading.connection.execute(query).all()
    if len(rows) > _MAX_ENTRIES:
        raise InvalidInput(
            f"More than {_MAX_ENTRIES} entries are estimated; settle fewer days at once: give first and last.",
            param="bill",
        )
    for row in rows:
        entry = LedgerEntry(*row)
        found.setdefault((_day(entry.at_ms), entry.upstream_model), []).append(entry)
    return found


def _corrections(
    reading: Reading,
    provider: str,
    place: tuple[date, str],
    entries: Sequence[LedgerEntry],
    billed: Sequence[BillLine],
    states: BillLine,
) -> list[LedgerEntry]:
    """The entries that settle those of one day and model. states: what the bill states, tokens or costs or both."""
    tokens, cost = _sums(reading, provider, place)
    estimated_tokens = sum(entry.estimated_tokens for entry in entries)
    estimated_cost = sum(entry.estimated_picodollars for entry in entries)
    more_tokens = more_cost = 0
    if states.tokens is not None:
        more_tokens = _within(tokens - sum(line.tokens or 0 for line in billed), estimated_tokens)
        more_cost = estimated_cost * more_tokens // estimated_tokens if estimated_tokens else 0
    if states.cost_picodollars is not None:
        more_cost = _within(cost - sum(line.cost_picodollars or 0 for line in billed), estimated_cost)
        if states.tokens is None:
            more_tokens = estimated_tokens * more_cost // estimated_cost if estimated_cost else 0
    token_shares = _shares(more_tokens, [entry.estimated_tokens for entry in entries])
    cost_shares = _shares(more_cost, [entry.estimated_picodollars for entry in entries])
    return [
        replace(
            entry,
            request_id=entry.request_id + _SUFFIX,
            items=0,
            tokens=-token_share,
            reused_tokens=0,
            output_tokens=0,
            cost_picodollars=-cost_share,
            estimated_tokens=-entry.estimated_tokens,
            estimated_picodollars=-entry.estimated_picodollars,
            outcome=SETTLED,
            total_ms=0.0,
            upstream_ms=0.0,
            authenticate_ms=0.0,
            admit_ms=0.0,
        )
        for entry, token_share, cost_share in zip(entries, token_shares, cost_shares, strict=True)
    ]


def _sums(reading: Reading, provider: str, place: tuple[date, str]) -> tuple[int, int]:
    """Tokens and picodollars that the ledger has for a day and a model, as whole numbers of any size."""
    day, model = place
    query = sa.select(_LEDGER.c.tokens, _LEDGER.c.cost_picodollars).where(
        _LEDGER.c.provider == provider,
        _LEDGER.c.upstream_model == model,
        _LEDGER.c.at_ms >= start_ms(day),
        _LEDGER.c.at_ms < start_ms(day) + MS_PER_DAY,
    )
    tokens = cost = 0
    for row_tokens, row_cost in reading.connection.execute(query):
        tokens += row_tokens
        cost += row_cost
    return tokens, cost


def _shares(total: int, weights: Iterable[int]) -> tuple[int, ...]:
    found = list(weights)
    return split(total, found) if total else (0,) * len(found)


def _within(number: int, at_most: int) -> int:
    return max(0, min(number, at_most))


def _day(at_ms: int) -> date:
    return date.fromordinal(date(1970, 1, 1).toordinal() + at_ms // MS_PER_DAY)


OPERATIONS = (preview_settlement, settle)
