"""What is left to ask a provider: cuts inputs into batches that a route takes, never more than needed.

Cutting is done per route, because the next route may take other sizes. Order is kept: a part knows which rows of
the answer it fills.
"""

from collections.abc import Sequence
from dataclasses import replace

from embedgate.core.errors import InvalidInput
from embedgate.core.ports import Tokenizers
from embedgate.core.types import Batch, Candidate, EmbedRequest, Input, Part, Route
from embedgate.engine.tokens import bounds, count


class Planner:
    """Cuts requests for routes."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        """tokenizers: to decode token ids for hosts that take text only, and to weigh large requests."""
        self._tokenizers = tokenizers

    def cut(self, request: EmbedRequest, rows: Sequence[int], candidate: Candidate) -> list[Part]:
        """Parts that cover `rows`, in order, each within the limits of the candidate's route.

        Raises InvalidInput if token ids have to be decoded for this route and cannot be.
        """
        route = candidate.route
        inputs = [self._prepared(request, row, route) for row in rows]
        dim = upstream_dim(request.dim, route)
        template = Batch(
            inputs=(),
            expected_dim=dim or route.dims.default,
            dim=dim,
            input_type=request.input_type if route.input_types else None,
            truncate=request.truncate,
            user=request.user if route.accepts_user else None,
            options=request.options,
        )
        parts = []
        start = 0
        for end in self._ends(inputs, route):
            batch = replace(template, inputs=tuple(inputs[start:end]))
            parts.append(Part(tuple(rows[start:end]), batch))
            start = end
        return parts

    def _prepared(self, request: EmbedRequest, row: int, route: Route) -> Input:
        """The input as the route takes it: token ids decoded unless it reads them, the prefix of its type added."""
        item = request.inputs[row]
        prefix = {"query": route.query_prefix, "document": route.document_prefix}.get(request.input_type or "")
        if isinstance(item, str):
            return prefix + item if prefix else item
        if route.accepts_token_ids and not prefix:
            return item
        try:
            text = self._tokenizers.decoder().decode(item)
        except InvalidInput as error:
            raise error.at(row) from error
        return (prefix or "") + text

    def _ends(self, inputs: list[Input], route: Route) -> list[int]:
        """Where each batch ends: as few batches as the limits allow when inputs stay in order."""
        limits = route.limits
        max_inputs = limits.max_inputs or len(inputs)
        sizes = bounds(inputs)
        max_bytes = limits.max_bytes or sum(sizes)
        tokens: Sequence[int] = sizes
        max_tokens = limits.max_tokens or sum(sizes)
        if sum(sizes) > max_tokens:
            tokens = count(inputs, route, self._tokenizers).each
        ends = []
        n = batch_tokens = batch_bytes = 0
        for position, (size, weight) in enumerate(zip(sizes, tokens, strict=True)):
            if n and (n == max_inputs or batch_tokens + weight > max_tokens or batch_bytes + size > max_bytes):
                ends.append(position)
                n = batch_tokens = batch_bytes = 0
            n += 1
            batch_tokens += weight
            batch_bytes += size
        ends.append(len(inputs))
        return ends


def upstream_dim(dim: int | None, route: Route) -> int | None:
    """The size to ask a route for; None means its native one, which `execute` shortens if need be.

    Resolve has left out the routes where neither is sound.
    """
    if dim is None or dim == route.dims.default:
        return None
    if route.accepts_dim and dim in route.dims:
        return dim
    return None
