"""What is left to ask a provider: looks up what is known already, and cuts the rest into batches a route takes.

Cutting is done per route, because the next route may take other sizes. Nothing is cut more than needed.
"""

import asyncio
from collections.abc import Hashable, Sequence
from typing import Literal

from msgspec.structs import replace

from embedgate.core.access import Caller
from embedgate.core.errors import InvalidInput
from embedgate.core.fingerprint import fingerprint
from embedgate.core.models import Route
from embedgate.core.ports import Tokenizers, VectorCache
from embedgate.core.types import Batch, CachedVector, Call, Candidate, EmbedRequest, Input, Part
from embedgate.engine.embedding.outcome import Outcome
from embedgate.engine.embedding.prepare import prefix_of, prepared
from embedgate.engine.embedding.progress import Progress
from embedgate.engine.ledger.charge import write_off
from embedgate.engine.ledger.tokens import bounds, count
from embedgate.observe import metrics

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
        """Go on with a candidate: look up what the cache knows of its vectors, unless that has been done."""
        if progress.enter(candidate, self._width(call.request, candidate)):
            write_off(call)  # those are vectors of another space
        identity = self.identity(call, candidate)
        if not call.request.options and identity != progress.identity:
            await self._look_up(call.request, candidate, identity, progress)

    def identity(self, call: Call[EmbedRequest], candidate: Candidate) -> tuple[str, ...]:
        """What makes a vector what it is beside its input, and whose it is.

        Where it is equal, a candidate's vectors may be kept under the same keys, and asked for in each other's place.
        """
        request, route = call.request, candidate.route
        is_typed = bool(route.input_types or route.query_prefix or route.document_prefix)
        return (
            self._owner(call.caller),
            candidate.model.id,
            candidate.model.space or "",
            route.precision,
            str(self._width(request, candidate)),
            (request.input_type or "") if is_typed else "",
            request.truncate,
        )

    async def _look_up(
        self, request: EmbedRequest, candidate: Candidate, identity: tuple[str, ...], progress: Progress
    ) -> None:
        """Find the keys of all inputs, and what is kept of those that have no vector yet.

        A large request leaves the event loop to others in between.
        """
        is_whole = self._upstream_dim(request, candidate) is None
        cache = self._cache if is_whole and request.cache == "store" else None
        keys: list[bytes] = []
        hits = misses = 0
        for start in range(0, len(request.inputs), INPUTS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            keys += [fingerprint(identity, item) for item in request.inputs[start : start + INPUTS_PER_TURN]]
            rows = [row for row in range(start, len(keys)) if progress.lacks(row)] if cache is not None else []
            found = cache.get_many([keys[row] for row in rows]) if cache is not None else []
            for row, kept in zip(rows, found, strict=True):
                if kept is None:
                    misses += 1
                else:
                    progress.reuse(row, kept.vector, kept.tokens, kept.is_truncated)
                    hits += 1
        progress.keys, progress.identity = tuple(keys), identity
        if cache is not None:
            metrics.looked_up(hits, misses)

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
        dim = self._upstream_dim(request, candidate)
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

    def _width(self, request: EmbedRequest, candidate: Candidate) -> int:
        """How many numbers the vectors have that a candidate is asked for."""
        return self._upstream_dim(request, candidate) or candidate.route.dims.default

    def _upstream_dim(self, request: EmbedRequest, candidate: Candidate) -> int | None:
        """The size to ask a route for; None means its native one, which is shortened afterwards if need be.

        Resolve has left out the routes where neither is sound.
        """
        dim, route = request.dim, candidate.route
        if dim is None or dim == route.dims.default or self._is_kept_whole(request, candidate):
            return None
        return dim if route.accepts_dim and dim in route.dims else None

    def _is_kept_whole(self, request: EmbedRequest, candidate: Candidate) -> bool:
        """Whether the full-size vector is asked for, so that every smaller one can be cut from what is kept of it."""
        is_kept = self._cache is not None and request.cache != "no-store" and not request.options
        return is_kept and candidate.model.is_matryoshka and candidate.model.cuts_exactly

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
