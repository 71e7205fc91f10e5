"""Results of a chat completion, whole or streamed: what the provider sent, byte for byte."""

from collections.abc import AsyncGenerator

from msgspec import Struct

from embedgate.core.access import Rate
from embedgate.core.types import Timing, Usage


class ChatResult(Struct, frozen=True):
    """A complete answer. `model` is the public id of the model that served it, `provider` the route.

    `cached_tokens` are input tokens that the provider had cached and bills at a lower price.
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
    """A streamed answer. `pieces` end once it is in the ledger, and raise the GatewayError that cut it off."""

    model: str
    provider: str
    content_type: str
    pieces: AsyncGenerator[bytes, None]
    rate: Rate | None = None
