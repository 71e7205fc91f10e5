"""The answers to a chat completion: whole, or as a stream. What providers sent is in them byte for byte."""

from collections.abc import AsyncGenerator

from msgspec import Struct

from embedgate.core.access import Rate
from embedgate.core.types import Timing, Usage


class ChatResult(Struct, frozen=True):
    """A whole answer. `model` is the public id of the model that gave it, `provider` the route.

    `cached_tokens` are those of the input that the provider had read before, and bills for less.
    """

    model: str
    provider: str
    content_type: str
    body: bytes
    usage: Usage
    cached_tokens: int
    cost_picodollars: int
    timing: Timing
    rate: Rate | None = None


class ChatStream(Struct, frozen=True):
    """An answer that has begun. `pieces` end once it is in the ledger; they raise the GatewayError that cuts it off."""

    model: str
    provider: str
    content_type: str
    pieces: AsyncGenerator[bytes, None]
    rate: Rate | None = None
