"""Offer of models to a caller: those with routes that are on and permitted, and the health of these routes.

Calls no provider, counts in no limit and leaves no event in the audit trail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from embedgate.core.access import Caller
from embedgate.core.models import Model, Route
from embedgate.core.types import Candidate
from embedgate.engine.admission.admit import Admission
from embedgate.engine.routing.drift import DriftWatch
from embedgate.engine.routing.route_health import HealthReport, RouteHealths

RouteCondition = Literal["ok", "failing", "probing", "drifted", "unknown"]


@dataclass(frozen=True, slots=True)
class OfferedRoute:
    """A route that the caller may use. `condition` is that of its health, unless its vectors have drifted."""

    route: Route
    condition: RouteCondition
    health: HealthReport


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model that the caller may use, on at least one route."""

    model: Model
    routes: tuple[OfferedRoute, ...]


class Offer:
    """Works out which models a caller may use."""

    def __init__(
        self, admission: Admission, states: RouteHealths, drift: DriftWatch, *, refuses_unpriced: bool
    ) -> None:
        """refuses_unpriced: whether routes without a known price are not served."""
        self._admission = admission
        self._states = states
        self._drift = drift
        self._refuses_unpriced = refuses_unpriced

    async def of(self, models: Sequence[Model], caller: Caller, ip_address: str) -> list[OfferedModel]:
        """Of some models with the routes that are on, those that the policies permit the caller, in the same order.

        Raises InternalError if policies read what was spent, and the ledger cannot be read.
        """
        candidates = [
            Candidate(model, route)
            for model in models
            for route in model.routes
            if route.price is not None or not self._refuses_unpriced
        ]
        found: dict[str, tuple[Model, list[OfferedRoute]]] = {}
        for candidate in await self._admission.usable(caller, candidates, ip_address):
            _, routes = found.setdefault(candidate.model.id, (candidate.model, []))
            routes.append(self._route(candidate))
        return [OfferedModel(model, tuple(routes)) for model, routes in found.values()]

    def _route(self, candidate: Candidate) -> OfferedRoute:
        health = self._states.of(candidate).health()
        has_drifted = self._drift.is_drifted(candidate.model.id, candidate.route.provider)
        return OfferedRoute(candidate.route, "drifted" if has_drifted else health.state, health)
