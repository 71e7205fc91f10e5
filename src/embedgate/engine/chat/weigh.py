"""Weight and price of a chat completion: its bound before the call, its usage after it.

Before the call there is only a bound: no token is shorter than a byte. After it the provider's count decides; where
there is none, because the answer was cut or the provider does not count, bytes are turned into tokens by rule of thumb.
"""

from collections.abc import Sequence

from embedgate.core.models import Model, Price, Route
from embedgate.core.money import cost_picodollars
from embedgate.core.ports import Tokenizers
from embedgate.core.types import Candidate, ChatRequest, ChatUsage, Weighed
from embedgate.engine.ledger.tokens import by_rule, count_aside

READ_FIELDS = ("messages", "tools", "functions", "response_format")
"""The fields of a request that a model reads."""
MEDIA_TOKENS = 1_000
"""What a picture, a sound or a file is taken to weigh where nobody has counted it."""


class ChatWeigher:
    """Weighs completions before a provider is called."""

    def __init__(self, tokenizers: Tokenizers, max_output_tokens: int) -> None:
        """max_output_tokens: of each choice, where neither the request nor the catalogue says."""
        self._tokenizers = tokenizers
        self._max_output_tokens = max_output_tokens

    async def weigh(self, request: ChatRequest, candidates: Sequence[Candidate], *, matters: bool) -> list[Weighed]:
        """Each candidate with a bound of its input tokens, what was asked for as output, and a bound of the price."""
        weighed = []
        for candidate in candidates:
            text_tokens = await self._text_tokens(request, candidate.route, matters)
            # What media weigh is known to the provider only, and can fill all that the model reads.
            most = max(text_tokens, candidate.model.max_input_tokens) if request.n_media else text_tokens
            most_output = self._most_output(request, candidate.model)
            cost = _most_picodollars(most, most_output, candidate.route.price)
            asked = request.n_choices * (request.max_output_tokens or 0)
            tokens = text_tokens + request.n_media * MEDIA_TOKENS
            weighed.append(Weighed(candidate, tokens, cost, output_tokens=asked, most_output_tokens=most_output))
        return weighed

    async def _text_tokens(self, request: ChatRequest, route: Route, matters: bool) -> int:
        if matters and not request.n_media and self._tokenizers.counter(route).is_exact:
            # JSON, so that its own signs stand for the tokens that every message has beside its text.
            read = b" ".join(request.fields[name] for name in READ_FIELDS if name in request.fields)
            return (await count_aside([read.decode()], route, self._tokenizers)).total
        return request.text_bytes

    def _most_output(self, request: ChatRequest, model: Model) -> int:
        return request.n_choices * (request.max_output_tokens or model.max_output_tokens or self._max_output_tokens)


def usage_by_rule(request: ChatRequest, output_bytes: int) -> ChatUsage:
    """What a completion is taken to have used if nobody has counted. output_bytes: what the model wrote."""
    return ChatUsage(
        input_tokens=by_rule(request.text_bytes) + request.n_media * MEDIA_TOKENS,
        output_tokens=by_rule(output_bytes),
    )


def chat_cost_picodollars(usage: ChatUsage, price: Price | None) -> int:
    """The exact cost of a completion; nothing where no price is known."""
    if price is None:
        return 0
    cached_price = price.cached_input_picodollars_per_token
    if cached_price is None:
        cached_price = price.picodollars_per_token
    cached = min(usage.cached_tokens, usage.input_tokens)
    return (
        cost_picodollars(usage.input_tokens - cached, price.picodollars_per_token)
        + cost_picodollars(cached, cached_price)
        + cost_picodollars(usage.output_tokens, price.output_picodollars_per_token or 0)
    )


def _most_picodollars(input_tokens: int, output_tokens: int, price: Price | None) -> int:
    """The bound of the cost: as if nothing was cached, or all of it, whichever is dearer."""
    return max(
        chat_cost_picodollars(ChatUsage(input_tokens, output_tokens, cached), price) for cached in (0, input_tokens)
    )
