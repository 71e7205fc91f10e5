"""Puts the gateway together: the only package that knows every concrete class."""

from embedgate.engine.routing.offer import OfferedModel, OfferedRoute, RouteCondition
from embedgate.wiring.administration import decide_as_stored
from embedgate.wiring.command_line import open_operations
from embedgate.wiring.embedder import open_embedder
from embedgate.wiring.gateway import Gateway, open_gateway
from embedgate.wiring.tokens import ModelTokens, open_tokens

__all__ = [
    "Gateway",
    "ModelTokens",
    "OfferedModel",
    "OfferedRoute",
    "RouteCondition",
    "decide_as_stored",
    "open_embedder",
    "open_gateway",
    "open_operations",
    "open_tokens",
]
