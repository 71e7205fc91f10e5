"""Routes for prices of ours, which count before those of the catalogue."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import PriceRule
from embedgate.core.errors import ModelNotAtProvider, UnknownEntity, UnknownModel, UnknownProvider
from embedgate.govern.values import price_text
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, Moment, Usd, UsdGiven, milliseconds, moment, pick, sorts


class Price(Struct, frozen=True):
    """What a model costs at a provider from a time on, until the next price."""

    model: str
    provider: str
    usd_per_million_tokens: Usd
    since: Moment


class PriceToAdd(Struct, forbid_unknown_fields=True):
    """A price."""

    model: Annotated[str, Meta(description="Name or id of a model.")]
    provider: str
    usd_per_million_tokens: UsdGiven
    since: Annotated[Moment | None, Meta(description="From when on, past or future; absent: now.")] = None


class PriceQuery(ListQuery):
    """Which prices."""

    sort: Annotated[str, sorts("model", "provider", "since")] = ""


class PriceToDelete(Struct, forbid_unknown_fields=True):
    """Which price, as the list has it."""

    model: str
    provider: str
    since: Moment


def _price(rule: PriceRule) -> Price:
    return Price(rule.model, rule.provider, price_text(rule.picodollars_per_token), moment(rule.from_ms))


def _list(asked: Asked) -> Listed:
    return pick(map(_price, asked.administration.prices.list()), asked.query)


def _add(asked: Asked) -> Price:
    new: PriceToAdd = asked.body
    return _price(
        asked.administration.prices.add(
            new.model, new.provider, new.usd_per_million_tokens, from_ms=milliseconds(new.since)
        )
    )


def _delete(asked: Asked) -> None:
    which: PriceToDelete = asked.query
    asked.administration.prices.delete(which.model, which.provider, milliseconds(which.since) or 0)


ROUTES = (
    Route("GET", "/api/prices", "listPrices", "List the prices of ours", _list, Price, query=PriceQuery, is_list=True),
    Route(
        "POST",
        "/api/prices",
        "addPrice",
        "Set a price",
        _add,
        Price,
        "It counts from its time on; what was billed before stays as it is.",
        body=PriceToAdd,
        example={"model": "openai/text-embedding-3-small", "provider": "openai", "usd_per_million_tokens": "0.02"},
        status=201,
        is_change=True,
        raises=(UnknownModel, UnknownProvider, ModelNotAtProvider),
    ),
    Route(
        "DELETE",
        "/api/prices",
        "deletePrice",
        "Delete a price",
        _delete,
        None,
        "The one before it is in force again.",
        query=PriceToDelete,
        is_change=True,
        raises=(UnknownEntity,),
    ),
)
