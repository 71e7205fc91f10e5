"""Does the request make sense: the model exists and embeds, the sizes and counts are possible. Knows no caller."""

from collections.abc import Collection

from embedgate.catalog import Catalog
from embedgate.core.errors import (
    InputTooLong,
    InvalidDimension,
    InvalidInput,
    ModelNotAtProvider,
    NotAnEmbeddingModel,
    TooManyTokens,
    UnknownModel,
    UnknownProvider,
)
from embedgate.core.ports import Tokenizers
from embedgate.core.types import EmbedRequest, Model, Route
from embedgate.engine.tokens import bounds, count_aside
from embedgate.settings import LimitSettings


class Validator:
    """Refusing is cheap: it needs the catalogue and, for large requests, a tokenizer."""

    def __init__(
        self,
        catalog: Catalog,
        limits: LimitSettings,
        tokenizers: Tokenizers,
        switched_on: Collection[str],
        default_model: str,
    ) -> None:
        """switched_on: providers that can be called. default_model: named in refusals when nothing fits better."""
        self._catalog = catalog
        self._limits = limits
        self._tokenizers = tokenizers
        self._switched_on = switched_on
        self._default_model = default_model

    async def __call__(self, request: EmbedRequest) -> Model:
        """The model that is asked for.

        Raises a RequestError that names the field, the value seen and the value allowed.
        """
        model = self._embedding_model(request.model, request.provider)
        self._check_dim(request, model)
        if len(request.inputs) > self._limits.max_inputs:
            raise InvalidInput(
                f"input has {len(request.inputs)} items; at most {self._limits.max_inputs} are allowed in one request. "
                "Send them in several requests."
            )
        await self._check_tokens(request, model)
        return model

    def _embedding_model(self, name: str, provider: str | None) -> Model:
        if provider and provider not in self._catalog.providers():
            raise UnknownProvider(f"There is no provider {provider[:100]!r} here.", param="provider")
        model = self._catalog.at_provider(provider, name) if provider else self._catalog.find(name)
        if model is None and provider and self._catalog.find(name):
            raise ModelNotAtProvider(f"Model {name[:200]} is not served by {provider}.", param="model")
        if model is None:
            raise UnknownModel(self._explain_unknown(name), param="model")
        if model.action != "embedding":
            suggestion = self._suggest(model, provider)
            raise NotAnEmbeddingModel(
                f"Model {name} does not support embedding action. Use {suggestion} instead.", param="model"
            )
        return model

    def _suggest(self, model: Model, provider: str | None) -> str:
        """The cheapest embedding model near the one asked for: of the provider that was named, else one that is on."""
        wanted = {provider} if provider else set(self._switched_on)
        near = [
            (route.price.picodollars_per_token, other)
            for other in self._catalog.embedding_models()
            for route in other.routes
            if route.provider in wanted and route.price and (provider or other.author == model.author)
        ]
        if not near:
            return self._default_model
        _, cheapest = min(near, key=lambda pair: pair[0])
        return cheapest.name if provider else cheapest.id

    def _explain_unknown(self, name: str) -> str:
        ambiguous = self._catalog.ambiguous(name)
        if ambiguous:
            return f"The model name {name!r} fits several models: {', '.join(ambiguous[:5])}. Use one of these ids."
        replacement = self._catalog.retired(name)
        if replacement:
            return f"The model {name!r} was shut down by its provider. Use {replacement} instead."
        close = self._catalog.close_matches(name)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Use {self._default_model}, or see GET /v1/models."
        return f"The model {name[:200]!r} does not exist here. {hint}"

    @staticmethod
    def _check_dim(request: EmbedRequest, model: Model) -> None:
        if request.dim is None or model.dims is None or request.dim in model.dims:
            return
        raise InvalidDimension(
            f"dimensions is {request.dim}; {model.id} makes vectors of {model.dims.describe()}. "
            "Leave dimensions out for its own size.",
            param="dimensions",
        )

    async def _check_tokens(self, request: EmbedRequest, model: Model) -> None:
        """Refuse what is surely too long. Where no exact tokenizer is here, the provider decides."""
        upper = bounds(request.inputs)
        total_bound = sum(upper)
        is_long = model.max_input_tokens and max(upper) > model.max_input_tokens and request.truncate == "none"
        if total_bound <= self._limits.max_tokens and not is_long:
            return
        route = model.routes[0]
        counted = await count_aside(request.inputs, route, self._tokenizers)
        if not counted.is_exact:
            return
        if is_long:
            self._check_each(counted.each, route)
        if counted.total > self._limits.max_tokens:
            raise TooManyTokens(
                f"The inputs have {counted.total} tokens together; at most {self._limits.max_tokens} are allowed in "
                "one request. Send them in several requests.",
                param="input",
            )

    @staticmethod
    def _check_each(tokens: tuple[int, ...], route: Route) -> None:
        for index, n in enumerate(tokens):
            if n > route.max_input_tokens:
                raise InputTooLong.measured(index, n, route.max_input_tokens)
