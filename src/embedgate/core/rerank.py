"""The answer to a rerank request."""

from msgspec import Struct

from embedgate.core.access import Rate
from embedgate.core.types import Timing, Usage


class RerankResult(Struct, frozen=True):
    """Documents by their position in the request, each with its score, the best first; as many as were asked for.

    `model` is the public id of the model that served it; `provider` the route. `searches` are those that the provider
    bills, None where it does not bill so. `documents` are all those of the request, where the answer shall have them.
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
