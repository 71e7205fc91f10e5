"""Validation of embeddings requests: the model exists and embeds, sizes and counts are possible. Knows no caller."""

from embedgate.core.actions import EMBEDDING
from embedgate.core.errors import InputTooLong, InvalidDimension, InvalidInput, TooManyTokens
from embedgate.core.models import Model, Route
from embedgate.core.ports import Tokenizers
from embedgate.core.types import EmbedRequest
from embedgate.engine.ledger.tokens import bound, count_aside
from embedgate.engine.routing.find_model import ModelFinder
from embedgate.settings import LimitSettings


class EmbeddingValidator:
    """Refuses what makes no sense: cheap, by the catalogue and, for large requests, a tokenizer."""

    def __init__(self, finder: ModelFinder, limits: LimitSettings, tokenizers: Tokenizers) -> None:
        """limits: of any request. tokenizers: to measure large ones."""
        self._finder = finder
        self._limits = limits
        self._tokenizers = tokenizers

    async def validate(self, request: EmbedRequest, at_most: int, project_id: str | None = None) -> Model:
        """The model that is asked for. at_most: a bound of the tokens of the inputs. project_id: of the caller.

        Raises a RequestError that names the field, the value seen and the value allowed.
        """
        model = self._finder.find(request.model, request.provider, EMBEDDING, project_id)
        if request.dim is not None and model.dims is not None and request.dim not in model.dims:
            raise InvalidDimension(
                f"dimensions is {request.dim}; {model.id} makes vectors of {model.dims.describe()}. "
                "Leave dimensions out for its own size.",
                param="dimensions",
            )
        if len(request.inputs) > self._limits.max_inputs:
            raise InvalidInput(
                f"input has {len(request.inputs)} items; at most {self._limits.max_inputs} are allowed in one request. "
                "Send them in several requests."
            )
        # No input has more tokens than all of them together: most requests need no closer look.
        if at_most > self._limits.max_tokens or (model.max_input_tokens and at_most > model.max_input_tokens):
            await self._check_tokens(request, model, at_most)
        return model

    async def _check_tokens(self, request: EmbedRequest, model: Model, at_most: int) -> None:
        """Refuse what is surely too long. Where no exact tokenizer is here, the provider decides."""
        is_long = bool(
            model.max_input_tokens
            and at_most > model.max_input_tokens
            and request.truncate == "none"
            and max(map(bound, request.inputs)) > model.max_input_tokens
        )
        if at_most <= self._limits.max_tokens and not is_long:
            return
        route = model.routes[0]
        counted = await count_aside(request.inputs, route, self._tokenizers)
        if not counted.is_exact:
            return
        if is_long:
            _check_each(counted.each, route, can_cut=any(other.can_truncate("end") for other in model.routes))
        if counted.total > self._limits.max_tokens:
            raise TooManyTokens(
                f"The inputs have {counted.total} tokens together; at most {self._limits.max_tokens} are allowed in "
                "one request. Send them in several requests.",
                param="input",
            )


def _check_each(tokens: tuple[int, ...], route: Route, *, can_cut: bool) -> None:
    for index, n in enumerate(tokens):
        if n > route.max_input_tokens:
            raise InputTooLong.measured(index, n, route.max_input_tokens, can_cut=can_cut)
