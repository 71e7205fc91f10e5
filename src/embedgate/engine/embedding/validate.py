"""Does the request make sense: the model exists and embeds, the sizes and counts are possible. Knows no caller."""

from embedgate.core.errors import InputTooLong, InvalidDimension, InvalidInput, TooManyTokens
from embedgate.core.models import Model, Route
from embedgate.core.ports import Tokenizers
from embedgate.core.types import EmbedRequest
from embedgate.engine.ledger.tokens import bounds, count_aside
from embedgate.engine.routing.find_model import ModelFinder
from embedgate.settings import LimitSettings


class EmbeddingValidator:
    """Refusing is cheap: it needs the catalogue and, for large requests, a tokenizer."""

    def __init__(self, find: ModelFinder, limits: LimitSettings, tokenizers: Tokenizers) -> None:
        """find: the model of a name. limits: of any request. tokenizers: to measure large ones."""
        self._find = find
        self._limits = limits
        self._tokenizers = tokenizers

    async def __call__(self, request: EmbedRequest) -> Model:
        """The model that is asked for.

        Raises a RequestError that names the field, the value seen and the value allowed.
        """
        model = self._find(request.model, request.provider, "embedding")
        self._check_dim(request, model)
        if len(request.inputs) > self._limits.max_inputs:
            raise InvalidInput(
                f"input has {len(request.inputs)} items; at most {self._limits.max_inputs} are allowed in one request. "
                "Send them in several requests."
            )
        await self._check_tokens(request, model)
        return model

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
