"""Inputs as a route takes them: token ids as text unless it reads them, with the prefix of their type."""

from embedgate.core.models import Route
from embedgate.core.ports import Tokenizers
from embedgate.core.types import Input


def prepared(item: Input, prefix: str, route: Route, tokenizers: Tokenizers) -> Input:
    """One input as the route takes it.

    Raises InvalidInput, without a position, if token ids have to be decoded and cannot be; DependencyMissing if there
    is no decoder.
    """
    if isinstance(item, str):
        return prefix + item if prefix else item
    if route.accepts_token_ids and not prefix:
        return item
    return prefix + tokenizers.decoder().decode(item)
