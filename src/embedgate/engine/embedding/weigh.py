"""Weight of an embeddings request on each of its routes, in tokens and money, before a provider is called."""

from collections.abc import Sequence

from embedgate.core.errors import DependencyMissing, InvalidInput
from embedgate.core.models import Route
from embedgate.core.ports import Tokenizers
from embedgate.core.types import Candidate, EmbedRequest, Input, Weighed
from embedgate.engine.embedding.prepare import prepared
from embedgate.engine.embedding.truncate import most_tokens_each
from embedgate.engine.ledger.tokens import count_aside


class EmbeddingWeigher:
    """Weighs requests by the tokenizers that the gateway has."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        """tokenizers: of the models behind the routes."""
        self._tokenizers = tokenizers

    async def weigh(
        self, request: EmbedRequest, candidates: Sequence[Candidate], at_most: int, *, matters: bool
    ) -> list[Weighed]:
        """Each candidate with the tokens that it will bill, if its tokenizer is here and they matter; else a bound.

        at_most: that bound.
        """
        found: dict[tuple[str | int | None, ...], int] = {}
        weighed = []
        for candidate in candidates:
            tokens = await self._count(request, candidate.route, found) if matters else at_most
            dim = request.dim or candidate.route.dims.default
            weighed.append(Weighed(candidate, tokens, candidate.cost_of(tokens), dim))
        return weighed

    async def _count(self, request: EmbedRequest, route: Route, found: dict[tuple[str | int | None, ...], int]) -> int:
        """The tokens of the request on a route. found: those of routes that count alike, to be added to."""
        model = route.upstream_model if route.tokenizer == "local" else ""
        most = most_tokens_each(request, route)
        alike = (route.tokenizer, model, route.prefix_of(request.input_type), route.accepts_token_ids, most)
        if alike not in found:
            counted = await count_aside(self._as_sent(request, route), route, self._tokenizers)
            found[alike] = counted.total if most is None else sum([min(tokens, most) for tokens in counted.each])
        return found[alike]

    def _as_sent(self, request: EmbedRequest, route: Route) -> Sequence[Input]:
        prefix = route.prefix_of(request.input_type)
        try:
            return [prepared(item, prefix, route, self._tokenizers) for item in request.inputs]
        except (InvalidInput, DependencyMissing):
            return request.inputs  # they cannot be sent there, and so cost nothing: `plan` refuses if it comes to that
