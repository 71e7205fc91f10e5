"""Which route is tried first: as listed, as drawn, or as measured."""

import dataclasses
import random
from collections import Counter

import pytest

from doubles import model
from embedgate.catalog import Catalog
from embedgate.core.actions import ActionName
from embedgate.core.errors import UnknownModel, UnsupportedOption
from embedgate.core.models import Model, Price
from embedgate.core.rerank import RerankRequest
from embedgate.core.types import AnyRequest, Candidate, ChatRequest, EmbedRequest, OrderBy, Routing
from embedgate.engine.routing.order import RouteOrder
from embedgate.engine.routing.resolve import Resolver
from embedgate.engine.routing.route_health import RouteHealths
from embedgate.settings import UpstreamSettings

PROVIDERS = ("a", "b", "c")
NEVER = 0.99
"""What dice show that never look elsewhere."""


def weighted(**weights: int) -> Model:
    found = model(*weights)
    return dataclasses.replace(
        found, routes=tuple(dataclasses.replace(route, weight=weights[route.provider]) for route in found.routes)
    )


class Measured:
    """Three routes, and what is known of them."""

    def __init__(self, dice: float = NEVER) -> None:
        self.clock_s = 0.0
        self.states = RouteHealths(UpstreamSettings(), lambda: self.clock_s)
        self.model = model(*PROVIDERS)
        self._order = RouteOrder(self.states, dice=lambda: dice)

    def see(self, provider: str, seconds: float, tokens: int = 0) -> None:
        """A call of so long."""
        self.clock_s += 1
        route = next(route for route in self.model.routes if route.provider == provider)
        self.states.of(Candidate(self.model, route)).succeeded(seconds, tokens)

    def order(self, by: OrderBy) -> str:
        return "".join(route.provider for route in self._order.order(self.model, self.model.routes, by))


def test_the_quickest_goes_first_and_what_nobody_measured_last() -> None:
    routes = Measured()
    assert routes.order("latency") == "abc"
    routes.see("b", 0.5)
    routes.see("c", 0.2)
    assert routes.order("latency") == "cba"
    for _ in range(30):
        routes.see("c", 0.9)
    assert routes.order("latency") == "bca"


def test_that_with_most_tokens_in_a_second_goes_first() -> None:
    routes = Measured()
    routes.see("a", 1.0, tokens=100)
    routes.see("b", 10.0, tokens=5000)
    assert routes.order("throughput") == "bac"
    assert routes.order("list") == "abc"


def test_now_and_then_the_one_that_was_measured_longest_ago_goes_first() -> None:
    routes = Measured(dice=0.01)
    for provider in "abc":
        routes.see(provider, 0.1)
    routes.see("a", 0.1)
    assert routes.order("latency") == "bac"
    routes.see("b", 5)
    assert routes.order("latency").startswith("c")


def test_what_is_slow_now_is_found_to_be_quick_later() -> None:
    dice = random.Random(3)
    routes = Measured()
    order = RouteOrder(routes.states, "latency", dice.random)
    seconds = {"a": 0.1, "b": 2.0, "c": 1.0}
    firsts = Counter[str]()
    for turn in range(2000):
        if turn == 1000:
            seconds = {"a": 0.1, "b": 0.01, "c": 1.0}
            firsts.clear()
        first = order.order(routes.model, routes.model.routes, None)[0].provider
        firsts[first] += 1
        routes.see(first, seconds[first])
    assert firsts["b"] > 700
    assert firsts["c"] > 5


def test_routes_are_drawn_as_their_weights_say_and_without_weight_come_last() -> None:
    found = weighted(a=1, b=3, c=0)
    order = RouteOrder(RouteHealths(UpstreamSettings()), "weight", random.Random(5).random)
    drawn = Counter("".join(route.provider for route in order.order(found, found.routes, None)) for _ in range(4000))
    assert drawn.keys() == {"abc", "bac"}
    assert drawn["bac"] == pytest.approx(3000, abs=150)


def test_the_cheapest_goes_first_and_what_has_no_price_last() -> None:
    found = model(*PROVIDERS)
    prices = (None, Price(9), Price(5))
    routes = [dataclasses.replace(route, price=price) for route, price in zip(found.routes, prices, strict=True)]
    order = RouteOrder(RouteHealths(UpstreamSettings()), "price")
    assert [route.provider for route in order.order(found, routes, None)] == ["c", "b", "a"]
    assert [route.provider for route in order.order(found, routes, "list")] == ["a", "b", "c"]


