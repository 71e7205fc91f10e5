"""Results of a chat completion, whole or streamed: what the provider sent, byte for byte."""

from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar

from msgspec import Struct

from embedgate.core.access import Rate
from embedgate.core.types import Timing, Usage

EVENT_STREAM = "text/event-stream"

told_early: ContextVar[Callable[[bytes], None] | None] = ContextVar("told_early", default=None)
"""Told of a stream that its head is here, and of the comments before its first event. None where nobody wants to know.

An answer has not begun by that: until its first event, another route may be tried.
"""


def media_type(content_type: str) -> str:
    """The media type of a content type, without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


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
    """A streamed answer. `pieces` end once it is in the ledger, and raise the GatewayError that cut it off.

    `model` and `provider` are None if it was begun before a provider did: another route may still have to serve it.
    """

    model: str | None
    provider: str | None
    content_type: str
    pieces: AsyncGenerator[bytes, None]
    rate: Rate | None = None
    ready: Callable[[], bytes] = bytes
    """Takes what is here already from the pieces, so that it can go out with the head; nothing if nothing is."""
