"""What is left to ask a provider: looks up what is known already, and cuts the rest into batches a route takes.

Cutting is done per route, because the next route may take other sizes. Nothing is cut more than needed.
"""

import asyncio
from collections.abc import Hashable, Sequence
from typing import Literal

from msgspec.structs import replace

from embedgate import metrics
from embedgate.core.access import Caller
from embedgate.core.errors import InvalidInput
from embedgate.core.fingerprint import fingerprint
from embedgate.core.models import Route
from embedgate.core.ports import Tokenizers, VectorCache
from embedgate.core.types import Batch, CachedVector, Call, Candidate, EmbedRequest, Input, Part
from embedgate.engine.ask import Outcome
from embedgate.engine.prepare import prefix_of, prepared
from embedgate.engine.progress import Progress
from embedgate.engine.tokens import bounds, count

CONTEXTUAL_OPTIONS = frozenset({"late_chunking"})
"""Options that make a vector depend on its neighbours: such requests are never split, joined or cached."""
Scope = Literal["project", "user", "shared"]
INPUTS_PER_TURN = 128
"""About 2 ms of looking up, or of copying vectors of 1,536 numbers; then the event loop has its turn."""


class Planner:
    """Knows the cache, and how routes are cut for."""

    def __init__(self, tokenizers: Tokenizers, cache: VectorCache | None, scope: Scope) -> None:
        """tokenizers: to decode token ids for hosts that take text only, and to weigh large requests.

        cache: None for no cache. scope: who profits from (and can time) whose texts.
        """
        self._tokenizers = tokenizers
        self._cache = cache
        self._scope = scope

    async def enter(self, call: Call[EmbedRequest], candidate: Candidate, progress: Progress) -> None:
        """Go on with a candidate: look up what the cache knows of its space, unless that has been done.

        A large request leaves the event loop to others in between.
        """
        request = call.request
        dim = upstream_dim(request.dim, candidate, self._is_kept_whole(request, candidate))
        if not progress.enter(candidate, dim or candidate.route.dims.default):
            return
        call.wasted_picodollars = sum(spend.cost_picodollars for spend in call.spends)  # vectors of another space
        if request.options:
            return
        cache = None if request.cache == "no-store" or dim is not None else self._cache
        parts = self._key_parts(call, candidate, dim)
        keys: list[bytes] = []
        hits = 0
        for start in range(0, len(request.inputs), INPUTS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            turn = [fingerprint(parts, item) for item in request.inputs[start : start + INPUTS_PER_TURN]]
            keys += turn
            for row, found in enumerate(cache.get_many(turn) if cache is not None else (), start):
                if found is not None:
                    progress.reuse(row, found.vector, found.tokens, found.is_truncated)
                    hits += 1
        progress.keys = tuple(keys)
        if cache is not None:
            metrics.looked_up(hits, len(keys) - hits)

    async def remember(
        self, call: Call[EmbedRequest], candidate: Candidate, keys: Sequence[bytes], outcome: Outcome
    ) -> None:
        """Put a checked answer into the cache, if the request allows it and the vectors are whole.

        A large answer leaves the event loop to others in between.
        """
        vectors = outcome.vectors
        if self._cache is None or vectors is None or call.request.cache == "no-store":
            return
        if vectors.shape[1] != candidate.route.dims.default or outcome.is_estimated:
            return
        cut = set(outcome.truncated)
        for start in range(0, len(keys), INPUTS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            self._cache.put_many(
                [
                    (keys[position], CachedVector(vectors[position], outcome.tokens[position], position in cut))
                    for position in range(start, min(start + INPUTS_PER_TURN, len(keys)))
                ]
            )

    def signature(self, call: Call[EmbedRequest], part: Part) -> Hashable:
        """What must be equal for the inputs of different callers to share one provider call."""
        batch = part.batch
        scope = self._owner(call.caller)
        return (scope, batch.dim, batch.input_type, batch.truncate, batch.user, tuple(sorted(batch.options.items())))

    def cut(self, request: EmbedRequest, rows: Sequence[int], candidate: Candidate) -> list[Part]:
        """Parts that cover `rows`, in order, each within the limits of the candidate's route.

        Raises InvalidInput if token ids have to be decoded for this route and cannot be.
        """
        route = candidate.route
        inputs = self._prepared(request, rows, route)
        dim = upstream_dim(request.dim, candidate, self._is_kept_whole(request, candidate))
        template = Batch(
            inputs=(),
            expected_dim=dim or route.dims.default,
            dim=dim,
            input_type=request.input_type if route.input_types else None,
            truncate=request.truncate,
            user=request.user if route.accepts_user else None,
            options=request.options,
        )
        is_whole = len(inputs) == 1 or CONTEXTUAL_OPTIONS & request.options.keys()
        ends = [len(inputs)] if is_whole else self._ends(inputs, route)
        if len(ends) == 1:
            return [Part(tuple(rows), replace(template, inputs=tuple(inputs)))]
        starts = [0, *ends[:-1]]
        return [
            Part(tuple(rows[start:end]), replace(template, inputs=tuple(inputs[start:end])))
            for start, end in zip(starts, ends, strict=True)
        ]

    def _is_kept_whole(self, request: EmbedRequest, candidate: Candidate) -> bool:
        """Whether the full-size vector is asked for, so that every smaller one can be cut from what is kept of it."""
        is_kept = self._cache is not None and request.cache != "no-store" and not request.options
        return is_kept and candidate.model.is_matryoshka and candidate.model.cuts_exactly

    def _key_parts(self, call: Call[EmbedRequest], candidate: Candidate, dim: int | None) -> tuple[str, ...]:
        """What goes into the key of each input beside itself: everything that changes its vector, and whose it is."""
        request, route = call.request, candidate.route
        is_typed = bool(route.input_types or route.query_prefix or route.document_prefix)
        return (
            self._owner(call.caller),
            candidate.model.space or candidate.model.id,
            route.precision,
            str(dim or ""),
            (request.input_type or "") if is_typed else "",
            request.truncate,
        )

    def _owner(self, caller: Caller) -> str:
        """Whose texts the caller's are: those of equal owners may be joined and found by each other."""
        if self._scope == "shared":
            return ""
        return caller.account if self._scope == "project" else caller.user_id

    def _prepared(self, request: EmbedRequest, rows: Sequence[int], route: Route) -> list[Input]:
        prefix = prefix_of(request.input_type, route)
        inputs = []
        for row in rows:
            try:
                inputs.append(prepared(request.inputs[row], prefix, route, self._tokenizers))
            except InvalidInput as error:
                raise error.at(row) from error
        return inputs

    def _ends(self, inputs: list[Input], route: Route) -> list[int]:
        """Where each batch ends: as few batches as the limits allow when inputs stay in order."""
        limits = route.limits
        max_inputs = limits.max_inputs or len(inputs)
        sizes = bounds(inputs)
        total = sum(sizes)
        max_bytes, max_tokens = limits.max_bytes or total, limits.max_tokens or total
        if len(inputs) <= max_inputs and total <= min(max_bytes, max_tokens):
            return [len(inputs)]
        tokens = count(inputs, route, self._tokenizers).each if total > max_tokens else sizes
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


def upstream_dim(dim: int | None, candidate: Candidate, is_kept_whole: bool) -> int | None:
    """The size to ask a route for; None means its native one, which is shortened afterwards if need be.

    Resolve has left out the routes where neither is sound.
    """
    route = candidate.route
    if dim is None or dim == route.dims.default or is_kept_whole:
        return None
    return dim if route.accepts_dim and dim in route.dims else None