def resolver(*models: Model, default: OrderBy = "price") -> Resolver:
    states = RouteHealths(UpstreamSettings())
    return Resolver(Catalog(models), PROVIDERS, lambda name: f"switch {name} on", order=RouteOrder(states, default))


def resolved(resolve: Resolver, request: AnyRequest, asked: Model) -> list[str]:
    return [f"{candidate.model.name} {candidate.route.provider}" for candidate in resolve.resolve(request, asked)]


def priced(*providers: str, name: str = "acme/m", action: ActionName = "embedding") -> Model:
    """The first provider is the dearest."""
    found = model(*providers, name=name)
    routes = tuple(dataclasses.replace(route, price=Price(len(providers) - n)) for n, route in enumerate(found.routes))
    space = found.space if action == "embedding" else None
    return dataclasses.replace(found, routes=routes, action=action, space=space)


def requests(**fields: object) -> list[AnyRequest]:
    return [
        EmbedRequest("acme/m", ("x",), **fields),  # type: ignore[arg-type]  # any field
        ChatRequest("acme/m", {}, 1, 1, **fields),  # type: ignore[arg-type]  # any field
        RerankRequest("acme/m", "q", ("x",), **fields),  # type: ignore[arg-type]  # any field
    ]


ACTIONS: tuple[ActionName, ...] = ("embedding", "chat", "rerank")


def test_what_a_request_names_counts_before_the_settings_for_every_sort_of_request() -> None:
    for action, *every in zip(
        ACTIONS,
        requests(),
        requests(routing=Routing(by="list")),
        requests(routing=Routing(order=("b", "a"))),
        requests(provider="b"),
        strict=True,
    ):
        asked = priced("a", "b", action=action)
        orders = [resolved(resolver(asked), request, asked) for request in every]
        assert orders == [["m b", "m a"], ["m a", "m b"], ["m b", "m a"], ["m b"]]


def test_a_fallback_is_a_model_of_the_same_sort_behind_all_routes_of_the_first() -> None:
    for action, request in zip(ACTIONS, requests(fallback_model="acme/n", provider="a"), strict=True):
        asked, other = priced("a", "b", action=action), priced("b", "c", name="acme/n", action=action)
        assert resolved(resolver(asked, other), request, asked) == ["m a", "n c", "n b"]
        for wrong in set(ACTIONS) - {action}:
            strange = priced("c", name="acme/n", action=wrong)
            with pytest.raises(UnknownModel, match="acme/n"):
                resolver(asked, strange).resolve(request, asked)


def test_only_vectors_are_bound_to_a_space() -> None:
    embed, chat, rerank = requests(fallback_model="acme/n")
    asked = priced("a")
    elsewhere = dataclasses.replace(priced("b", name="acme/n"), space="elsewhere")
    with pytest.raises(UnsupportedOption, match="elsewhere"):
        resolver(asked, elsewhere).resolve(embed, asked)
    for action, request in (("chat", chat), ("rerank", rerank)):
        found = dataclasses.replace(asked, action=action, space="one")  # type: ignore[arg-type]  # one of the two
        other = dataclasses.replace(elsewhere, action=action)  # type: ignore[arg-type]  # one of the two
        assert resolved(resolver(found, other), request, found) == ["m a", "n b"]


def test_a_route_that_is_named_twice_is_tried_once() -> None:
    for action, named, again in zip(
        ACTIONS,
        requests(routing=Routing(order=("b", "a", "b", "b"))),
        requests(provider="b", fallback_model="acme/m"),
        strict=True,
    ):
        asked = priced("a", "b", action=action)
        assert resolved(resolver(asked), named, asked) == ["m b", "m a"]
        assert resolved(resolver(asked), again, asked) == ["m b", "m a"]


def test_weights_that_are_all_nothing_leave_the_order_as_it_is() -> None:
    found = weighted(a=0, b=0, c=0)
    order = RouteOrder(RouteHealths(UpstreamSettings()), "weight")
    assert [route.provider for route in order.order(found, found.routes, None)] == ["a", "b", "c"]
