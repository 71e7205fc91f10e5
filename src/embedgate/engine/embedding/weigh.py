"""What an embeddings request can come to on each of its routes, in tokens and money, before a provider is asked."""

from collections.abc import Sequence

from embedgate.core.errors import DependencyMissing, InvalidInput
from embedgate.core.models import Route
from embedgate.core.ports import Tokenizers
from embedgate.core.types import Candidate, EmbedRequest, Input, Weighed
from embedgate.engine.embedding.prepare import prefix_of, prepared
from embedgate.engine.ledger.tokens import bounds, count_aside


class EmbeddingWeigher:
    """Weighs with the tokenizers that the gateway has."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        """tokenizers: of the models behind the routes."""
        self._tokenizers = tokenizers

    async def __call__(self, request: EmbedRequest, candidates: Sequence[Candidate], *, matters: bool) -> list[Weighed]:
        """Each candidate with the tokens that it will bill, if its tokenizer is here and they matter; else a bound."""
        if not matters:
            at_most = sum(bounds(request.inputs))
            return [_weighed(request, candidate, at_most) for candidate in candidates]
        found: dict[tuple[str | bool, ...], int] = {}
        weighed = []
        for candidate in candidates:
            route = candidate.route
            model = route.upstream_model if route.tokenizer == "local" else ""
            alike = (route.tokenizer, model, prefix_of(request.input_type, route), route.accepts_token_ids)
            if alike not in found:
                sent = self._as_sent(request, route)
                found[alike] = (await count_aside(sent, route, self._tokenizers)).total
            weighed.append(_weighed(request, candidate, found[alike]))
        return weighed

    def _as_sent(self, request: EmbedRequest, route: Route) -> Sequence[Input]:
        prefix = prefix_of(request.input_type, route)
        try:
            return [prepared(item, prefix, route, self._tokenizers) for item in request.inputs]
        except (InvalidInput, DependencyMissing):
            return request.inputs  # they cannot be sent there, and so cost nothing: `plan` refuses if it comes to that


def _weighed(request: EmbedRequest, candidate: Candidate, tokens: int) -> Weighed:
    price = candidate.route.price
    cost = tokens * price.picodollars_per_token if price else 0
    return Weighed(candidate, tokens, cost, request.dim or candidate.route.dims.default)
