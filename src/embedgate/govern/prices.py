"""Prices that administrators set for a model at a provider from a time on. They override the catalogue.

Those of the past stay, so that what a price was can be seen.
"""

from typing import Annotated, Any

import sqlalchemy as sa
from msgspec import Meta, Struct
from sqlalchemy.exc import IntegrityError

from embedgate.core.access import PriceRule
from embedgate.core.errors import (
    ConfigError,
    Conflict,
    InvalidInput,
    ModelNotAtProvider,
    UnknownEntity,
    UnknownModel,
    UnknownProvider,
)
from embedgate.core.money import PICODOLLARS_PER_DOLLAR, price_from_usd_per_million
from embedgate.govern.aliases import model_ids, unaliased
from embedgate.govern.change import Change, Reading
from embedgate.govern.fields import MAX_TIME_MS, check_number, findable
from embedgate.govern.lists import Listed, ListQuery, pick, sorts
from embedgate.govern.models import find_route
from embedgate.govern.operation import Facts, changes, reads
from embedgate.govern.values import Moment, Usd, UsdGiven, milliseconds, moment, price_text, read_usd
from embedgate.storage import schema

# A dollar a token: no list comes near it, and the cost of any request stays far below the greatest whole number.
_MAX_PICODOLLARS_PER_TOKEN = PICODOLLARS_PER_DOLLAR
_TABLE = schema.prices


class Price(Struct, frozen=True):
    """What a model costs at a provider from a time on, until the next price."""

    model: str
    provider: str
    usd_per_million_tokens: Usd
    since: Moment


class NewPrice(Struct, forbid_unknown_fields=True):
    """A price."""

    model: Annotated[str, Meta(description="Name or id of a model.")]
    provider: str
    usd_per_million_tokens: UsdGiven
    since: Annotated[Moment | None, Meta(description="From when on, past or future; absent: now.")] = None


class PriceQuery(ListQuery):
    """Which prices."""

    sort: Annotated[str, sorts("model", "provider", "since")] = ""


class WhichPrice(Struct, forbid_unknown_fields=True):
    """A price, as the list has it. A model that is no longer in the catalogue is named by its id."""

    model: str
    provider: str
    since: Moment


@reads("prices.list", "GET", "/api/prices", Facts("listPrices"))
def list_prices(reading: Reading, query: PriceQuery) -> Listed[Price]:
    """List the prices that were set here."""
    return pick(map(_price, read_prices(reading.connection)), query)


@changes(
    "prices.add",
    "POST",
    "/api/prices",
    Facts(
        "addPrice",
        status=201,
        example={"model": "openai/text-embedding-3-small", "provider": "openai", "usd_per_million_tokens": "0.02"},
        raises=(UnknownModel, UnknownProvider, ModelNotAtProvider),
    ),
)
def add_price(change: Change, new: NewPrice) -> Price:
    """Set a price.

    It counts from its time on; what was billed before stays as it is.
    """
    model, route = find_route(change.resources.catalog(), unaliased(change, new.model), new.provider)
    from_ms = change.now_ms if new.since is None else milliseconds(new.since)
    rule = PriceRule(model.id, route.provider, picodollars_per_token(new.usd_per_million_tokens), from_ms)
    check_number(from_ms, "time in ms", param="from_ms", minimum=0, maximum=MAX_TIME_MS)
    row = {
        "model": rule.model,
        "provider": rule.provider,
        "from_ms": from_ms,
        "picodollars_per_token": rule.picodollars_per_token,
    }
    try:
        change.connection.execute(_TABLE.insert().values(row))
    except IntegrityError as error:
        raise Conflict(
            f"There is already a price of {rule.model} at {rule.provider} from {from_ms} ms. Delete that one first, or "
            "give another time.",
            param="from_ms",
        ) from error
    return _changed(change, "prices.add", rule)


@changes("prices.delete", "DELETE", "/api/prices", Facts("deletePrice", raises=(UnknownEntity,)))
def delete_price(change: Change, which: WhichPrice) -> None:
    """Delete a price.

    The one before it is in force again.
    """
    (model,), from_ms = model_ids(change, (which.model,)), milliseconds(which.since)
    is_meant = sa.and_(
        _TABLE.c.model == findable(model), _TABLE.c.provider == findable(which.provider), _TABLE.c.from_ms == from_ms
    )
    row = change.connection.execute(_TABLE.delete().where(is_meant).returning(_TABLE)).one_or_none()
    if row is None:
        raise UnknownEntity(f"There is no price of {model} at {which.provider} from {from_ms} ms. List the prices.")
    _changed(change, "prices.delete", _rule(row))


def read_prices(connection: sa.Connection) -> tuple[PriceRule, ...]:
    """Every price, by model and provider, the oldest first."""
    rows = connection.execute(_TABLE.select().order_by(_TABLE.c.model, _TABLE.c.provider, _TABLE.c.from_ms))
    return tuple(map(_rule, rows))


def _changed(change: Change, action: str, rule: PriceRule) -> Price:
    price = _price(rule)
    change.rules_changed()
    change.note(
        action,
        rule.model,
        provider=rule.provider,
        usd_per_million_tokens=price.usd_per_million_tokens,
        from_ms=rule.from_ms,
    )
    return price


def _price(rule: PriceRule) -> Price:
    return Price(rule.model, rule.provider, price_text(rule.picodollars_per_token), moment(rule.from_ms))


def _rule(row: sa.Row[Any]) -> PriceRule:
    return PriceRule(**row._mapping)


def picodollars_per_token(usd_per_million_tokens: str) -> int:
    """A price given in dollars per million tokens. Raises InvalidInput if it is none."""
    amount = read_usd(usd_per_million_tokens, "price per million tokens", param="usd_per_million_tokens")
    try:
        picodollars = price_from_usd_per_million(amount)
    except ConfigError as error:
        raise InvalidInput(str(error), param="usd_per_million_tokens") from error
    check_number(
        picodollars,
        "price in picodollars per token",
        param="picodollars_per_token",
        minimum=0,
        maximum=_MAX_PICODOLLARS_PER_TOKEN,
    )
    return picodollars


OPERATIONS = (list_prices, add_price, delete_price)
