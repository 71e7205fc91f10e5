"""Resolves a model to candidates: its routes, in the order in which they are to be tried. Asks no provider.

A route that cannot honour what the request names is left out; if none is left, the option is refused by name.
"""

from collections.abc import Callable, Collection

from msgspec.structs import replace

from embedgate.catalog import Catalog
from embedgate.core.actions import ACTIONS
from embedgate.core.aliases import NO_ALIASES, Aliases
from embedgate.core.errors import (
    GatewayError,
    ModelNotAtProvider,
    ProviderKeyMissing,
    UnknownModel,
    UnknownProvider,
    UnsupportedOption,
)
from embedgate.core.models import Model, Route
from embedgate.core.quantise import BITS_PER_NUMBER, PACKED, Quantisation
from embedgate.core.types import AnyRequest, Candidate, EmbedRequest
from embedgate.engine.routing.find_model import aliased
from embedgate.engine.routing.order import RouteOrder


class Resolver:
    """Resolves requests by the catalogue and by which providers are switched on."""

    def __init__(
        self,
        catalog: Catalog,
        switched_on: Collection[str],
        explain_off: Callable[[str], str],
        refuses_unpriced: bool = False,
        *,
        order: RouteOrder,
        aliases: Aliases = NO_ALIASES,
    ) -> None:
        """switched_on: names of providers that can be called. explain_off: how to switch one on, for messages.

        refuses_unpriced: whether routes without a known price are left out. order: which of the others go first.
        aliases: names that a fallback may have, too.
        """
        self._aliases = aliases
        self._order = order
        self._refuses_unpriced = refuses_unpriced
        self._catalog = catalog
        self._switched_on = switched_on
        self._explain_off = explain_off
        self._is_constant = order.is_constant
        self._plain: dict[str, tuple[Candidate, ...]] = {}

    def resolve(self, request: AnyRequest, model: Model, project_id: str | None = None) -> tuple[Candidate, ...]:
        """At least one candidate, best first; those of a fallback model last. model: the asked one.

        project_id: of the caller.

        Raises UnknownProvider, ModelNotAtProvider, ProviderKeyMissing, UnknownModel or UnsupportedOption.
        """
        is_plain = self._is_constant and request.provider is None and request.routing is None
        if is_plain and request.fallback_model is None and _asks_nothing(request):
            # The same for every such request, as long as this object lives.
            known = self._plain.get(model.id)
            if known is None:
                routes = self._routes(model, request)
                known = self._plain[model.id] = tuple(Candidate(model, route) for route in routes)
            return known
        candidates = [Candidate(model, route) for route in self._routes(model, request)]
        if request.fallback_model:
            fallback = self._fallback(model, request, project_id)
            routes = self._routes(fallback, request, pinned=False)
            # It may be the asked model itself, at its other providers.
            tried = [candidate.route.provider for candidate in candidates if fallback is model]
            candidates += [Candidate(fallback, route) for route in routes if route.provider not in tried]
        return tuple(candidates)

    def can_cut(self, request: EmbedRequest, model: Model, project_id: str | None = None) -> bool:
        """Whether the request would have a route if it asked for over-long inputs to be cut at their end."""
        try:
            self.resolve(replace(request, truncate="end"), model, project_id)
        except GatewayError:
            return False
        return True

    def _routes(self, model: Model, request: AnyRequest, pinned: bool = True) -> list[Route]:
        routes = list(model.routes)
        named = ((request.provider,) if request.provider else request.routing.order if request.routing else ()) * pinned
        if named:
            routes = self._at(model, named)
        usable = [route for route in routes if route.provider in self._switched_on]
        if not usable:
            raise ProviderKeyMissing(self._explain_missing(model, routes), param="model")
        honouring = [route for route in usable if self._refusal(model, route, request) is None]
        if not honouring:
            raise self._refusal(model, usable[0], request) or UnsupportedOption("no route honours the request")
        return (
            honouring if named else self._order.order(model, honouring, request.routing.by if request.routing else None)
        )

    def _refusal(self, model: Model, route: Route, request: AnyRequest) -> GatewayError | None:
        if self._refuses_unpriced and route.price is None:
            return UnsupportedOption(
                f"{model.id} at {route.provider} has no known price, and this gateway refuses such models. Ask your "
                "administrator to give it one in the catalogue file.",
                param="model",
            )
        return refusal(model, route, request) if isinstance(request, EmbedRequest) else None

    def _at(self, model: Model, providers: Collection[str]) -> list[Route]:
        """The model's routes at the named providers, in that order."""
        known = self._catalog.providers()
        for provider in providers:
            if provider not in known:
                raise UnknownProvider(f"There is no provider {provider[:100]!r} here.", param="provider")
        routes = [route for name in dict.fromkeys(providers) for route in model.routes if route.provider == name]
        if not routes:
            raise ModelNotAtProvider(
                f"{model.id} is not served by {', '.join(providers)}. It is served by "
                f"{', '.join(sorted({route.provider for route in model.routes}))}.",
                param="model",
            )
        return routes

    def _explain_missing(self, model: Model, routes: list[Route]) -> str:
        ways = "; ".join(dict.fromkeys(self._explain_off(route.provider) for route in routes))
        message = f"{model.id} is known, but no provider that serves it is switched on: {ways}."
        usable = [
            (not route.is_free, other.id)
            for other in self._catalog.models()
            for route in other.routes
            if other.action == model.action and route.provider in self._switched_on
        ]
        return f"{message} Until then, use {min(usable)[1]}." if usable else message

    def _fallback(self, asked: Model, request: AnyRequest, project_id: str | None) -> Model:
        name = request.fallback_model or ""
        fallback = self._catalog.find(aliased(name, project_id, self._aliases, self._catalog))
        if fallback is None or fallback.action != asked.action:
            raise UnknownModel(
                f"The fallback {name[:200]!r} is not known here as a model for {ACTIONS[asked.action].purpose}. "
                "See GET /v1/models.",
                param="provider.fallback",
            )
        is_free = not isinstance(request, EmbedRequest) or request.allow_space_change
        if fallback.space != asked.space and not is_free:
            raise UnsupportedOption(
                f"The fallback {fallback.id} makes vectors of another space ({fallback.space}) than {asked.id} "
                f"({asked.space}); they cannot be compared. Name a model of the same space, or send "
                '"allow_space_change": true.',
                param="provider.fallback",
            )
        return fallback


