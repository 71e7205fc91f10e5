"""Prices of ours, each for a model at a provider from a time on."""

from collections.abc import Callable
from decimal import Decimal

from embedgate.administration.stores import Stores
from embedgate.administration.trail import Trail
from embedgate.catalog import Catalog
from embedgate.core.access import PriceRule
from embedgate.core.errors import ConfigError, InvalidInput
from embedgate.core.money import price_from_usd_per_million, usd_text
from embedgate.govern.models import find_route
from embedgate.govern.values import read_usd


class Prices:
    """Prices, blocking. They count before those of the catalogue."""

    def __init__(self, stores: Stores, trail: Trail, catalog: Callable[[], Catalog]) -> None:
        """catalog: the one in force."""
        self._stores = stores
        self._trail = trail
        self._catalog = catalog

    def list(self) -> tuple[PriceRule, ...]:
        """Every price, by model and provider, the oldest first."""
        return self._stores.rules.load().prices

    def add(
        self, model: str, provider: str, usd_per_million_tokens: Decimal | str, *, from_ms: int | None = None
    ) -> PriceRule:
        """A price in dollars per million input tokens, from a time on, past or future; from now on by default.

        Raises UnknownModel, UnknownProvider, ModelNotAtProvider, InvalidInput for a price that is none or finer than a
        picodollar per token, Conflict if there is one from that very time.
        """
        found, route = find_route(self._catalog(), model, provider)
        picodollars = _picodollars_per_token(usd_per_million_tokens)
        with self._trail.change("prices.add") as note:
            rule = self._stores.prices.add(
                PriceRule(found.id, route.provider, picodollars, self._stores.now_ms() if from_ms is None else from_ms)
            )
            note(rule.model, **_facts(rule))
        return rule

    def delete(self, model: str, provider: str, from_ms: int) -> PriceRule:
        """Delete a price, and return it. The one before it is in force again. Raises UnknownEntity.

        model: one that is no longer in the catalogue is named by its id.
        """
        known = self._catalog().find(model)
        with self._trail.change("prices.delete") as note:
            deleted = self._stores.prices.delete(model if known is None else known.id, provider, from_ms)
            note(deleted.model, **_facts(deleted))
        return deleted


def _picodollars_per_token(usd_per_million_tokens: Decimal | str) -> int:
    amount = read_usd(usd_per_million_tokens, "price per million tokens", param="usd_per_million_tokens")
    try:
        return price_from_usd_per_million(amount)
    except ConfigError as error:
        raise InvalidInput(str(error), param="usd_per_million_tokens") from error


def _facts(rule: PriceRule) -> dict[str, str | int]:
    return {
        "provider": rule.provider,
        "usd_per_million_tokens": usd_text(rule.picodollars_per_token * 1_000_000),
        "from_ms": rule.from_ms,
    }
