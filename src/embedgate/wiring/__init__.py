"""Puts the gateway together: the only package that knows every concrete class."""

from embedgate.wiring.gateway import (
    Gateway,
    open_catalog,
    open_embedder,
    open_gateway,
    open_keys,
    open_vector_cache,
    switched_on,
)

__all__ = ["Gateway", "open_catalog", "open_embedder", "open_gateway", "open_keys", "open_vector_cache", "switched_on"]
