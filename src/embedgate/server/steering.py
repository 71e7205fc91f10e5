"""The field `provider` of a request, which steers it: the order of routes and the fallback. Knows no dialect."""

from typing import Literal

import msgspec

from embedgate.core.errors import MissingFields
from embedgate.core.types import Routing
from embedgate.server.dialect import SplitName
from embedgate.server.fields import Fields


class _RoutingField(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["order", "priority"]
    providers: list[str] = []
    primary_factor: Literal["latency", "price", "throughput", "weight"] | None = None


class Steering(msgspec.Struct, forbid_unknown_fields=True):
    """The field: which routes come first, and which model serves if none of them does."""

    routing: _RoutingField | None = None
    fallback: str | None = None


def steering_of(fields: Fields) -> Steering | None:
    """The field, if it is there. Raises MalformedRequest."""
    return fields.take("provider", Steering, "an object with routing or fallback")


def routing_of(steering: Steering | None) -> Routing | None:
    """The order of routes that it asks for, if any. Raises MissingFields."""
    routing = steering.routing if steering else None
    if routing is None:
        return None
    if routing.type == "order":
        if not routing.providers:
            raise MissingFields("provider.routing of type 'order' needs providers.", param="provider.routing.providers")
        return Routing(order=tuple(routing.providers))
    return Routing(by=routing.primary_factor or "price")


def asked_model(
    fields: Fields, split_name: SplitName, path_model: str | None = None
) -> tuple[str, str | None, Routing | None, str | None]:
    """The requested model and provider, order of routes, and fallback model.

    path_model: the one in the path, which counts. Raises a RequestError naming the field at fault.
    """
    named = fields.text("model")
    model, provider = split_name(path_model or named or "")
    steering = steering_of(fields)
    return model, provider, routing_of(steering), steering.fallback if steering else None
