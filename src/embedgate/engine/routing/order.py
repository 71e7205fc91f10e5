"""Order in which the routes of a model are tried: listed, by weight, latency, price or throughput.

Health does not matter here: `failover` puts healthy routes first.
"""

import math
import random
from collections.abc import Callable, Sequence

from embedgate.core.models import Model, Route
from embedgate.core.types import Candidate, OrderBy
from embedgate.engine.routing.route_health import RouteHealth, RouteHealths

_LOOKS_ELSEWHERE = 1 / 20
"""So often the route that was measured longest ago goes first: what is never asked cannot become the quickest."""


class RouteOrder:
    """Orders routes by what requests or settings ask for, and by recent latency and throughput."""

    def __init__(
        self, healths: RouteHealths, default: OrderBy = "list", dice: Callable[[], float] = random.random
    ) -> None:
        """default: for requests that ask for no order. dice: random numbers from 0 to 1."""
        self._healths = healths
        self._default = default
        self._dice = dice
        self.is_constant = default in ("list", "price")
        """Whether the order of requests that ask for none is always the same."""

    def order(self, model: Model, routes: Sequence[Route], by: OrderBy | None) -> list[Route]:
        """The routes of one model, best first. by: None for the order of the settings."""
        by = by or self._default
        if by == "list" or len(routes) < 2:
            return list(routes)
        if by == "price":
            return sorted(routes, key=_price)
        if by == "weight":
            return sorted(routes, key=self._draw)
        known = [(self._healths.of(Candidate(model, route)), route) for route in routes]
        measure = _latency if by == "latency" else _slowness
        known.sort(key=lambda each: measure(each[0]))
        well = [each for each in known if each[0].is_well]
        if well and self._dice() < _LOOKS_ELSEWHERE:
            stalest = min(well, key=lambda each: _seen_at(each[0]))
            known = [stalest, *(each for each in known if each is not stalest)]
        return [route for _, route in known]

    def _draw(self, route: Route) -> float:
        """A number that is the smallest of all as often as the route's share of the weights; weight 0 comes last."""
        return -math.log(1 - self._dice()) / route.weight if route.weight else math.inf


def _price(route: Route) -> float:
    return route.price.picodollars_per_token if route.price else math.inf


def _latency(health: RouteHealth) -> float:
    return math.inf if health.latency_s is None else health.latency_s


def _slowness(health: RouteHealth) -> float:
    return -(health.tokens_per_s or 0.0)


def _seen_at(health: RouteHealth) -> float:
    return -math.inf if health.seen_at_s is None else health.seen_at_s
