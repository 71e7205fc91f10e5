"""Prices of ours, each from a time on. Those of the past stay, so that what a price was can be seen."""

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from embedgate.core.access import PriceRule
from embedgate.core.errors import Conflict, UnknownEntity
from embedgate.core.money import PICODOLLARS_PER_DOLLAR
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import MAX_TIME_MS, check_name, check_number, findable
from embedgate.storage.revision import count_up

_MAX_MODEL_CHARACTERS = 255
# A dollar a token: no list comes near it, and the cost of any request stays far below the greatest whole number.
_MAX_PICODOLLARS_PER_TOKEN = PICODOLLARS_PER_DOLLAR
_TABLE = schema.prices


class SqlPrices:
    """Prices, blocking. Every method is one transaction, and raises InternalError if the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, price: PriceRule) -> PriceRule:
        """A price from a time on, past or future. Whether model and provider exist is not asked.

        Raises InvalidInput for an unfit field, Conflict if there is one from that very time.
        """
        check_name(price.model, "model", param="model", max_characters=_MAX_MODEL_CHARACTERS)
        check_name(price.provider, "provider", param="provider")
        check_number(
            price.picodollars_per_token,
            "price in picodollars per token",
            param="picodollars_per_token",
            minimum=0,
            maximum=_MAX_PICODOLLARS_PER_TOKEN,
        )
        check_number(price.from_ms, "time in ms", param="from_ms", minimum=0, maximum=MAX_TIME_MS)
        try:
            with self._database.write() as connection:
                connection.execute(
                    _TABLE.insert().values(
                        model=price.model,
                        provider=price.provider,
                        from_ms=price.from_ms,
                        picodollars_per_token=price.picodollars_per_token,
                    )
                )
                count_up(connection)
        except IntegrityError as error:
            raise Conflict(
                f"There is already a price of {price.model} at {price.provider} from {price.from_ms} ms. Delete that "
                "one first, or give another time.",
                param="from_ms",
            ) from error
        return price

    def delete(self, model: str, provider: str, from_ms: int) -> PriceRule:
        """Delete a price, and return it. The one before it is in force again. Raises UnknownEntity."""
        is_meant = sa.and_(
            _TABLE.c.model == findable(model), _TABLE.c.provider == findable(provider), _TABLE.c.from_ms == from_ms
        )
        with self._database.write() as connection:
            row = connection.execute(_TABLE.delete().where(is_meant).returning(_TABLE)).one_or_none()
            if row is None:
                raise UnknownEntity(f"There is no price of {model} at {provider} from {from_ms} ms. List the prices.")
            count_up(connection)
        return PriceRule(**row._mapping)


def read_prices(connection: sa.Connection) -> tuple[PriceRule, ...]:
    """Every price, by model and provider, the oldest first."""
    rows = connection.execute(_TABLE.select().order_by(_TABLE.c.model, _TABLE.c.provider, _TABLE.c.from_ms))
    return tuple(PriceRule(**row._mapping) for row in rows)
