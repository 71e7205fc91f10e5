"""Result of a rerank request."""

from msgspec import Struct

from embedgate.core.access import Rate
from embedgate.core.types import Timing, Usage


class RerankResult(Struct, frozen=True):
    """Documents by their position in the request, each with its score, the best first; as many as were asked for.

    `model` is the public id of the model that served it; `provider` the route. `searches` are those that the provider
    bills, None where it does not bill searches. `documents` are all of the request, if it wants them returned.
    """

    model: str
    provider: str
    scores: tuple[tuple[int, float], ...]
    usage: Usage
    searches: int | None
    cost_picodollars: int
    timing: Timing
    rate: Rate | None = None
    documents: tuple[str, ...] = ()
