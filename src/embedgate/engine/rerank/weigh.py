"""Weight and price of reranking, in tokens, searches and money, and the parts that a request is cut into.

Models read the query anew beside every document, so it weighs as often as there are documents. Some hosts bill the
tokens, some by the search.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from embedgate.core.models import BatchLimits, Price, Route
from embedgate.core.money import cost_picodollars
from embedgate.core.ports import Tokenizers
from embedgate.core.rerank import RerankReply, RerankRequest
from embedgate.core.types import Candidate, Weighed
from embedgate.engine.ledger.tokens import believed, bound, bounds, count_aside, guessed, ranking_bound

DOCUMENTS_PER_SEARCH = 100
"""Cohere's search: one query with so many documents."""
PAIR_TOKENS = 128
"""What a model's template may add to a query and a document: that of Qwen3-Reranker has about 90 tokens."""
_WHOLE_TOKENS = 500
"""Up to here a document, the query with it, counts as one in a search; a longer one as each of its pieces."""
_PIECE_TOKENS = 244
"""A piece has at least so many tokens of the document: 500 without the longest query that is repeated in it, 256."""


class Bill(Struct, frozen=True, gc=False):
    """Usage and cost of one call. `searches` None where nothing is billed so."""

    tokens: int
    is_estimated: bool
    searches: int | None
    cost_picodollars: int


class RerankWeigher:
    """Weighs requests before a provider is called."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        """tokenizers: of the models behind the routes."""
        self._tokenizers = tokenizers

    async def weigh(self, request: RerankRequest, candidates: Sequence[Candidate], *, matters: bool) -> list[Weighed]:
        """Each candidate with the tokens of the texts, counted if its tokenizer is here and they matter; else a bound.

        The cost is a bound in any case: it has room for what the model's template adds.
        """
        weighed = []
        for candidate in candidates:
            route = candidate.route
            tokens = await count(request, route, self._tokenizers) if matters else ranking_bound(request)
            most_tokens = tokens + len(request.documents) * PAIR_TOKENS
            parts = cut(request, route.limits) if _bills_searches(route.price) else []
            most_searches = sum(searches_of(part) for part in parts)
            weighed.append(Weighed(candidate, tokens, rerank_cost_picodollars(most_tokens, most_searches, route.price)))
        return weighed


def rerank_cost_picodollars(tokens: int, searches: int, price: Price | None) -> int:
    """The exact cost of what was used; nothing where no price is known."""
    if price is None:
        return 0
    return cost_picodollars(tokens, price.picodollars_per_token) + searches * (price.picodollars_per_search or 0)


async def bill_of(request: RerankRequest, reply: RerankReply, route: Route, tokenizers: Tokenizers) -> Bill:
    """What the answer to a call says that it used, and what we take it to be where it says nothing; and the price."""
    price = route.price
    tokens = believed(reply.tokens, ranking_bound(request), route.provider)
    searches = believed(reply.searches, searches_of(request), route.provider)
    if searches is None and _bills_searches(price):
        searches = searches_of(request)
    counted = tokens
    if counted is None:
        counted = _with_query(guessed(request.texts, await count_aside(request.texts, route, tokenizers)))
    return Bill(counted, tokens is None, searches, rerank_cost_picodollars(counted, searches or 0, price))


async def most_bill(request: RerankRequest, route: Route, tokenizers: Tokenizers) -> Bill:
    """The maximum bill of a call, as it was held: for a call whose outcome is not known."""
    price = route.price
    tokens = await count(request, route, tokenizers) + len(request.documents) * PAIR_TOKENS
    searches = searches_of(request) if _bills_searches(price) else None
    return Bill(tokens, True, searches, rerank_cost_picodollars(tokens, searches or 0, price))


async def count(request: RerankRequest, route: Route, tokenizers: Tokenizers) -> int:
    """Tokens of the texts, the query with every document; a bound where the model's tokenizer is not here."""
    return _with_query((await count_aside(request.texts, route, tokenizers)).each)


def _with_query(each: Sequence[int]) -> int:
    """The tokens of a ranking, from those of the query and of each document."""
    query, *documents = each
    return query * len(documents) + sum(documents)


def searches_of(request: RerankRequest) -> int:
    """The searches that a call is billed for, at most: a text never has more tokens than bytes."""
    query = bound(request.query)
    pieces = 0
    for document in bounds(request.documents):
        is_whole = query + document <= _WHOLE_TOKENS
        pieces += 1 if is_whole else -(-(query + document) // _PIECE_TOKENS)
    return -(-pieces // DOCUMENTS_PER_SEARCH)


def cut(request: RerankRequest, limits: BatchLimits) -> list[RerankRequest]:
    """Split the request into calls within the limits: documents in order, as many in each call as fit.

    Models score each document by itself, so parts can be put together; where one does not, its host takes more
    documents than a request may have.
    """
    sizes = bounds(request.documents)
    query_bytes = bound(request.query)
    max_documents = limits.max_inputs or len(sizes)
    max_bytes = limits.max_bytes or query_bytes + sum(sizes)
    if len(sizes) <= max_documents and query_bytes + sum(sizes) <= max_bytes:
        return [request]
    parts: list[list[str]] = []
    part_bytes = 0
    for document, size in zip(request.documents, sizes, strict=True):
        if not parts or len(parts[-1]) == max_documents or part_bytes + size > max_bytes:
            parts.append([])
            part_bytes = query_bytes
        parts[-1].append(document)
        part_bytes += size
    return [replace(request, documents=tuple(part)) for part in parts]


def _bills_searches(price: Price | None) -> bool:
    return price is not None and price.picodollars_per_search is not None
