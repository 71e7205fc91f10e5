"""Validation of embeddings requests: the model exists and embeds, sizes and counts are possible. Knows no caller."""

from embedgate.core.actions import EMBEDDING
from embedgate.core.errors import InputTooLong, InvalidDimension, InvalidInput, TooManyTokens
from embedgate.core.models import Model
from embedgate.core.ports import Tokenizers
from embedgate.core.types import EmbedRequest
from embedgate.engine.ledger.tokens import aside, bound, count_aside
from embedgate.engine.routing.find_model import ModelFinder
from embedgate.engine.routing.resolve import Resolver
from embedgate.settings import LimitSettings


class EmbeddingValidator:
    """Refuses impossible requests: cheaply, by the catalogue and, for large requests, a tokenizer."""

    def __init__(self, finder: ModelFinder, limits: LimitSettings, tokenizers: Tokenizers, resolver: Resolver) -> None:
        """limits: of any request. tokenizers: to measure large ones. resolver: to say whether a long one can be cut."""
        self._finder = finder
        self._resolver = resolver
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
            await self._check_tokens(request, model, at_most, project_id)
        return model

    async def _check_tokens(self, request: EmbedRequest, model: Model, at_most: int, project_id: str | None) -> None:
        """Refuse what is surely too long. Where no exact tokenizer is here, the provider decides."""
        longest = model.max_input_tokens
        is_long = bool(
            longest
            and at_most > longest
            and request.truncate == "none"
            and await aside(request.inputs, max, map(bound, request.inputs)) > longest
        )
        if at_most <= self._limits.max_tokens and not is_long:
            return
        route = model.routes[0]
        counted = await count_aside(request.inputs, route, self._tokenizers)
        if not counted.is_exact:
            return
        if is_long:
            for index, n in enumerate(counted.each):
                if n > route.max_input_tokens:
                    can_cut = self._resolver.can_cut(request, model, project_id)
                    raise InputTooLong.measured(index, n, route.max_input_tokens, can_cut=can_cut)
        is_cut = request.truncate != "none" and longest
        each = [min(n, longest) for n in counted.each] if is_cut else counted.each
        if sum(each) > self._limits.max_tokens:
            fits = max(each) <= self._limits.max_tokens
            raise TooManyTokens(
                f"The inputs have {sum(each)} tokens together; at most {self._limits.max_tokens} are allowed in "
                f"one request. {'Send them in several requests.' if fits else 'Split the longest into several texts.'}",
                param="input",
            )
