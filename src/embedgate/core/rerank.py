"""Rerank requests, replies of providers, and results."""

from typing import ClassVar

from msgspec import Struct

from embedgate.core.access import Rate
from embedgate.core.actions import RERANK, Action
from embedgate.core.errors import InvalidInput
from embedgate.core.types import InputType, Routing, Timing, Usage


class RerankRequest(Struct, frozen=True):
    """One rerank request: order documents by relevance to a query. `top_n` None returns all of them.

    `normalizes`: scores from 0 to 1, whatever the model's scale. `max_tokens_per_document`: how much of each is read.
    """

    action: ClassVar[Action] = RERANK
    input_type: ClassVar[InputType | None] = None
    is_emergency: ClassVar[bool] = False

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    returns_documents: bool = False
    user: str | None = None
    provider: str | None = None
    routing: Routing | None = None
    fallback_model: str | None = None
    normalizes: bool = False
    max_tokens_per_document: int | None = None

    @property
    def n_items(self) -> int:
        """Number of documents."""
        return len(self.documents)

    def check_length(self, provider: str) -> None:
        """For a provider that cuts no documents: raise InvalidInput if one may exceed `max_tokens_per_document`."""
        most = self.max_tokens_per_document
        if most is None:
            return
        for index, document in enumerate(self.documents):
            if (n_bytes := len(document.encode())) > most:  # no token is shorter than a byte
                raise InvalidInput(
                    f"max_tokens_per_doc is {most}, and documents[{index}] has {n_bytes} bytes; {provider} cuts no "
                    "document. Shorten it, or leave max_tokens_per_doc out.",
                    param="max_tokens_per_doc",
                )

    @property
    def texts(self) -> tuple[str, ...]:
        """The query and the documents."""
        return (self.query, *self.documents)

    @property
    def reply_type(self) -> type["RerankReply"]:
        """What a provider's answer is read into."""
        return RerankReply


class RerankReply(Struct, frozen=True):
    """Scores of documents by their position in the request, (position, score), in any order.

    `tokens` and `searches` are what the provider bills; None for what it does not report.
    """

    scores: tuple[tuple[int, float], ...]
    tokens: int | None = None
    searches: int | None = None


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