def _asks_nothing(request: AnyRequest) -> bool:
    """Whether the request has no option that a route might not honour."""
    if not isinstance(request, EmbedRequest):
        return True
    has_option = request.options or request.quantisation is not None or request.truncate != "none"
    return request.dim is None and not has_option


def refusal(model: Model, route: Route, request: EmbedRequest) -> GatewayError | None:
    """Why a route cannot honour the request, or None if it can, natively or by sound emulation."""
    native = route.dims.default
    dim = request.dim
    if dim is not None and dim != native and not (model.is_matryoshka or (route.accepts_dim and dim in route.dims)):
        return UnsupportedOption(
            f"{model.id} at {route.provider} has vectors of {native} only; dimensions {dim} is not possible there.",
            param="dimensions",
        )
    if not route.can_truncate(request.truncate, route.prefix_of(request.input_type)):
        return UnsupportedOption(
            f"{model.id} at {route.provider} cannot cut over-long inputs at their {request.truncate}, and this gateway "
            f"has no tokenizer of that model to do it here. {_instead(route)}",
            param="truncate",
        )
    if request.quantisation is not None and (reason := _unfit(model, dim or native, request.quantisation)):
        return UnsupportedOption(
            f"encoding_format {request.quantisation} is not possible with {model.id}: {reason}", param="encoding_format"
        )
    if request.options and not route.accepts_unknown_options:
        names = ", ".join(sorted(request.options)[:5])
        return UnsupportedOption(
            f"{model.id} at {route.provider} does not take: {names[:200]}. Leave it out.",
            param=min(request.options)[:100],
        )
    return None


def _instead(route: Route) -> str:
    """What to do where a route cannot truncate as asked."""
    if route.can_truncate("end"):
        return 'Send "truncate": "end", or shorten or split texts that are too long.'
    return "Leave truncate out, and shorten or split texts that are too long."


def _unfit(model: Model, dim: int, quantisation: Quantisation) -> str:
    """Why vectors of that size cannot be rounded so, and what to do; empty if they can."""
    if not model.is_normalised:
        return "its vectors differ in length, too, and rounding would lose that. Use float or base64."
    if quantisation in PACKED and dim % BITS_PER_NUMBER:
        return f"eight numbers become one, and its vectors have {dim}, which is not a multiple of 8. Use int8 or float."
    return ""
